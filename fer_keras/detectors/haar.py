"""OpenCV's Haar cascade for frontal faces."""

from __future__ import annotations

import threading

import numpy as np

from fer_keras.detectors.checks import check_image, check_min_face_px
from fer_keras.errors import FerError
from fer_keras.types import Detection


class HaarDetector:
    """OpenCV's frontal face cascade. Deterministic; its score is how much overlapping windows agree (higher is surer).

    min_face_px: side of the smallest face that is looked for. Raises ConfigError where it is no whole number of 10 or more, and
    FerError where OpenCV can't be used, saying what to install.
    """

    def __init__(self, min_face_px: int = 24) -> None:
        check_min_face_px(min_face_px)
        cv2 = _import_cv2()
        if not hasattr(cv2, "CascadeClassifier"):
            raise FerError(f"OpenCV {cv2.__version__} has no CascadeClassifier; pip install 'opencv-python<5', or use mtcnn")
        path = f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(path)
        if self._cascade.empty():
            raise FerError(f"{path} can't be read; pip install --force-reinstall 'opencv-python<5', or use mtcnn")
        self._one_at_a_time = threading.Lock()  # a cascade keeps the picture at work in itself
        self.min_face_px = int(min_face_px)

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first; of a picture without a pixel none. Raises DataError for another picture."""
        import cv2

        check_image(image_rgb)
        if not image_rgb.size:
            return []
        grey = cv2.equalizeHist(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY))
        with self._one_at_a_time:
            boxes, _, weights = self._cascade.detectMultiScale3(
                grey, scaleFactor=1.1, minNeighbors=5, minSize=(self.min_face_px, self.min_face_px), outputRejectLevels=True
            )
        found = [
            Detection((float(x), float(y), float(x + w), float(y + h)), float(weight))
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights), strict=True)
        ]
        return sorted(found, key=lambda each: -each.score)


def _import_cv2() -> object:
    try:
        import cv2
    except ImportError as error:
        raise FerError(
            f"OpenCV can't be imported ({' '.join(str(error).split())}); pip install 'opencv-python<5', and on a bare Linux "
            "apt-get install libgl1 libglib2.0-0"
        ) from error
    return cv2
