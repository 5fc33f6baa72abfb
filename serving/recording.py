"""Results written down as a table while a stream runs: numbers only, never a picture, and never without end."""

from __future__ import annotations

import csv
import io
import tempfile
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from fer_keras.types import TrackedFace

_CHUNK = 1 << 16


class Recording:
    """One recording. Thread-safe. It is kept in a nameless temporary file, which is gone when the server is.

    One row a face, and one with an empty track_id for a frame without any. Boxes are in pixels of the picture that was
    analysed, whose width and height stand beside them, since that of a large source is shrunk. A probability column for each
    of `labels`, empty where the model that was used has no such label. It ends by itself at `max_rows`, or where the disk is
    full; `message` says so then, and what was written stays. Raises OSError where it can't begin.
    """

    def __init__(self, source: str, labels: Sequence[str], max_rows: int) -> None:
        self.source, self.labels, self.max_rows = source, tuple(labels), max_rows
        self.started_at = datetime.now(timezone.utc)
        self.rows = 0
        self.fetched_rows = 0
        self.active = True
        self.message = ""
        self._lock = threading.Lock()
        # Without a buffer, which would keep what could not be written and fail with it again at every later use of the file.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as the recording is there
        self._size = 0
        frame, face = ("time", "time_s", "source", "model", "width", "height"), ("track_id", "x1", "y1", "x2", "y2", "label")
        self._write([[*frame, *face, "confidence", "uncertain", *(f"p_{label}" for label in self.labels)]])

    def add(
        self,
        captured_at: float,
        time_s: float,
        size_wh: tuple[int, int],
        model: str,
        labels: Sequence[str],
        faces: Sequence[TrackedFace],
    ) -> None:
        """Write the faces that were seen in one frame. size_wh: in pixels, of the frame. Does nothing once it has ended.

        Where they can't be written, that ends it.
        """
        when = datetime.fromtimestamp(captured_at, timezone.utc).isoformat(timespec="milliseconds")
        common = [when, f"{time_s:.3f}", self.source, model, *size_wh]
        rows = []
        for face in (each for each in faces if each.seen):
            known = dict(zip(labels, face.probabilities, strict=True))
            rows.append(
                [*common, face.track_id, *(f"{edge:.1f}" for edge in face.box_xyxy_px)]
                + [face.label, f"{face.confidence:.4f}", int(face.uncertain)]
                + [f"{known[label]:.4f}" if label in known else "" for label in self.labels]
            )
        rows = rows or [[*common, *[""] * (8 + len(self.labels))]]
        with self._lock:
            if not self.active:
                return
            rows = rows[: self.max_rows - self.rows]
            try:
                self._write(rows)
            except OSError as error:
                self.active, self.message = False, f"no more can be written: {error.strerror or error}"
                return
            self.rows += len(rows)
            if self.rows >= self.max_rows:
                self.active, self.message = False, f"{self.max_rows} rows are the most"

    def stop(self) -> None:
        """End it; what was written stays."""
        with self._lock:
            self.active = False

    def status(self) -> dict[str, object]:
        """For the page and the API."""
        return {
            "active": self.active,
            "rows": self.rows,
            "fetched_rows": self.fetched_rows,
            "max_rows": self.max_rows,
            "message": self.message,
            "started_at": self.started_at.isoformat(timespec="seconds"),
        }

    def chunks(self) -> Iterator[bytes]:
        """What has been written until now, piece by piece; a recording that goes on does not make it endless.

        Once all of it was taken, its rows count as fetched.
        """
        with self._lock:
            end, rows = self._size, self.rows
        position = 0
        while position < end:
            with self._lock:
                self._file.seek(position)
                piece = self._file.read(min(_CHUNK, end - position))
            if not piece:
                return
            position += len(piece)
            yield piece
        with self._lock:
            self.fetched_rows = max(self.fetched_rows, rows)

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = memoryview(text.getvalue().encode())
        self._file.seek(self._size)
        # The last piece before a disk is full is written in part; what is not counted is overwritten or never read.
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        self._size += len(data)
