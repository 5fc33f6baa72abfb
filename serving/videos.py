"""Faces in video files: read frame by frame, followed from frame to frame, and written to a table.

The table grows in a file of its own beside the one that was asked for, with all that the analysis remembers. A run that was
stopped goes on from there, and ends with the same table as one that was not: the faces' tracks and their smoothed
probabilities are kept, not only the place. Drawn videos and pages are made from the finished table.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError, DataError
from fer_keras.files import file_to_write, naming, read_json, write_json
from fer_keras.types import TrackedFace
from serving import decoder
from serving.outputs import for_opencv, shown

if TYPE_CHECKING:
    from fer_keras.inference.analyzer import Analyzer
    from serving.pictures import Picture

#: What videos are called.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".ogv", ".flv", ".wmv", ".asf"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),  # discs, broadcasts and camcorders
)
#: How much work a stop by force may lose.
CHECKPOINT_S = 5.0
#: Frames a second of a drawn film: those of the film itself, as far as players like them.
_DRAWN_FPS = (10.0, 60.0)
#: Sides of a drawn film in pixels, even numbers: MPEG-4 part 2 has no more than 8191.
_DRAWN_SIDE = (2, 8190)
#: A disk without room for so much more is full.
_ROOM_BYTES = 2**20
_STATE_FORMAT = 4


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file is called like a video."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES)


def quiet_decoder() -> None:
    """Keep FFmpeg from writing a line for each damaged block to the terminal. Has to come before cv2 is imported."""
    for name, value in decoder.QUIET.items():
        os.environ.setdefault(name, value)


class VideoReader:
    """The frames of a video file, one at a time, in order. A context manager.

    size_wh: in pixels, which are square, as those of the frames are. clock: when its frames are due, how many there should be,
    and were. Raises DataError where it can't be opened.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        import cv2

        self.path = Path(path)
        # An absolute path is never taken for an address.
        self._capture = cv2.VideoCapture(for_opencv(self.path.absolute()), cv2.CAP_FFMPEG)
        self._aspect = decoder.pixel_aspect(self._capture)
        stored = (self._capture.get(each) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        width, height = decoder.shown_size(*stored, self._aspect)
        if not self._capture.isOpened() or width < 1 or height < 1:
            self._capture.release()
            raise DataError(f"{shown(path)} can't be read as a video; is the file complete, and its codec a usual one?")
        if problem := decoder.unreadable(self._capture, self.path):
            self._capture.release()
            raise DataError(f"{shown(path)} {problem}")
        self.clock = decoder.FilmClock(self._capture, self.path)
        self.size_wh = (width, height)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(self, start: int = 0, every: int = 1) -> Iterator[tuple[int, float, np.ndarray]]:
        """(number, seconds from the start, uint8 (h, w, 3) RGB) of each frame whose number is a multiple of `every`.

        start: the first that is given; those before are read over, since jumping is not exact in every format.
        """
        import cv2

        while self.clock.grab():
            number, time_s = self.clock.read - 1, self.clock.time_s
            if number < start or number % every:
                continue
            found, bgr = self._capture.retrieve()
            if found and bgr is not None:
                yield number, time_s, cv2.cvtColor(decoder.with_square_pixels(bgr, self._aspect), cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class VideoFacts:
    """One video that was analysed. frames: how many were; seconds: its length as far as it could be read.

    error: what was missing of it; None where it was whole. note: what else is to be known of it, such as times that leap.
    """

    path: str
    frames: int
    seconds: float
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class FrameRows:
    """The rows of one frame, read back from the table. number, time_s: None for a row that is about the whole video."""

    number: int | None
    time_s: float | None
    faces: tuple[TrackedFace, ...]
    error: str = ""


def columns(labels: Sequence[str]) -> dict[str, str]:
    """The columns of the table, and what is in each: "text", "number", "whole" or "truth"."""
    kinds = {"path": "text", "status": "text", "frame": "whole", "time_s": "number", "track_id": "whole"}
    kinds |= dict.fromkeys(("x1", "y1", "x2", "y2", "score"), "number")
    kinds |= {"detected": "truth", "label": "text", "confidence": "number", "uncertain": "truth"}
    return {**kinds, **{f"p_{label}": "number" for label in labels}, "error": "text"}


class GrowingTable:
    """A CSV file that is written frame by frame and can be gone on with after a break.

    base: the file that was asked for; this one stands beside it as BASE.unfinished.csv, with BASE.unfinished.json, which has
    the place and what the analyzer remembers. settings: JSON values that must be the same to go on.
    Once all videos are done it can be given its name (`publish`), and is gone on with there until `finish`.
    One row a face, and one with status "no face" for a frame without any; "error" for what could not be read.
    names: what the videos are called in it; where it goes on, they keep the names that they have there.
    video, frame: where to go on. facts: of the videos that are done.
    """

    def __init__(
        self, base: Path, labels: Sequence[str], settings: Mapping[str, Any], names: Sequence[str], restart: bool = False
    ) -> None:
        """Raises ConfigError where another command left its results under these names. restart: throw those away."""
        base = file_to_write(base)  # a link may lead to another disk
        self._base, self._growing = base, base.with_name(f"{base.name}.unfinished.csv")
        self._state_path = base.with_name(f"{base.name}.unfinished.json")
        self.path = self._growing
        self.labels = tuple(labels)
        self._width = len(columns(labels))
        self._settings = json.loads(json.dumps({"format": _STATE_FORMAT, "labels": self.labels, **settings}))
        self._names = list(names)
        self.video = self.frame = 0
        self.facts: list[VideoFacts] = []
        self.analyzer_state: dict[str, Any] | None = None
        self._analysed = 0
        self._saved_at = time.monotonic()
        state = None if restart else self._left_over()
        base.parent.mkdir(parents=True, exist_ok=True)
        if state is None:
            self._file: IO[bytes] = self.path.open("w+b")
            self._write([list(columns(labels))])
            self._save()
        else:
            self._file = self.path.open("r+b")
            self._file.truncate(state["bytes"])  # what came after belongs to frames that are done again
            self._file.seek(state["bytes"])
            self.video, self.frame, self.analyzer_state = state["video"], state["frame"], state["analyzer"]
            self._analysed, self._names = state["analysed"], state["names"]
            self.facts = [VideoFacts(**each) for each in state["facts"]]

    def _left_over(self) -> dict[str, Any] | None:
        """The state that was left, with `path` where its table is; None where there is none."""
        if not self._state_path.exists():
            if self._growing.is_file() and self._growing.stat().st_size:
                with self._growing.open("rb") as file:
                    head = file.readline().decode(errors="replace")
                if not head.startswith(",".join(list(columns(()))[:3])):
                    raise ConfigError(
                        f"{self._growing} is no table of videos, rows of pictures perhaps; --restart throws it away"
                    )
            return None
        try:
            state = read_json(self._state_path)
            different = sorted(
                key for key in {*self._settings, *state["settings"]} if state["settings"].get(key) != self._settings.get(key)
            )
            if not self._growing.exists() and state["video"] == len(state["names"]):
                self.path = self._base  # it had its name already; what was to be made from it was not
                whole = self.path.stat().st_size == state["bytes"]
            else:
                whole = self.path.stat().st_size >= state["bytes"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            different, whole = [], False
        if not whole:
            raise ConfigError(f"{self._state_path} does not fit {self.path.name}; --restart begins anew")
        if different:
            raise ConfigError(
                f"{self.path} has what another command did not finish ({', '.join(different)} differ); run that one again to "
                "finish it, name another file, or begin anew with --restart"
            )
        return state

    @property
    def goes_on(self) -> bool:
        """Whether something was done before."""
        return self.video > 0 or self.frame > 0

    def add(self, number: int, time_s: float, faces: Sequence[TrackedFace]) -> None:
        """Write the rows of one frame; of faces that were not seen in it there is none."""
        faces = [face for face in faces if face.seen]
        start = [self._names[self.video], "ok" if faces else "no face", number, f"{time_s:.4f}"]
        rows: list[list[object]] = []
        for face in faces:
            row = [*start, face.track_id, *(f"{edge:.1f}" for edge in face.box_xyxy_px), f"{face.score:.4f}", face.detected]
            row += [face.label, f"{face.confidence:.6f}", face.uncertain, *(f"{value:.6f}" for value in face.probabilities), ""]
            rows.append(row)
        self._write(rows or [start + [""] * (self._width - len(start))])
        self._analysed += 1

    def checkpoint(self, frame: int, analyzer: Analyzer) -> None:
        """All before `frame` is done. Saved every CHECKPOINT_S seconds, so that little is lost and little is written."""
        if time.monotonic() - self._saved_at >= CHECKPOINT_S:
            self.frame, self.analyzer_state = frame, analyzer.state()
            self._save()

    def next_video(self, seconds: float, error: str | None, note: str | None = None) -> VideoFacts:
        """This video is done. error: what could not be read of it. note: what else is to be known of it."""
        if error:
            self._write([[self._names[self.video], "error", *[""] * (self._width - 3), error]])
        facts = VideoFacts(self._names[self.video], self._analysed, round(seconds, 4), error, note)
        self.facts.append(facts)
        self.video, self.frame, self.analyzer_state, self._analysed = self.video + 1, 0, None, 0
        self._save()
        return facts

    def rows(self) -> Iterator[Iterator[FrameRows]]:
        """What was written of each video that is done, frame by frame; to be read before the next video is asked for."""
        if not self._file.closed:
            self._flush()
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = read_rows(file, self.labels)
            for facts in self.facts:  # two names that are not UTF-8 may look alike, and of a video there may be no row
                mine = itertools.islice(rows, facts.frames + bool(facts.error))
                yield mine
                deque(mine, maxlen=0)

    def close(self) -> None:
        """Close it; what was written stays, and the same command goes on with it."""
        with naming(self.path):
            self._file.close()

    def publish(self) -> None:
        """Give the table, whose videos are done, the name that was asked for, before anything is made from it.

        Whatever goes wrong there, or if the process is ended, the table is there; and the same command makes the rest of it.
        """
        self.close()
        if self.path != self._base:
            os.replace(self.path, self._base)
            self.path = self._base

    def finish(self) -> None:
        """All is made: forget the place, and throw the table away where it was given no name."""
        self.close()
        if self.path != self._base:
            self.path.unlink()
        self._state_path.unlink()

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with naming(self.path):
            self._file.write(text.getvalue().encode())

    def _flush(self) -> None:
        with naming(self.path):
            self._file.flush()

    def _save(self) -> None:
        self._flush()
        with naming(self.path):
            os.fsync(self._file.fileno())  # the place must never be ahead of the rows
        state = {"settings": self._settings, "bytes": self._file.tell(), "video": self.video, "frame": self.frame}
        state |= {
            "names": self._names,
            "analysed": self._analysed,
            "facts": [asdict(each) for each in self.facts],
            "analyzer": self.analyzer_state,
        }
        write_json(self._state_path, state)
        self._saved_at = time.monotonic()


def read_rows(file: IO[str], labels: Sequence[str]) -> Iterator[FrameRows]:
    """The table of a video run, frame by frame; one is held at a time. file: opened with newline=""."""
    here: tuple[str, str] | None = None
    held: FrameRows | None = None
    for row in csv.DictReader(file):
        faces = (_face(row, labels),) if row["status"] == "ok" else ()
        if held is not None and row["frame"] and here == (row["path"], row["frame"]):
            held = FrameRows(held.number, held.time_s, held.faces + faces)
            continue
        if held is not None:
            yield held
        here = (row["path"], row["frame"])
        number, time_s = (int(row["frame"]), float(row["time_s"])) if row["frame"] else (None, None)
        held = FrameRows(number, time_s, faces, row["error"])
    if held is not None:
        yield held


def _face(row: Mapping[str, str], labels: Sequence[str]) -> TrackedFace:
    return TrackedFace(
        track_id=int(row["track_id"]),
        box_xyxy_px=(float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])),
        score=float(row["score"]),
        probabilities=tuple(float(row[f"p_{label}"]) for label in labels),
        label=row["label"],
        confidence=float(row["confidence"]),
        uncertain=row["uncertain"] == "True",
        detected=row["detected"] == "True",
    )


def analyse_videos(
    videos: Sequence[Picture], analyzer: Analyzer, table: GrowingTable, every: int = 1, progress: bool | None = None
) -> Iterator[VideoFacts]:
    """Write the faces of these videos to the table, from where it stands; gives the facts of each that is done.

    every: frames whose number is no multiple of it are left out. progress: whether a bar is shown; None: on a terminal.
    A video that can't be read, or not to its end, is told in the table and in its facts, and the next one follows.
    """
    from tqdm import tqdm

    for video in videos[table.video :]:
        try:
            reader = VideoReader(video.path)
        except DataError as error:
            yield table.next_video(0.0, str(error).removeprefix(shown(video.path)).strip())
            continue
        analyzer.reset()
        if table.analyzer_state is not None:
            analyzer.restore(table.analyzer_state)
        bar = tqdm(
            total=reader.clock.expected or None,
            desc=shown(video.path.name),
            unit="frame",
            initial=table.frame,
            disable=None if progress is None else not progress,
            leave=False,
        )
        with reader, bar:
            for number, time_s, image in reader.frames(table.frame, every):
                table.add(number, time_s, analyzer.analyze(image, time_s))
                table.checkpoint(number + 1, analyzer)
                bar.update(number + 1 - bar.n)
            clock = reader.clock
            seconds = clock.time_s + clock.step_s if clock.read else 0.0
        yield table.next_video(seconds, clock.missing, clock.leaps)


def draw_video(source: Path, rows: Iterable[FrameRows], labels: Sequence[str], target: Path, every: int = 1) -> None:
    """Write a copy of a video with boxes, ids and labels as MP4, whole or not at all; without sound.

    Its frames are evenly spaced: where those of the video are not, some are shown longer, or left out. It has the size of the
    video as far as the format goes.

    rows: of this video. every: as it was analysed; the frames between show what was seen last.
    Raises DataError where it can't be read, or not be written; OSError where the disk is full.
    """
    import cv2
    from tqdm import tqdm

    from serving.live_picture import draw_live

    coming = (row for row in rows if row.number is not None)
    following = next(coming, None)
    latest: FrameRows | None = None
    target.parent.mkdir(parents=True, exist_ok=True)
    # OpenCV tells the format by the name, which is always the same, so that what a kill leaves is written over by the next.
    temporary = target.with_name(f".{target.stem}.part.mp4")
    try:
        with VideoReader(source) as reader:
            fps = min(max(1 / reader.clock.step_s, _DRAWN_FPS[0]), _DRAWN_FPS[1])
            # MPEG-4 part 2 is what OpenCV's wheels can always write; for H.264 they need a library that is seldom there.
            size_wh = _drawn_size(*reader.size_wh)
            writer = cv2.VideoWriter(for_opencv(temporary), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), fps, size_wh)
            if not writer.isOpened():
                _check_room(temporary, target)
                raise DataError(f"{shown(target)} can't be written; can this OpenCV write MP4 of {size_wh[0]}x{size_wh[1]}?")
            written, drawn, first_s = 0, None, None
            for number, time_s, image in tqdm(
                reader.frames(),
                total=reader.clock.expected or None,
                desc=f"drawing {shown(source.name)}",
                disable=None,
                leave=False,
            ):
                while following is not None and following.number <= number:
                    latest, following = following, next(coming, None)
                first_s = time_s if first_s is None else first_s
                while written < round((time_s - first_s) * fps):  # the one before stays until this one is due
                    writer.write(drawn)
                    written += 1
                faces = latest.faces if latest is not None and number - latest.number < every else ()
                drawn = draw_live(image, faces, labels)
                if drawn.shape[1::-1] != size_wh:
                    drawn = cv2.resize(drawn, size_wh, interpolation=cv2.INTER_AREA)
            for _ in range(max(1, round(reader.clock.step_s * fps)) if drawn is not None else 0):
                writer.write(drawn)
                written += 1
            writer.release()
        # The writer says nothing of a full disk.
        if _frames_in(temporary) != written:
            _check_room(temporary, target)
            raise DataError(f"{shown(target)} could not be written whole; is the disk full?")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _drawn_size(width: int, height: int) -> tuple[int, int]:
    """The size of the drawn copy of a video: the same where the format has it, else as much smaller, or larger, as it must be."""
    least, most = _DRAWN_SIDE
    if least <= min(width, height) and max(width, height) <= most:
        return width, height
    scale = min(max(1.0, least / min(width, height)), most / max(width, height))
    # A strip of few pixels' height may have neither; it gets a little thicker then.
    return max(least, round(width * scale)), max(least, round(height * scale))


