"""Where the faces are in a photograph: OpenCV's Haar cascade (quick, frontal faces) and MTCNN (turned faces, landmarks)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fer_keras.errors import ConfigError, DataError, FerError
from fer_keras.types import Detection

#: Smallest face that each detector looks for by default, in pixels.
DEFAULT_MIN_FACE_PX = {"haar": 24, "mtcnn": 20}
DETECTORS = tuple(DEFAULT_MIN_FACE_PX)


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first; an empty list where there is none."""
        ...


def create_detector(name: str, min_face_px: int | None = None) -> Detector:
    """A detector by name: "haar" or "mtcnn".

    min_face_px: smaller faces are not looked for, larger is quicker; None: the detector's default.
    Raises ConfigError for another name, and FerError where its library can't be used, saying what to install.
    """
    if name not in DETECTORS:
        raise ConfigError(f"unknown detector {name!r}; choose from {', '.join(DETECTORS)}")
    smallest = DEFAULT_MIN_FACE_PX[name] if min_face_px is None else min_face_px
    if smallest < 10:
        raise ConfigError(f"the smallest face is 10 pixels or more, got {smallest}")
    return HaarDetector(smallest) if name == "haar" else MtcnnDetector(smallest)


class HaarDetector:
    """OpenCV's frontal face cascade. Deterministic; its score is how much overlapping windows agree (higher is surer)."""

    def __init__(self, min_face_px: int = DEFAULT_MIN_FACE_PX["haar"]) -> None:
        cv2 = _import_cv2()
        if not hasattr(cv2, "CascadeClassifier"):
            raise FerError(f"OpenCV {cv2.__version__} has no CascadeClassifier; pip install 'opencv-python<5', or use mtcnn")
        path = f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(path)
        if self._cascade.empty():
            raise FerError(f"{path} can't be read; pip install --force-reinstall 'opencv-python<5', or use mtcnn")
        self.min_face_px = min_face_px

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first."""
        import cv2

        _check(image_rgb)
        grey = cv2.equalizeHist(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY))
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(self.min_face_px, self.min_face_px), outputRejectLevels=True
        )
        found = [
            Detection((float(x), float(y), float(x + w), float(y + h)), float(weight))
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights), strict=True)
        ]
        return sorted(found, key=lambda each: -each.score)


class MtcnnDetector:
    """MTCNN (Zhang et al. 2016) by the `mtcnn` package, which carries its weights. The score is a probability."""

    def __init__(self, min_face_px: int = DEFAULT_MIN_FACE_PX["mtcnn"]) -> None:
        try:
            from mtcnn import MTCNN
        except ImportError as error:
            raise FerError(f"mtcnn can't be imported ({error}); pip install mtcnn lz4, or use haar") from error
        self._network = MTCNN()
        self.min_face_px = min_face_px

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first, each with its five landmarks."""
        from PIL import Image

        _check(image_rgb)
        if min(image_rgb.shape[:2]) <= self.min_face_px:
            return []
        # The package counts the levels of its pyramid as if the smallest face were always its default, and fails on the
        # empty levels that a larger one leaves. So the picture is resized to where the smallest face has the default size.
        height, width = image_rgb.shape[:2]
        scale = DEFAULT_MIN_FACE_PX["mtcnn"] / self.min_face_px
        size = (round(width * scale), round(height * scale))
        small = np.asarray(Image.fromarray(image_rgb).resize(size, Image.Resampling.BILINEAR))
        x_scale, y_scale = width / small.shape[1], height / small.shape[0]
        found = []
        for face in self._network.detect_faces(small, box_format="xyxy") or []:
            x1, y1, x2, y2 = (float(edge) for edge in face["box"])
            points = [face["keypoints"][name] for name in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")]
            found.append(
                Detection(
                    (x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale),
                    float(face["confidence"]),
                    tuple((float(x) * x_scale, float(y) * y_scale) for x, y in points),
                )
            )
        found = [each for each in found if _longer_side(each) >= self.min_face_px]
        return sorted(found, key=lambda each: -each.score)


def _longer_side(face: Detection) -> float:
    x1, y1, x2, y2 = face.box_xyxy_px
    return max(x2 - x1, y2 - y1)


def _import_cv2() -> object:
    try:
        import cv2
    except ImportError as error:
        raise FerError(
            f"OpenCV can't be imported ({' '.join(str(error).split())}); pip install 'opencv-python<5', and on a bare Linux "
            "apt-get install libgl1 libglib2.0-0"
        ) from error
    return cv2


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"a detector takes uint8 (h, w, 3) RGB, got {image.dtype} {image.shape}")
