"""What every detector asks of its input."""

from __future__ import annotations

import numpy as np

from fer_keras.errors import DataError


def check_image(image: np.ndarray) -> None:
    """Raises DataError where a picture is not uint8 (h, w, 3)."""
    if not isinstance(image, np.ndarray):
        raise DataError(f"a detector takes uint8 (h, w, 3) RGB, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"a detector takes uint8 (h, w, 3) RGB, got {image.dtype} {image.shape}")
