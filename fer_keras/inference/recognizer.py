"""From faces in a picture to calibrated probabilities, cropped exactly as the model's training faces were."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from fer_keras.data.images import crop_box, resize, to_channels
from fer_keras.detectors.checks import check_image
from fer_keras.errors import ConfigError, DataError, ModelError
from fer_keras.inference.runtimes import open_runtime
from fer_keras.models.exported import Described, read_metadata
from fer_keras.models.finding import find_model
from fer_keras.types import Detection

#: Confidence below which an answer is called uncertain, where metadata.json has no "uncertain_below". Calibrated: of the
#: answers just above it about half are right.
DEFAULT_UNCERTAIN_BELOW = 0.5

#: (x1, y1, x2, y2) in pixels, as in Detection.
Box = Sequence[float]


class Recognizer(Described):
    """An exported model (single or ensemble) at work on faces in pictures. May be used by several threads at once.

    path: its folder, or its name in ./saved_models or among the shipped ones; see `finding.find_model`.
    runtime: "auto" or one of `fer_keras.runtime.RUNTIMES`, see `runtimes.open_runtime`; what was chosen stands in the attribute
        of that name.
    uncertain_below: confidence, 0 to 1, below which an answer counts as uncertain; None: the model's own, else
        DEFAULT_UNCERTAIN_BELOW.
    Raises ModelError where there is none, the folder is no exported model or can't be loaded, ConfigError for a wrong setting.
    """

    def __init__(self, path: str | os.PathLike, *, runtime: str = "auto", uncertain_below: float | None = None) -> None:
        self.path = find_model(path)
        self.metadata = read_metadata(self.path)
        if uncertain_below is None:
            uncertain_below = self.metadata.get("uncertain_below", DEFAULT_UNCERTAIN_BELOW)
        if not isinstance(uncertain_below, (int, float)) or not 0 <= uncertain_below <= 1:
            raise ConfigError(f"uncertain_below is a confidence from 0 to 1, got {uncertain_below!r}")
        self.uncertain_below = float(uncertain_below)
        self.runtime, self._predict = open_runtime(self.path, self.metadata, runtime)

    def crops(self, image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Box]) -> np.ndarray:
        """The faces in these boxes as the model takes them: uint8 (n, size, size, channels).

        image_rgb: uint8 (h, w, 3). The same steps, functions and margin as in `training.prepare --crop`, bit by bit.
        boxes_xyxy_px: (n, 4), or n boxes in a list.
        Raises DataError for another picture, what is no list of boxes, or a box as `crop_box` refuses it.
        """
        check_image(image_rgb, "a recognizer")
        boxes = _boxes(boxes_xyxy_px)
        size, channels, margin = self.image_size, self.channels, self.crop_margin
        faces = np.empty((len(boxes), size, size, channels), np.uint8)
        for face, box in zip(faces, boxes, strict=True):
            face[:] = resize(to_channels(crop_box(image_rgb, box, margin), channels), size)
        return faces

    def predict(self, faces: np.ndarray) -> np.ndarray:
        """Calibrated probabilities: float32 (n, classes), rows sum to 1.

        faces: uint8 (n, size, size, channels), from `crops`, of one picture or of several.
        Raises ModelError for another shape or dtype.
        """
        expected = (self.image_size, self.image_size, self.channels)
        if not isinstance(faces, np.ndarray) or faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != expected:
            got = f"{faces.dtype} {faces.shape}" if isinstance(faces, np.ndarray) else type(faces).__name__
            raise ModelError(f"model {self.name} takes uint8 faces of shape (n, {', '.join(map(str, expected))}), got {got}")
        if not len(faces):
            return np.empty((0, len(self.labels)), np.float32)
        return _calibrated(self._predict(faces), self.temperature)

    def recognize(self, image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Box]) -> np.ndarray:
        """Calibrated probabilities of the faces in these boxes, float32 (n, classes), by one call of the model."""
        return self.predict(self.crops(image_rgb, boxes_xyxy_px))

    def recognize_many(self, images_rgb: Sequence[np.ndarray], boxes_xyxy_px: Sequence[Sequence[Box]]) -> list[np.ndarray]:
        """As `recognize` for pictures of several streams, all their faces in one call of the model."""
        if len(images_rgb) != len(boxes_xyxy_px):
            raise DataError(f"each picture needs its boxes, got {len(images_rgb)} pictures and boxes of {len(boxes_xyxy_px)}")
        if not images_rgb:
            return []
        faces = [self.crops(image, boxes) for image, boxes in zip(images_rgb, boxes_xyxy_px, strict=True)]
        ends = np.cumsum([len(each) for each in faces])
        return np.split(self.predict(np.concatenate(faces)), ends[:-1])


def _boxes(given: Sequence[Box]) -> list[tuple[float, ...]]:
    """The boxes as tuples of four floats. Raises DataError where they are none, such as a single box, or detections."""
    expected = "expected a list of boxes (x1, y1, x2, y2)"
    try:
        given = list(given)
    except TypeError:
        raise DataError(f"{expected}, got {given!r}") from None
    boxes = []
    for box in given:
        if isinstance(box, Detection):
            raise DataError(f"{expected}, got a Detection; give its box_xyxy_px")
        try:
            x1, y1, x2, y2 = map(float, box)
        except (TypeError, ValueError):
            shown = " ".join(repr(box).split())[:200]  # arrays are shown in several lines
            raise DataError(f"{expected}, got {shown} as one of them") from None
        boxes.append((x1, y1, x2, y2))
    return boxes


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logarithms divided by the temperature (Guo et al. 2017): float32, rows sum to 1."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
