"""Where frames come from: a camera, a file, a URL, or faces drawn and moved about for trying the server out.

A source is opened, read by one thread, and closed, again and again: it is open only while somebody watches or records.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fer_keras.errors import ConfigError, FerError
from serving.decoder import FilmClock, pixel_aspect, unreadable, with_square_pixels
from serving.outputs import for_opencv, shown


class SourceLostError(FerError):
    """A source can't be opened, or gives no more frames; it may come back."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    rgb: uint8 (h, w, 3). time_s: on the source's own clock, which smoothing over time uses: when it was captured, or for a
    file the position in it (which goes on when it starts over or is opened again). captured_at: seconds since 1970.
    restarted: nothing that was seen before has to do with it, as after a cut. note: what is to be told of its source, such as
    that some of a file can't be read; else empty.
    """

    rgb: np.ndarray
    time_s: float
    captured_at: float
    restarted: bool = False
    note: str = ""


class Source(Protocol):
    """Something that gives frames.

    title: for people; has no password in it. live: frames that nobody had time for may be dropped; of a file every frame is
    analysed, however long that takes.
    """

    title: str
    live: bool

    def open(self) -> None:
        """Get ready to read. Raises SourceLostError."""
        ...

    def read(self) -> Frame:
        """The next frame, waiting until it is due. Raises SourceLostError."""
        ...

    def close(self) -> None:
        """Let go of the camera or file; may be called twice."""
        ...


def create_source(spec: str, max_side_px: int = 1280) -> Source:
    """The source that `--source` names: "demo", a camera's number, a URL, or a file.

    Raises ConfigError for what is none of these, and for a file that is not there.
    """
    spec = spec.strip()
    if spec == "demo":
        return DemoSource()
    if re.fullmatch(r"\d{1,3}", spec):
        return CaptureSource(int(spec), f"camera {int(spec)}", live=True, max_side_px=max_side_px)
    if re.match(r"(?i)(rtsps?|rtmp|https?|udp|tcp)://.", spec):
        return CaptureSource(spec, without_password(spec), live=True, max_side_px=max_side_px)
    if not Path(spec).is_file():
        what = f"{shown(spec)} is no video file" if Path(spec).exists() else f"there is no file {shown(spec)!r}"
        raise ConfigError(f"{what}; a source is demo, a camera's number (0), a file, or a URL (rtsp://...)")
    # An absolute path is never taken for an address, as a name with a time in it would be.
    return CaptureSource(for_opencv(Path(spec).absolute()), Path(spec).name, live=False, max_side_px=max_side_px)


def without_password(url: str) -> str:
    """A URL as it may be shown: without user, password and query, where cameras keep their keys."""
    return re.sub(r"//[^/]*@", "//", url).split("?")[0]


class Pace:
    """Makes a loop run at a rate: waits until the next turn is due, and never hurries to make up for a late one."""

    def __init__(self, rate_hz: float) -> None:
        self._due_s = 0.0
        self.set_rate(rate_hz)

    def set_rate(self, rate_hz: float) -> None:
        """Go on at another rate, from the turn after the next on."""
        self._step_s = 1.0 / rate_hz

    def wait(self) -> None:
        """Return when the next turn is due."""
        now = time.monotonic()
        if self._due_s > now:
            time.sleep(self._due_s - now)
            now = self._due_s
        self._take(now)

    def due(self) -> bool:
        """Whether a turn is due, which is taken then; half a step early counts, since what is paced comes with jitter."""
        now = time.monotonic()
        if now < self._due_s - self._step_s / 2:
            return False
        self._take(now)
        return True

    def _take(self, now: float) -> None:
        # A wake-up that is a little late must not slow the rate; a turn that is missed is not made up for.
        late_at_most = now - self._step_s if self._due_s else now
        self._due_s = max(self._due_s, late_at_most) + self._step_s


class CaptureSource:
    """A camera, a stream or a file, read by OpenCV. A file plays at its own speed and starts over at its end.

    A file of one frame, such as a picture, is one that lasts: it is given again every STILL_S.
    """

    #: A stream that says nothing for so long is lost.
    TIMEOUT_MS = 5000
    #: A gap between two frames of a file is waited for so long at most, since nothing can be stopped meanwhile.
    LONGEST_GAP_S = 2.0
    STILL_S = 0.5

    def __init__(self, address: int | str, title: str, *, live: bool, max_side_px: int = 1280) -> None:
        self.address, self.title, self.live, self.max_side_px = address, title, live, max_side_px
        self._capture: Any = None
        self._aspect = 1.0
        self._clock: FilmClock | None = None
        self._first_rgb: np.ndarray | None = None  # of a file that may have no other
        self._due_s = self._start_s = self._position_s = 0.0
        self._restarted = True
        self._note = ""  # what is missing, once it was played to its end

    def open(self) -> None:
        """Open the camera, stream or file. Raises SourceLostError."""
        import cv2

        self.close()
        if isinstance(self.address, int):
            capture = cv2.VideoCapture(self.address)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver listens: the newest frame, not the oldest
        else:
            if not self.live and not Path(self.address).is_file():
                raise SourceLostError(f"{self.title} is gone")
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self.TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, self.TIMEOUT_MS]
            capture = cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            capture.release()
            raise SourceLostError(f"{self.title} can't be opened")
        if not self.live and (problem := unreadable(capture, self.address)):
            capture.release()
            raise SourceLostError(f"{self.title} {problem}")
        self._capture, self._aspect = capture, pixel_aspect(capture)
        if self._clock and self._clock.read:  # the position goes on after what was played before
            self._start_s = self._position_s + self._clock.step_s
        self._clock = None if self.live else FilmClock(capture, self.address)
        self._first_rgb, self._restarted = None, True

    def read(self) -> Frame:
        """The next frame, at most `max_side_px` wide and high. Raises SourceLostError."""
        import cv2

        if self._capture is None:
            raise SourceLostError(f"{self.title} is not open")
        bgr = self._next()
        if bgr is None and self._clock and self._clock.read:
            self._note = self._clock.missing or ""
            if self._first_rgb is not None:
                self._wait(self._position_s + self.STILL_S)
                return Frame(self._first_rgb, self._position_s, time.time(), note=self._note)
            self.open()  # a file starts over; seeking back is not exact in every format
            bgr = self._next()
        if bgr is None:
            raise SourceLostError(f"{self.title} gives no frames")
        rgb = cv2.cvtColor(shrunk(with_square_pixels(bgr, self._aspect), self.max_side_px), cv2.COLOR_BGR2RGB)
        if self._clock:  # nobody waits for a picture that begins late, since there is no sound
            self._wait(self._start_s + self._clock.time_s - self._clock.start_s)
            self._first_rgb = rgb if self._clock.read == 1 else None
            frame = Frame(rgb, self._position_s, time.time(), self._restarted, self._note or self._clock.gap or "")
        else:
            frame = Frame(rgb, time.monotonic(), time.time(), self._restarted)
        self._restarted = False
        return frame

    def _next(self) -> np.ndarray | None:
        """The next picture, BGR, as it is stored; None where there is none. What is damaged of a file is passed over."""
        if self._clock is None:
            found, bgr = self._capture.read()
            return bgr if found else None
        while self._clock.grab():
            found, bgr = self._capture.retrieve()
            if found and bgr is not None:
                return bgr
        return None

    def _wait(self, position_s: float) -> None:
        """Return when what stands there in the file is due. A frame that comes late is made up for by the next alone."""
        step_s = min(max(0.0, position_s - self._position_s), self.LONGEST_GAP_S)
        self._position_s = position_s
        self._due_s = max(self._due_s + step_s, time.monotonic() - step_s)
        time.sleep(max(0.0, self._due_s - time.monotonic()))

    def close(self) -> None:
        """Let go of it."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def shrunk(image: np.ndarray, max_side_px: int) -> np.ndarray:
    """uint8 (h, w, c) with neither side above `max_side_px`, proportions kept; the same array where that holds already."""
    import cv2

    longest = max(image.shape[:2])
    if longest <= max_side_px:
        return image
    scale = max_side_px / longest
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Actor:
    """One of the people in the demo: number `person` of the drawn faces of `seed`."""

    seed: int
    person: int


