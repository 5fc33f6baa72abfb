"""Decodes a visitor's video in a process of its own: FFmpeg is large, and a file made to break it breaks nothing else.

python -m serving.decoder VIDEO MAX_PIXELS MAX_S RATE_HZ

writes messages to standard output, each a length (4 bytes, little-endian), so many bytes of JSON, and for a frame its pixels,
uint8 RGB. The process can't put anything into files and has limits on memory and time, and knows no secret of the server; that
contains accidents and is no sandbox. `uploads.read_video` starts it, reads them, and believes none of them unseen.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import struct
import sys
from pathlib import Path
from typing import IO, Any

from serving import containers

#: Address space that it may take. OpenCV itself takes about one GiB, a frame of 25 million pixels under half of one.
MEMORY_BYTES = 4 * 1024**3
#: Threads take address space each, so there must not be one a core on a machine of many.
THREADS = 2
#: Variables that keep OpenCV and FFmpeg from writing a line for each damaged block.
QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
#: A frame that takes longer ends the process.
FRAME_S = 20
#: Frame rate of a film that tells none, or one above the most that is believed.
USUAL_FPS = 25.0
MOST_FPS = 240.0
#: Seconds of the processor for each second of video that may be read, at least _LEAST_CPU_S in all.
_CPU_PER_S = 5
_LEAST_CPU_S = 60
_LENGTH = struct.Struct("<I")
_LONGEST = 10_000
#: Formats whose pictures may begin after the sound does, which players wait for. In others the first time means nothing.
_LATE_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm")
#: Of these, those whose length is that of the whole film, and not that of the picture.
_WHOLE_LENGTH_SUFFIXES = (".mkv", ".webm")
#: A picture that begins later has the clock of a stream that it was cut out of.
_LATEST_START_S = 60.0
#: So many frames in a row that can't be read are the end of a film, which OpenCV does not tell from damage. Trying so often
#: takes hundredths of a second at the end of a film.
_MOST_DAMAGED = 10_000
#: Formats of broadcasts, discs and camcorders, whose clock may start anew wherever recordings were joined.
_JOINED_SUFFIXES = (".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob")
#: A step in the times of a film beyond this is no picture that stood so long but a join, of these and of other formats. FFmpeg's
#: own player has 10 s and an hour; two minutes leave a time lapse with a frame a minute its times.
_JOIN_S, _RARE_JOIN_S = 120.0, 3600.0
#: A film of rare frames may have steps of so many times its usual one.
_JOIN_STEPS = 4
#: What FFmpeg calls pixels of three bytes that are stored as they are, and so much of an AVI has its head.
_BGR24, _AVI_HEAD = int.from_bytes(b"BGR\x18", "little"), 2**16
#: How many times wider than high, or higher than wide, a pixel is at most believed to be, and is at least for it to be seen.
_ODDEST_PIXEL, _ODD_PIXEL = 4.0, 1.01


def pixel_aspect(capture: Any) -> float:
    """How wide a pixel of a film is meant to be shown, by its height: 1 for most, as for what can't be believed.

    Old cameras, DVDs and some screens' recorders store pictures squeezed.
    """
    import cv2

    wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    aspect = wide / high if wide > 0 and high > 0 else 1.0
    if not _ODD_PIXEL <= max(aspect, 1 / aspect) <= _ODDEST_PIXEL:
        return 1.0
    # OpenCV turns the picture upright and leaves this as it was.
    return 1 / aspect if capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90 else aspect


def shown_size(width: float, height: float, aspect: float) -> tuple[int, int]:
    """The width and height with which a picture of such pixels is shown; neither gets smaller, as in browsers."""
    return round(width * max(1.0, aspect)), round(height * max(1.0, 1 / aspect))


def with_square_pixels(image: Any, aspect: float) -> Any:
    """uint8 (h, w, c) as it is meant to be shown; the same array where its pixels are square already."""
    if aspect == 1:
        return image
    import cv2

    return cv2.resize(image, shown_size(image.shape[1], image.shape[0], aspect), interpolation=cv2.INTER_LINEAR)


def unreadable(capture: Any, path: str | os.PathLike) -> str | None:
    """Why the frames of a film must not be asked for though it could be opened; None where they may.

    OpenCV 4.14 writes beyond its memory, and dies at the next occasion, where an AVI has rows of 24 bits a pixel from below.
    """
    import cv2

    if capture.get(cv2.CAP_PROP_FOURCC) or int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) != _BGR24:
        return None
    try:
        with Path(path).open("rb") as file:
            head = file.read(_AVI_HEAD)
        at = head.index(b"strf", head.index(b"vids")) + 8
        height, _, bits = struct.unpack_from("<iHH", head, at + 8)
    except (OSError, ValueError, struct.error):
        return None
    if not head.startswith(b"RIFF") or height < 0 or bits != 24:
        return None
    return (
        "is stored without compression from its lowest row up, which OpenCV can't read; convert it, say by ffmpeg -i OLD NEW.mp4"
    )


class FilmClock:
    """Steps through the frames of a film, and knows when they are due and whether all of them came. Made before the first.

    A telephone, a browser and a recorder of screens space frames unevenly, so the times are the file's own, as a player has
    them: where the picture begins after the sound, the first frame is not at 0. Where they leap further than a picture stands,
    forward or back, recordings were joined, or one was broken off: time goes on by one frame there, and counts on from that.

    step_s: seconds from one frame to the next, on average, as the file says. expected: how many frames it says it has, for
    some formats reckoned from its length; 0 where unknown. duration_s: its length as it says, 0 where unknown. read: how many
    came until now. damaged: how many that can't be read were passed over between them. time_s: the time of the last that came.
    start_s: that of the first.
    """

    def __init__(self, capture: Any, path: str | os.PathLike) -> None:
        import cv2

        self._capture, self._path = capture, Path(path)
        fps = capture.get(cv2.CAP_PROP_FPS)
        told = 0 < fps < float("inf")
        self.expected = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.duration_s = self.expected / fps if told else 0.0
        # A format without a rate of its own tells that of its clock, such as 1000.
        self.step_s = 1 / fps if told and fps <= MOST_FPS else 1 / USUAL_FPS
        self.read, self.damaged, self.time_s, self.start_s = 0, 0, -1.0, 0.0
        self._longest_s = _JOIN_S if self._path.suffix.lower() in _JOINED_SUFFIXES else _RARE_JOIN_S
        self._leaps, self._leapt_s = 0, 0.0  # how often the film's own times leap, and how far in all
        self._first_leap = (0.0, 0.0)  # time of the frame behind it, seconds
        self._late_hz = fps if told and self._path.suffix.lower() in _LATE_SUFFIXES else None
        self._ended = False

    def grab(self) -> bool:
        """Grab the next frame that can be read, whose time is `time_s` then; False at the end of the film."""
        for passed in range(0 if self._ended else _MOST_DAMAGED):
            if self._capture.grab():
                self.damaged += passed
                self._tick(passed)
                return True
        self._ended = True
        return False

    def _tick(self, passed: int) -> None:
        """Take the time of the frame that was just grabbed, in seconds from the start; it always grows.

        passed: how many that can't be read were just before it, which had their time too.
        """
        import cv2

        told_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self.read == 0 and self._late_hz:
            # POS_MSEC counts from where the picture begins, PTS from where the film does, in frames.
            start_s = self._capture.get(cv2.CAP_PROP_PTS) / self._late_hz - told_s
            self.start_s = start_s if 0 < start_s <= _LATEST_START_S else 0.0
        # 0 is what OpenCV says of a frame without a time, such as the last one of every MPEG program stream; where a clock starts
        # anew, the next frame tells.
        told_s = told_s + self.start_s - self._leapt_s if told_s or not self.read else self.time_s
        longest_s = max(self._longest_s, _JOIN_STEPS * self.step_s) + passed * self.step_s
        if self.read and abs(told_s - self.time_s) > longest_s:
            told_s = self._joined(told_s)
        self.time_s = told_s if told_s > self.time_s else max(0.0, self.time_s + self.step_s)
        self.read += 1

    def _joined(self, told_s: float) -> float:
        """The time of the frame behind a join: one step after the last. told_s: the one that the film tells."""
        # Where the step is an average over the whole film, as in MP4, it is mostly made of the leap.
        pace_s = (self.time_s - self.start_s) / (self.read - 1) if self.read > 1 else 1 / USUAL_FPS
        self.step_s = min(self.step_s, pace_s)
        due_s = self.time_s + self.step_s
        leap_s = told_s - due_s
        self._first_leap = self._first_leap if self._leaps else (due_s, leap_s)
        self._leaps, self._leapt_s = self._leaps + 1, self._leapt_s + leap_s
        if 0 < leap_s < self.duration_s:
            if not containers.facts(self._path).counted:  # the count is reckoned from the length
                self.expected = round(self.expected * (1 - leap_s / self.duration_s))
            self.duration_s -= leap_s
        return due_s

    @property
    def end_s(self) -> float | None:
        """When the film ends, as it says; None where it does not say. Known when the first frame came, for its start counts."""
        if not self.duration_s:
            return None
        return self.duration_s + (0.0 if self._path.suffix.lower() in _WHOLE_LENGTH_SUFFIXES else self.start_s)

    @property
    def gap(self) -> str | None:
        """What could not be read between the frames that came until now; None where they follow each other."""
        return f"{self.damaged} of its frames can't be read; the file is damaged" if self.damaged else None

    @property
    def leaps(self) -> str | None:
        """Where the film's own times leap, and were not followed; None where they do not."""
        if not self._leaps:
            return None
        at_s, leap_s = self._first_leap
        by = f"{'back ' if leap_s < 0 else ''}by {_length(abs(leap_s))} at {at_s:.1f} s; counted on without"
        return f"its times leap {by} it" if self._leaps == 1 else f"its times leap {self._leaps} times, first {by} that"

    @property
    def missing(self) -> str | None:
        """What is missing, once all frames have been read; None for a whole film, and where it can't be known."""
        if self.read == 0:
            return "no frame of it can be read; is the file complete?"
        # Counts may be off by some, or be reckoned from a length and a rate that an uneven film has not; times tell then.
        too_few = self.expected - self.read > max(2, 0.02 * self.expected)
        too_short = self.time_s + 3 * self.step_s < (self.end_s or 0.0) - 0.02 * self.duration_s
        if self.damaged:
            # What is lost with the damaged ones, since it builds on them, and what was cut off, only a count tells.
            lost = self.expected - self.read if containers.facts(self._path).counted else 0
            return f"{lost} of {self.expected} frames can't be read; the file is damaged" if lost >= self.damaged else self.gap
        if too_few and too_short:
            # The count may have frames that are hidden, or be reckoned from the length of the sound.
            file = containers.facts(self._path)
            if file.cut or file.counted:
                return f"it ends after {self.read} of {self.expected} frames; the file is damaged or was cut short"
        return None


