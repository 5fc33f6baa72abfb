"""What cameras and detectors do to a face: blur, noise, little light, JPEG, few pixels, a tilted head, a box that does not sit.

The kinds follow Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, with those added that a face detector causes.
Only the crop is at hand: where a turned or shifted face shows what was outside, the pixels at the border are repeated, and
brightness is what the pixels say, which a camera's gamma curve has already changed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fer_keras.data.images import resize
from fer_keras.errors import ConfigError

#: Photons that a white pixel of a well lit picture stands for: shot noise of 3% in white, as of a small sensor.
WHITE_PHOTONS = 1000


@dataclass(frozen=True)
class Corruption:
    """One kind.

    meaning: what a level says, with {level}. levels: the usual ones, from mild to strong. lowest, highest: what a level may be.
    apply(face uint8 (h, w, c), level, random) -> uint8 (h, w, c). whole: levels are whole numbers.
    """

    meaning: str
    levels: tuple[float, ...]
    lowest: float
    highest: float
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    whole: bool = False

    def describe(self, level: float) -> str:
        """What this level does, in words."""
        return self.meaning.format(level=f"{level:g}")


def _blur(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    sigma = level * face.shape[0]
    return _pixels(gaussian_filter(face.astype(np.float32), (sigma, sigma, 0), mode="nearest"))


def _noise(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _pixels(face + random.normal(0, level * 255, face.shape))


def _dark(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    photons = random.poisson(face.astype(np.float64) * (level * WHITE_PHOTONS / 255))
    return _pixels(photons * (255 / WHITE_PHOTONS))


def _jpeg(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(face[:, :, 0] if face.shape[2] == 1 else face).save(written, "JPEG", quality=int(level))
    return np.asarray(Image.open(written)).reshape(face.shape)


def _small(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    # Shrunk and grown as the recognizer grows a small face, which is not the same as a blur.
    side = int(level)
    return face if side >= face.shape[0] else resize(resize(face, side), face.shape[0])


def _roll(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    angle = math.radians(level) * random.choice((-1, 1))
    return _moved(face, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]), (0.0, 0.0))


def _shift(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    direction, length = random.uniform(0, 2 * math.pi), level * face.shape[0]
    return _moved(face, np.eye(2), (length * math.sin(direction), length * math.cos(direction)))


def _loose(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _moved(face, np.eye(2) * (1 + level), (0.0, 0.0))


def _tight(face: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    return _moved(face, np.eye(2) * (1 - level), (0.0, 0.0))


def _moved(face: np.ndarray, turn: np.ndarray, by_px: tuple[float, float]) -> np.ndarray:
    """The pixel at p becomes that at turn (p - centre) + centre + by_px, bilinear; p is (row, column)."""
    from scipy.ndimage import affine_transform

    centre = (np.array(face.shape[:2]) - 1) / 2
    offset = centre - turn @ centre + np.array(by_px)
    planes = [
        affine_transform(face[:, :, channel].astype(np.float32), turn, offset, order=1, mode="nearest")
        for channel in range(face.shape[2])
    ]
    return _pixels(np.stack(planes, axis=2))


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


#: Name -> kind, in the order of reports.
CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption("Gaussian blur, sigma {level} of the face's side", (0.02, 0.04), 0, 1, _blur),
    "noise": Corruption("Gaussian noise, standard deviation {level} of white", (0.05, 0.1), 0, 1, _noise),
    "dark": Corruption("{level} of the brightness, with its shot noise", (0.5, 0.25, 0.1), 0.001, 1, _dark),
    "jpeg": Corruption("JPEG of quality {level}", (50, 20, 10), 1, 95, _jpeg, whole=True),
    "small": Corruption("{level} pixels across, grown again", (36, 24), 2, 4096, _small, whole=True),
    "roll": Corruption("face tilted by {level} degrees, to either side", (10, 20), 0, 180, _roll),
    "shift": Corruption("box shifted by {level} of its side, any direction", (0.05, 0.1), 0, 1, _shift),
    "loose": Corruption("box larger by {level}", (0.1, 0.2), 0, 4, _loose),
    "tight": Corruption("box smaller by {level}", (0.1, 0.2), 0, 0.9, _tight),
}


def corrupt(faces: np.ndarray, kind: str, level: float, keys: np.ndarray, seed: int = 0) -> np.ndarray:
    """Faces after one corruption: uint8 (n, h, w, c) -> uint8 of the same shape.

    kind: one of CORRUPTIONS. keys: int (n,), by which chance is drawn, such as rows: a face with one key, seed, kind and level is
    always corrupted alike, whatever lies beside it. Raises ConfigError for an unknown kind or a level that it can't have.
    """
    corruption = check(kind, level)
    number = list(CORRUPTIONS).index(kind)
    made = [
        corruption.apply(face, level, np.random.default_rng([seed, number, int(key)]))
        for face, key in zip(faces, keys, strict=True)
    ]
    return np.stack(made) if made else np.array(faces)


def check(kind: str, level: float) -> Corruption:
    """The kind of that name. Raises ConfigError where there is none, or it can't have this level."""
    if kind not in CORRUPTIONS:
        raise ConfigError(f"unknown corruption {kind!r}; choose from {', '.join(CORRUPTIONS)}")
    corruption = CORRUPTIONS[kind]
    if not corruption.lowest <= level <= corruption.highest:
        raise ConfigError(f"{kind} takes a level from {corruption.lowest:g} to {corruption.highest:g}, got {level:g}")
    if corruption.whole and level != round(level):
        raise ConfigError(f"{kind} takes a whole number, got {level:g}")
    return corruption
