"""What visitors send, before it is believed: its kind by its first bytes, its size, and only then its pixels."""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from fer_keras.data.images import decode
from fer_keras.errors import DataError, FerError

#: Formats that pictures may have. Pillow knows more, some of which start other programs (EPS) or are seldom looked after.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
_COPY = 1 << 20


class RequestError(FerError):
    """A request that is refused. status: the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def image_format(start: bytes) -> str | None:
    """One of IMAGE_FORMATS by the first bytes of a file, whatever its name or declared type says; None for another."""
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if start.startswith(b"BM") else None


def video_suffix(start: bytes) -> str | None:
    """ ".mp4", ".webm" or ".avi" by the first bytes of a file; None for anything else.

    Anything else includes playlists, which would make the decoder open whatever files and addresses they name.
    """
    if start[4:8] == b"ftyp":
        return ".mp4"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return ".webm"
    return ".avi" if start[:4] == b"RIFF" and start[8:11] == b"AVI" else None


def decode_image(data: bytes, max_bytes: int, max_pixels: int) -> np.ndarray:
    """The pixels of an uploaded picture, upright: uint8 (h, w, 3) RGB.

    Raises RequestError: 413 where it has too many bytes or pixels (told by its header, before anything is unpacked), 415
    where it is not one of IMAGE_FORMATS, 422 where it is damaged.
    """
    from PIL import Image

    if len(data) > max_bytes:
        raise RequestError(413, f"the picture has {len(data)} bytes; expected at most {max_bytes}")
    if not data:
        raise RequestError(422, "the picture is empty; expected the bytes of an image file")
    kind = image_format(data[:16])
    if kind is None:
        raise RequestError(415, f"this is not a picture that is read here; expected {', '.join(IMAGE_FORMATS)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are refused below
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"the picture has too many pixels; expected at most {max_pixels}") from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise RequestError(422, f"the picture can't be read ({type(error).__name__}); is the file damaged?") from error
    if width * height > max_pixels:
        raise RequestError(413, f"the picture is {width}x{height}; expected at most {max_pixels} pixels")
    try:
        return decode(data, 3)
    except DataError as error:
        raise RequestError(422, str(error)) from error


def decode_base64(text: str, max_bytes: int) -> bytes:
    """The bytes that base64 text stands for; a data URL is taken too. Raises RequestError: 413 or 422."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > 4 * max_bytes // 3 + 8:
        raise RequestError(413, f"the picture has more than {max_bytes} bytes, which is the most allowed")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, f"the picture is not base64: {error}") from error


@contextmanager
def video_on_disk(stream: IO[bytes], max_bytes: int) -> Iterator[Path]:
    """An uploaded video as a file under a name of our own, deleted in the end. Raises RequestError: 413, 415 or 422."""
    start = stream.read(16)
    if not start:
        raise RequestError(422, "the video is empty; expected the bytes of a video file")
    suffix = video_suffix(start)
    if suffix is None:
        raise RequestError(415, "this is not a video that is read here; expected MP4, WebM, MKV or AVI")
    with tempfile.TemporaryDirectory(prefix="fer-keras-") as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            size = file.write(start)
            while piece := stream.read(_COPY):
                size += file.write(piece)
                if size > max_bytes:
                    raise RequestError(413, f"the video has more than {max_bytes} bytes, which is the most allowed")
        yield path


def read_video(path: Path, max_pixels: int, max_s: float, rate_hz: float) -> Iterator[tuple[float, float, np.ndarray]]:
    """Frames of a video, at most `rate_hz` of each second and none after `max_s`.

    Gives (seconds into the video, duration in seconds or 0 where unknown, uint8 (h, w, 3) RGB). Raises RequestError: 413 for
    too many pixels, 422 where no frame can be read.
    """
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not capture.isOpened() or width < 1 or height < 1:
            raise RequestError(422, "the video can't be read; is the file complete, and its codec a usual one?")
        if width * height > max_pixels:
            raise RequestError(413, f"the video is {width:.0f}x{height:.0f}; expected at most {max_pixels} pixels a frame")
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 1 <= fps <= 240 else 25.0
        duration_s = max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT)) / fps
        number, due_s = 0, 0.0
        while number / fps < max_s and capture.grab():
            time_s = number / fps
            number += 1
            if time_s + 1e-6 < due_s:
                continue
            due_s = max(due_s + 1 / rate_hz, time_s)
            found, bgr = capture.retrieve()
            if found and bgr is not None:
                yield time_s, duration_s, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        if number == 0:
            raise RequestError(422, "the video has no frame that can be read; is the file complete?")
    finally:
        capture.release()
