"""What every detector asks of its settings and its input."""

from __future__ import annotations

import numpy as np

from fer_keras.errors import ConfigError, DataError

#: Of smaller faces no detector finds enough to be of use.
SMALLEST_FACE_PX = 10


def check_min_face_px(pixels: int) -> None:
    """Raises ConfigError where the smallest face to look for is no whole number of pixels, or less than SMALLEST_FACE_PX."""
    if not isinstance(pixels, (int, np.integer)):
        raise ConfigError(f"the smallest face is a whole number of pixels, got {pixels!r}")
    if pixels < SMALLEST_FACE_PX:
        raise ConfigError(f"the smallest face is {SMALLEST_FACE_PX} pixels or more, got {pixels}")


def check_image(image: np.ndarray, who: str = "a detector") -> None:
    """Raises DataError where a picture is not uint8 (h, w, 3). who: what takes it."""
    if not isinstance(image, np.ndarray):
        raise DataError(f"{who} takes uint8 (h, w, 3) RGB, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{who} takes uint8 (h, w, 3) RGB, got {image.dtype} {image.shape}")
