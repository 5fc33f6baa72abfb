"""From a file to uint8 pixels: decode, crop, resize, grey or RGB. Pillow only: it needs no system library."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fer_keras.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

#: What a picture file of a data set is called. Other files are skipped and counted. Not all that Pillow opens: some formats
#: would run other programs (EPS), or are no photographs. One that an older Pillow can't open (AVIF) is told as unreadable.
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip

#: Formats whose 16-bit pictures Pillow hands over in the whole range, however many bits the file has.
_FULL_RANGE = ("JPEG2000", "PNG", "PPM")
#: Bits that whole numbers are stored in, or were measured with and then put into a file of more.
_DEPTHS = (8, 10, 12, 14, 16, 24, 32)

#: What Pillow's decoders raise on damaged files: that of AVIF a RuntimeError.
_RAISED_ON_DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError, RuntimeError, MemoryError,
)  # fmt: skip

#: More pixels than any camera takes are an attack or an accident, and would fill the memory.
MAX_PIXELS = 120_000_000

# Of odd metadata and of large pictures, both handled here. Once and for Pillow alone: `warnings.catch_warnings` around each
# picture is not safe in threads, and could leave all warnings of the process switched off.
warnings.filterwarnings("ignore", module=r"PIL\.")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def decode(source: str | os.PathLike | bytes, channels: int) -> np.ndarray:
    """Read a picture, turned upright by its EXIF orientation.

    source: a path, or the bytes of a file. channels: 1 for grey (ITU-R 601 luma), 3 for RGB. Returns uint8 (h, w, channels).
    16-bit and float pictures are scaled to 8 bits (see `_eight_bits`), transparency is ignored, of an animation the first
    frame is taken.
    Raises DataError where the file is missing, no file, not a picture, truncated, or larger than MAX_PIXELS.
    """
    from PIL import Image

    _check_channels(channels)
    name = "the picture" if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and is_pipe_or_device(source):
        raise DataError(f"{name} is a pipe or a device, not a file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{name} is too large: {width}x{height}; expected at most {MAX_PIXELS // 10**6} megapixels")
            image.load()
            upright = _upright(image)
            if upright.mode.startswith(("I", "F")):
                upright = _eight_bits(upright, _stated_maximum(image))
            return _array(upright.convert("L" if channels == 1 else "RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: expected at most {MAX_PIXELS // 10**6} megapixels") from error
    except _RAISED_ON_DAMAGE as error:
        raise DataError(f"{name} can't be read as a picture: {' '.join(str(error).split()) or type(error).__name__}") from error


def is_pipe_or_device(path: str | os.PathLike) -> bool:
    """Whether a path is there and neither a file nor a folder: who opens a pipe may wait for ever for its writer.

    What a shell has opened for the command, by `<(...)` or at /dev/stdin, is written already, so it is read as a file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # not there, no right to know, or no name; to open it tells
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and not re.match("/dev/(fd/|stdin$)", os.path.abspath(path))


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; not at all where that can't be read.

    PIL.ImageOps.exif_transpose writes the metadata anew as well, and fails where any entry of it is odd.
    """
    from PIL import ExifTags, Image

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the readers of metadata raise many kinds; the pixels are none the worse for it
        return image
    turns = (
        Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    )  # fmt: skip
    turn = dict(enumerate(turns, start=2)).get(orientation)
    return image if turn is None else image.transpose(turn)


def resize(face: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h, w, c) -> uint8 (size, size, c). The same array where it has that size already.

    Shrinking averages the area of each target pixel (no aliasing), growing is bicubic.
    """
    from PIL import Image

    height, width = face.shape[:2]
    if (height, width) == (size, size):
        return face
    image = Image.fromarray(face[:, :, 0] if face.shape[2] == 1 else face)
    shrinks = size <= height and size <= width
    return _array(image.resize((size, size), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC))


def to_channels(face: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (h, w, 1 or 3) -> uint8 (h, w, channels): RGB to grey by ITU-R 601 luma, grey to RGB by repeating."""
    from PIL import Image

    _check_channels(channels)
    if face.shape[2] == channels:
        return face
    if channels == 1:
        return _array(Image.fromarray(face).convert("L"))
    return np.repeat(face, channels, axis=2)


def crop_box(image: np.ndarray, box_xyxy_px: tuple[float, float, float, float], margin: float = 0.0) -> np.ndarray:
    """Cut a square around a box, with a margin, out of a picture.

    image: uint8 (h, w, c). margin: what is added on each side, as a part of the box's longer side. The square keeps the
    face's proportions when it is resized; where it reaches outside, the border pixels are repeated. uint8 (s, s, c).
    Raises DataError for a box without area, one wholly outside the picture, or one far larger than any face in it.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box_xyxy_px
    if not (x2 > x1 and y2 > y1) or x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise DataError(f"box {box_xyxy_px} has no area inside a picture of {width}x{height} pixels; expected (x1, y1, x2, y2)")
    longer = max(x2 - x1, y2 - y1)
    # The crop has as many pixels as its side says, however small the picture is, and would fill the memory.
    if longer > max(MAX_PIXELS, 4 * width * height) ** 0.5:
        raise DataError(f"box {box_xyxy_px} is too large for a face in a picture of {width}x{height} pixels")
    side = max(1, round(longer * (1 + 2 * margin)))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    return image[rows[:, None], columns[None, :]]


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int | None = None) -> Iterator[_Result]:
    """`map(function, items)` on threads, in order, with a few results ahead and never more: memory stays constant."""
    workers = workers or min(8, os.cpu_count() or 1)
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _array(image: object) -> np.ndarray:
    pixels = np.array(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _stated_maximum(image: Image.Image) -> int:
    """The largest value that a picture of more than 8 bits has by its format or tags; 0 where they do not tell.

    A TIFF of 16 bits does not: cameras and microscopes write 10, 12 or 14 bits into it, and few name their largest value.
    """
    from PIL import ExifTags

    if image.mode == "F":
        return 0
    if image.format in _FULL_RANGE:
        return 65535
    tags = (ExifTags.Base.BitsPerSample, ExifTags.Base.MaxSampleValue)
    try:
        bits, largest = (int(np.ravel(image.tag_v2.get(tag, 0))[0]) for tag in tags)
        return 2**bits - 1 if bits < 16 else min(largest, 2**bits - 1)
    except Exception:  # no TIFF, or one whose tags are odd, which raise many kinds; the pixels are none the worse for it
        return 0


def _eight_bits(image: Image.Image, stated: int) -> Image.Image:
    """A picture of mode I or F in 8 bits. stated: the largest value that it has by what its file says, 0 where that is silent.

    Floats from 0 to 1 are that part of white. Else white is the largest value of the fewest bits of _DEPTHS that hold every
    value and the stated one: a TIFF with values up to 4000 is one of 12 bits, and one up to 255 has 8 bits already.
    """
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float32), posinf=np.inf, neginf=-np.inf)
    top = float(np.max(values, initial=0, where=np.isfinite(values)))
    largest = max(top, stated)
    if image.mode == "F" and top <= 1 and values.min(initial=0) >= 0:
        white = 1.0
    else:
        white = next((2.0**bits - 1 for bits in _DEPTHS if largest < 2.0**bits), largest)
    return Image.fromarray(np.clip(np.rint(values * np.float32(255 / white)), 0, 255).astype(np.uint8))


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ConfigError(f"channels is 1 (grey) or 3 (RGB), got {channels}")