class DemoSource:
    """Faces that the project draws, moved over a backdrop and changing their expression: a camera for who has none.

    The faces are plain pixels: they go through the detector and the model like any other. All that is seen depends on
    `time_s` alone, so a test can ask for the same moment twice.
    """

    #: MTCNN and the shipped model read these drawn people best; they were chosen by trying 40 of them.
    CAST = (Actor(1, 10), Actor(0, 15), Actor(1, 1), Actor(0, 13))
    EXPRESSION_S = 3.0
    FADE_S = 0.3
    FACE_PX = 176

    def __init__(
        self,
        cast: Sequence[Actor] = CAST,
        size_wh: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= len(cast) <= 4:
            raise ConfigError(f"the demo has room for 1 to 4 people, got {len(cast)}")
        self.title, self.live = "demo", True
        self.cast, self.size_wh, self.fps, self._clock = tuple(cast), size_wh, fps, clock
        self._faces: list[list[np.ndarray]] = []
        self._pace = Pace(fps)
        self._restarted = True

    def open(self) -> None:
        """Draw the faces, the first time."""
        self._restarted = True
        self._draw_once()

    def read(self) -> Frame:
        """The picture of this moment."""
        self._pace.wait()
        now = self._clock()
        frame = Frame(self.picture(now), now, time.time(), self._restarted)
        self._restarted = False
        return frame

    def picture(self, time_s: float) -> np.ndarray:
        """What is seen at a time: uint8 (h, w, 3)."""
        self._draw_once()
        picture = self._backdrop.copy()
        for number, turns in enumerate(self._faces):
            x, y = self._place(number, time_s)
            face = self._expression(turns, time_s + number * self.EXPRESSION_S / len(self._faces))
            part = picture[y : y + self.FACE_PX, x : x + self.FACE_PX]
            part += ((face.astype(np.int16) - part) * self._mask >> 8).astype(np.uint8)
        return picture

    def close(self) -> None:
        """Nothing is held."""

    def _draw_once(self) -> None:
        if self._faces:
            return
        from fer_keras.data.synthetic import PICTURES_PER_PERSON, draw_face

        self._backdrop = _backdrop(*self.size_wh)
        self._mask = _soft_oval(self.FACE_PX)
        self._faces = [
            [
                draw_face(actor.person * PICTURES_PER_PERSON + turn, actor.seed, self.FACE_PX, 3)
                for turn in range(PICTURES_PER_PERSON)
            ]
            for actor in self.cast
        ]

    def _place(self, number: int, time_s: float) -> tuple[int, int]:
        """Left and top of a face, which wanders about in a cell of its own."""
        columns = 1 if len(self.cast) == 1 else 2
        rows = (len(self.cast) + 1) // 2
        column, row = number % columns, number // columns
        width, height = self.size_wh[0] / columns, self.size_wh[1] / rows
        free_x, free_y = (max(0.0, side - self.FACE_PX - 4) / 2 for side in (width, height))
        x = (column + 0.5) * width - self.FACE_PX / 2 + free_x * math.sin(0.45 * time_s + 1.9 * number)
        y = (row + 0.5) * height - self.FACE_PX / 2 + free_y * math.sin(0.31 * time_s + 2.6 * number)
        return round(x), round(y)

    def _expression(self, turns: list[np.ndarray], time_s: float) -> np.ndarray:
        turn, passed_s = divmod(time_s, self.EXPRESSION_S)
        new, old = turns[int(turn) % len(turns)], turns[int(turn - 1) % len(turns)]
        if passed_s >= self.FADE_S:
            return new
        import cv2

        share = passed_s / self.FADE_S
        return cv2.addWeighted(new, share, old, 1 - share, 0)


def _backdrop(width: int, height: int) -> np.ndarray:
    """A calm slope of colour with broad stripes, so that moving faces are seen to move."""
    y, x = np.mgrid[0:height, 0:width]
    stripes = 10 * np.sin((x + 0.6 * y) / 37.0)
    shade = 92 + 50 * y / height + stripes
    return np.stack([0.85 * shade, 0.98 * shade, 1.12 * shade], axis=-1).clip(0, 255).astype(np.uint8)


def _soft_oval(side: int) -> np.ndarray:
    """int16 (side, side, 1), 256 inside an oval and 0 outside, with a soft border."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    distance = np.hypot(x / 0.94, y / 0.98)
    return (256 * ((1 - distance) / 0.12).clip(0, 1)).astype(np.int16)[:, :, None]
