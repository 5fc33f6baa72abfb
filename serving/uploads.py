"""What visitors send, before it is believed: its kind by its first bytes, its size, and only then its pixels."""

from __future__ import annotations

import base64
import binascii
import io
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fer_keras.data.images import decode
from fer_keras.errors import DataError, FerError
from serving import decoder

#: Formats that pictures may have. Pillow knows more, some of which start other programs (EPS) or are seldom looked after.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
_COPY = 1 << 20
#: How long a decoder whose answer has ended may take to be gone.
_LAST_WORDS_S = 1.0

log = logging.getLogger("fer_keras.serving")


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
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    text = "".join(text.split())  # as `base64` prints it, in lines
    if len(text) > 4 * max_bytes // 3 + 8:
        raise RequestError(413, f"the picture has more than {max_bytes} bytes, which is the most allowed")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, f"the picture is not base64: {error}") from error


@contextmanager
def video_on_disk(stream: IO[bytes], max_bytes: int) -> Iterator[Path]:
    """An uploaded video as a file under a name of our own, deleted in the end. Raises RequestError: 413, 415 or 422.

    Where the system can do so (Linux), it is gone with this process too, however that ends: on the disk it has no name, and
    the path is but a link to this process's open file.
    """
    start = stream.read(16)
    if not start:
        raise RequestError(422, "the video is empty; expected the bytes of a video file")
    suffix = video_suffix(start)
    if suffix is None:
        raise RequestError(415, "this is not a video that is read here; expected MP4, MOV, WebM, MKV or AVI")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fer-keras-"))
        path = Path(folder) / f"upload{suffix}"
        if open_files := _open_files():
            file = stack.enter_context(tempfile.TemporaryFile())
            path.symlink_to(open_files / str(file.fileno()))
        else:
            file = stack.enter_context(path.open("wb"))
        size = file.write(start)
        while piece := stream.read(_COPY):
            size += file.write(piece)
            if size > max_bytes:
                raise RequestError(413, f"the video has more than {max_bytes} bytes, which is the most allowed")
        file.flush()
        yield path


def _open_files() -> Path | None:
    """The folder where programs started by this process find the files that it has open; None where there is none for them."""
    folder = Path(f"/proc/{os.getpid()}/fd")
    try:
        # That of a process which has changed its user, as gunicorn can, belongs to root.
        return folder if folder.stat().st_uid == os.geteuid() else None
    except OSError:  # not Linux
        return None


#: Seconds into the video, when it ends in seconds or None where unknown, uint8 (h, w, 3) RGB.
VideoFrame = tuple[float, float | None, np.ndarray]


@dataclass(frozen=True)
class VideoEnd:
    """How the reading of a video ended. truncated: it goes on after what was read. missing: what is lost of a damaged one.

    Of one that goes on, `missing` is about what was read alone.
    """

    truncated: bool
    missing: str | None


def read_video(path: Path, max_pixels: int, max_s: float, rate_hz: float) -> Generator[VideoFrame, None, VideoEnd]:
    """Frames of a video, at most `rate_hz` of each second and none after `max_s`; decoded by a process of their own.

    Returns how it ended. Raises RequestError: 413 for too many pixels, 422 where no frame can be read or the decoder died of
    one, 500 where it could not begin.
    """
    command = [sys.executable, "-m", "serving.decoder", str(path), str(max_pixels), str(max_s), str(rate_hz)]
    # Nothing of the command comes from a request.
    process = subprocess.Popen(  # noqa: S603
        command, env=decoder.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            return (yield from _believed(process.stdout, max_pixels, max_s))
        except _BrokenVideoError as error:
            try:
                code = process.wait(_LAST_WORDS_S)
            except subprocess.TimeoutExpired:  # it lives, and sends what can't be
                process.kill()
                code = process.wait()
            log.warning("the decoder of a video ended with code %s: %s", code, process.stderr.read(2000).decode(errors="replace"))
            if code > 0 and not error.begun:  # an error of Python's, and neither a crash nor a limit
                raise RequestError(500, "the decoder of videos could not be started; the server's log says why") from None
            raise RequestError(422, "the video can't be read to its end; is the file damaged?") from None
        finally:
            process.kill()


class _BrokenVideoError(Exception):
    """The decoder died, or says what can't be. begun: whether it said anything that can."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


def _believed(stream: IO[bytes], max_pixels: int, max_s: float) -> Generator[VideoFrame, None, VideoEnd]:
    """What the decoder sends, as far as it can be so: a file that took it over must not get further than to send pictures."""
    latest_s = -1.0
    while message := decoder.read_message(stream):
        if message.get("end") is True:
            missing = message.get("missing")
            return VideoEnd(message.get("truncated") is True, str(missing)[:200] if missing else None)
        if message.get("status") in (413, 422):
            raise RequestError(message["status"], str(message.get("message"))[:200])
        try:
            height, width = (int(side) for side in message["size_hw"])
            time_s, told = float(message["time_s"]), message["duration_s"]
            duration_s = None if told is None else float(told)
        except (KeyError, TypeError, ValueError, OverflowError):
            break
        if not (min(height, width) >= 1 and height * width <= max_pixels and latest_s < time_s <= max_s):
            break
        if duration_s is not None and not 0 < duration_s < float("inf"):
            break
        pixels = stream.read(height * width * 3)
        if len(pixels) < height * width * 3:
            break
        latest_s = time_s
        yield time_s, duration_s, np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    raise _BrokenVideoError(begun=latest_s >= 0)
