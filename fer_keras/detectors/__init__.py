"""Where the faces are in a photograph: OpenCV's Haar cascade (quick, frontal faces) and MTCNN (turned faces, landmarks)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fer_keras.detectors.haar import HaarDetector
from fer_keras.detectors.mtcnn import MtcnnDetector
from fer_keras.errors import ConfigError
from fer_keras.types import Detection

__all__ = ["DEFAULT_MIN_FACE_PX", "DETECTORS", "Detector", "HaarDetector", "MtcnnDetector", "create_detector"]

#: Smallest face that each detector looks for by default, in pixels.
DEFAULT_MIN_FACE_PX = {"haar": 24, "mtcnn": 20}
DETECTORS = tuple(DEFAULT_MIN_FACE_PX)


class Detector(Protocol):
    """Finds faces. May be called by several threads at once.

    MtcnnDetector also has `refine`, which looks again at known faces for a small part of the price.
    """

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first; an empty list where there is none."""
        ...


def create_detector(name: str, min_face_px: int | None = None, runtime: str = "auto") -> Detector:
    """A detector by name: "haar" or "mtcnn".

    min_face_px: smaller faces are not looked for, larger is quicker; None: the detector's default.
    runtime: what runs MTCNN's networks: "auto" (OpenVINO where installed), "openvino" or "tensorflow". Always in float32,
        with "openvino-bf16" too, so that the boxes stay the package's.
    Raises ConfigError for another name, or a smallest face that is no whole number of 10 pixels or more, and FerError where its
    library can't be used, saying what to install.
    """
    if name not in DETECTORS:
        raise ConfigError(f"unknown detector {name!r}; choose from {', '.join(DETECTORS)}")
    smallest = DEFAULT_MIN_FACE_PX[name] if min_face_px is None else min_face_px
    return HaarDetector(smallest) if name == "haar" else MtcnnDetector(smallest, runtime)