def _frames_in(film: Path) -> int:
    """How many frames a film of ours says it has; 0 where it can't be read."""
    try:
        with VideoReader(film) as check:
            return check.clock.expected
    except DataError:
        return 0


def _check_room(temporary: Path, target: Path) -> None:
    """Raises OSError, with the name of `target`, where nothing more can be written: whoever writes through OpenCV is not told."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(_ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown(target)) from error


def check_parquet() -> None:
    """Raises ConfigError that says what to install where Parquet can't be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--parquet needs pyarrow ({error}); pip install pyarrow, or write --csv") from error


def write_parquet(table: GrowingTable, target: Path) -> None:
    """The table as Parquet, whole or not at all, piece by piece whatever its length; numbers as in the CSV file."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from fer_keras.files import writing_whole

    kinds = {"text": pa.string(), "number": pa.float64(), "whole": pa.int64(), "truth": pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns(table.labels).items()])
    convert = pyarrow.csv.ConvertOptions(
        column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=True, null_values=[""]
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with (
        pyarrow.csv.open_csv(table.path, parse_options=parse, convert_options=convert) as pieces,
        writing_whole(target) as file,
        pyarrow.parquet.ParquetWriter(file, schema) as writer,
    ):
        for piece in pieces:
            writer.write_batch(piece)