def _length(seconds: float) -> str:
    """59 min, or 13 h 53 min."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def write_message(stream: IO[bytes], values: dict[str, Any], pixels: Any = b"") -> None:
    """One message: JSON values, and the bytes that follow it."""
    text = json.dumps(values).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.write(pixels)


def read_message(stream: IO[bytes]) -> dict[str, Any] | None:
    """The JSON values of the next message; None at the end, also where the last message is cut off or is none."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LONGEST:
        return None
    try:
        values = json.loads(stream.read(length))
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def environment() -> dict[str, str]:
    """What the process is told: where things are, and no token or other secret that the server was started with."""
    kept = ("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")
    found = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join(found),
        **QUIET,  # who starts it reads errors when it is over, and would not read a flood of them
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "4",
    }


def _limit(max_s: float) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    cpu_s = int(max(_LEAST_CPU_S, _CPU_PER_S * max_s))
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS takes no limit on address space
            resource.setrlimit(kind, (most, most))


def _patience(seconds: float) -> None:
    """End the process after so many seconds, wherever it is then; 0: never. Windows has no such alarm."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _decode(path: str, max_pixels: int, max_s: float, rate_hz: float, out: IO[bytes]) -> None:
    _patience(FRAME_S)
    import cv2

    cv2.setNumThreads(THREADS)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, THREADS])
    aspect = pixel_aspect(capture)
    width, height = shown_size(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT), aspect)
    if not capture.isOpened() or width < 1 or height < 1:
        _refuse(out, 422, "the video can't be read; is the file complete, and its codec a usual one?")
        return
    if problem := unreadable(capture, path):
        _refuse(out, 422, f"the video {problem}")
        return
    if width * height > max_pixels:
        _refuse(out, 413, f"the video is {width}x{height}; expected at most {max_pixels} pixels a frame")
        return
    clock, due_s, truncated = FilmClock(capture, path), 0.0, False
    while clock.grab():
        time_s = clock.time_s
        if time_s >= max_s:
            truncated = True
            break
        if time_s + 0.002 < due_s:  # some formats round times to a thousandth
            continue
        due_s = max(due_s + 1 / rate_hz, time_s)
        found, bgr = capture.retrieve()
        # A stream may change its size on the way, which its head does not say.
        if not found or bgr is None or math.prod(shown_size(bgr.shape[1], bgr.shape[0], aspect)) > max_pixels:
            continue
        rgb = cv2.cvtColor(with_square_pixels(bgr, aspect), cv2.COLOR_BGR2RGB)
        _patience(0)  # who reads may take their time
        head = {"time_s": time_s, "duration_s": clock.end_s, "size_hw": rgb.shape[:2]}
        write_message(out, head, memoryview(rgb).cast("B"))
        _patience(FRAME_S)
    if clock.read == 0:
        _refuse(out, 422, "the video has no frame that can be read; is the file complete?")
    write_message(out, {"end": True, "truncated": truncated, "missing": clock.gap if truncated else clock.missing})


def _refuse(out: IO[bytes], status: int, message: str) -> None:
    write_message(out, {"status": status, "message": message})


def _answer() -> int:
    """Decode what the command line names."""
    path, max_pixels, max_s, rate_hz = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    # FFmpeg and OpenCV print what they like; the answer has a channel of its own.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        _limit(max_s)
        _decode(path, max_pixels, max_s, rate_hz, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(_answer())
