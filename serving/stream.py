"""One source watched by many: captured once, analysed once, drawn and encoded once.

    capture thread -> slot with the latest frame -> analysis thread -> update (result + JPEG) -> every viewer

A viewer waits for the next update and takes whatever is the latest then, so a slow one sees fewer pictures and delays nobody.
The threads run only while somebody watches or records, and some seconds more.
"""

from __future__ import annotations

import bisect
import functools
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_keras.errors import FerError
from fer_keras.types import TrackedFace
from serving import live_picture
from serving.recording import Recording
from serving.sources import Frame, Pace, Source, SourceLostError

if TYPE_CHECKING:
    from fer_keras.detectors import Detector
    from fer_keras.inference.recognizer import Recognizer
    from serving.metrics import Metrics
    from serving.settings import ServerConfig

log = logging.getLogger("fer_keras.serving")

#: How often something is looked at that can't wake the one who waits for it.
TICK_S = 0.2
#: How often a notice is sent again while there is nothing else, so that connections which are gone are noticed.
NOTICE_S = 1.0
#: A camera gives more than can be analysed from where this share of its latest frames was skipped, over about so many frames,
#: until it is the other.
BEHIND_SHARE, CAUGHT_UP_SHARE, BEHIND_FRAMES = 0.1, 0.03, 60
#: Over how long the rate of analysis is told: over the last RATE_S, or the last two frames where those take longer. At the start,
#: when some frames may have piled up, it is told as if LEAST_RATE_S had passed.
RATE_S, LEAST_RATE_S = 2.0, 1.0
#: However many watch, each gets so many pictures a second.
LEAST_PICTURE_HZ = 5.0


class TooManyError(FerError):
    """As many as are allowed are there already."""


class Backoff:
    """How long to wait before trying again: 0.5 s, then twice as long each time, up to 15 s; from the start after success."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 15.0) -> None:
        self.first_s, self.longest_s = first_s, longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._next_s
        self._next_s = min(self.longest_s, 2 * wait_s)
        return wait_s

    def reset(self) -> None:
        """It worked."""
        self._next_s = self.first_s


class Slot:
    """Room for one frame between two threads.

    keep_all: `put` waits until the frame before was taken; else a frame that nobody took gives way to the newer one.
    """

    def __init__(self, keep_all: bool) -> None:
        self.keep_all = keep_all
        self._frame: Frame | None = None
        self._changed = threading.Condition()

    def put(self, frame: Frame, stop: threading.Event) -> bool:
        """Returns whether an older frame had to give way. Once `stop` is set, nothing is put."""
        with self._changed:
            while self.keep_all and self._frame is not None and not stop.is_set():
                self._changed.wait(TICK_S)
            if stop.is_set():
                return False
            dropped, self._frame = self._frame, frame
            self._changed.notify_all()
            if dropped is not None and dropped.restarted and not frame.restarted:
                # That another take begins must not be lost with the frame that said so.
                self._frame = Frame(frame.rgb, frame.time_s, frame.captured_at, restarted=True)
            return dropped is not None

    def take(self, timeout_s: float) -> Frame | None:
        """The latest frame, which leaves the slot; None where none came in time."""
        with self._changed:
            if self._frame is None:
                self._changed.wait(timeout_s)
            frame, self._frame = self._frame, None
            if frame is not None:
                self._changed.notify_all()
            return frame


@dataclass
class Update:
    """What viewers get: the latest result, and its picture where somebody looks at pictures."""

    sequence: int
    captured_at: float
    result: dict[str, Any] | None
    status: dict[str, Any]
    jpeg: bytes | None

    @functools.cached_property
    def event(self) -> str:
        """As JSON, made once for all listeners."""
        return json.dumps({"sequence": self.sequence, "result": self.result, "status": self.status}, separators=(",", ":"))

    @functools.cached_property
    def part(self) -> bytes:
        """The picture as a part of multipart/x-mixed-replace, with the boundary that ends it, made once for all viewers."""
        head = (
            f"Content-Type: image/jpeg\r\nContent-Length: {len(self.jpeg)}\r\n"
            f"X-Captured-At: {self.captured_at:.4f}\r\nX-Sequence: {self.sequence}\r\n\r\n"
        )
        return head.encode() + self.jpeg + b"\r\n--frame"


class _Run:
    """One time that the source is open: what its two threads share."""

    def __init__(self, keep_all: bool) -> None:
        self.stop = threading.Event()
        self.slot = Slot(keep_all)
        self.threads: list[threading.Thread] = []
        self.seen = False  # whether a frame came, so that the source can be lost


class Stream:
    """A source with its viewers. Thread-safe.

    key: how it is named in URLs. recognizer, detector: give one by name, loading it where needed; may raise FerError.
    all_labels: of every model that could be chosen, for the columns of recordings.
    """

    def __init__(
        self,
        key: str,
        source: Source,
        config: ServerConfig,
        metrics: Metrics,
        *,
        model: str,
        recognizer: Callable[[str], Recognizer],
        detector: Callable[[str], Detector],
        all_labels: Callable[[], tuple[str, ...]],
    ) -> None:
        self.key, self.source, self.config, self.metrics = key, source, config, metrics
        self._make_recognizer, self._make_detector, self._all_labels = recognizer, detector, all_labels
        self.model, self.detector = model, config.detector
        self._choices = 0  # how often somebody chose
        self._chosen = {"model": 0, "detector": 0}  # which of these choices holds
        # One lock, and who waits for pictures is not woken by results that have none.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._pictured = threading.Condition(lock)
        self._pace = Pace(config.picture_fps)
        self._behind, self._lagging = 0.0, False  # share of the latest frames that there was no time for; whether it is large
        self._source_turn = threading.Lock()
        self._run: _Run | None = None
        self._closed = False
        self._watching = {"picture": 0, "events": 0}
        self._unwatched_since = time.monotonic()
        self._recording: Recording | None = None
        self._latest: Update | None = None
        self._picture: Update | None = None  # the latest that has one
        self._sequence = 0
        self._state, self._message = "idle", "nobody watches"
        self._counts = {"captured": 0, "analysed": 0, "skipped": 0, "reconnects": 0, "faces": 0}
        self._analysed_at: deque[float] = deque(maxlen=1000)  # first, when the analysis of the first frame began
        self._latencies_s: deque[float] = deque(maxlen=60)

    # --- for viewers ---------------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, kind: str) -> Iterator[Callable[[float], Update | None]]:
        """Watch the stream: gives a function that waits for an update newer than the one it gave before.

        kind: "picture" (updates have a JPEG) or "events" (they may not). The function takes the seconds to wait at most,
        and returns None where nothing came. Raises TooManyError where as many as allowed watch already.
        """
        with self._changed:
            if self._watching[kind] >= self.config.max_viewers:
                raise TooManyError(f"{self._watching[kind]} watch already, which is the most allowed; try again later")
            self._watching[kind] += 1
            self._counted()
            self._start()
        seen = self._sequence if kind == "picture" else self._sequence - 1

        def following(timeout_s: float) -> Update | None:
            nonlocal seen
            end = time.monotonic() + timeout_s
            with self._changed:
                while not self._closed:
                    latest = self._picture if kind == "picture" else self._latest
                    if latest and latest.sequence > seen:
                        seen = latest.sequence
                        return latest
                    left = end - time.monotonic()
                    if left <= 0:
                        return None
                    (self._pictured if kind == "picture" else self._changed).wait(left)
            return None

        try:
            yield following
        finally:
            with self._changed:
                self._watching[kind] -= 1
                self._unwatched_since = time.monotonic()
                self._counted()

    def snapshot(self, timeout_s: float = 8.0) -> bytes | None:
        """One picture with its boxes, as JPEG; None where none came in time."""
        end = time.monotonic() + timeout_s
        with self.watch("picture") as following:
            while update := following(max(0.0, end - time.monotonic())):
                if update.result is not None:  # no notice, such as that the source is being opened
                    return update.jpeg
        return None

    def choose(self, model: str | None = None, detector: str | None = None) -> None:
        """Go on with another model or detector, which is loaded first. Raises FerError where that fails.

        Where a later choice was loaded sooner, that one holds.
        """
        with self._changed:
            self._choices += 1
            mine = self._choices
        for kind, name, load in (("model", model, self._make_recognizer), ("detector", detector, self._make_detector)):
            if name is None:
                continue
            load(name)
            with self._changed:
                if mine > self._chosen[kind]:
                    self._chosen[kind] = mine
                    setattr(self, kind, name)

    def record(self, on: bool) -> None:
        """Start a new recording in place of the last, or end the one that runs; what is so already stays so.

        Raises OSError where a new one can't begin; the last one stays then.
        """
        with self._changed:
            running = self._recording is not None and self._recording.active
            if on and not running:
                self._recording = Recording(self.key, self._all_labels(), self.config.record_rows)
                self._start()
            elif not on and self._recording is not None:
                self._recording.stop()
                self._unwatched_since = time.monotonic()
            self.metrics.recording.labels(self.key).set(int(on))

    @property
    def recording(self) -> Recording | None:
        """The recording that runs, or the last one; None where there was none."""
        return self._recording

    def status(self) -> dict[str, Any]:
        """For the page and the API: JSON values."""
        fps = self._rate_hz()
        latencies = sorted(self._latencies_s) if fps else []
        recording = self._recording
        return {
            "source": self.key,
            "title": self.source.title,
            "state": self._state,
            "message": self._message,
            "model": self.model,
            "detector": self.detector,
            "fps": round(fps, 1),
            "latency_ms": round(1000 * latencies[len(latencies) // 2], 1) if latencies else None,
            **self._counts,
            "viewers": self._watching["picture"],
            "listeners": self._watching["events"],
            "blur": self.config.blur,
            "recording": recording.status() if recording else None,
        }

    def close(self, deadline: float) -> None:
        """Send everybody away and stop. deadline: of time.monotonic(), until which threads are waited for."""
        with self._changed:
            self._closed = True
            run = self._run
            if run:
                run.stop.set()
            if self._recording:
                self._recording.stop()
            self._changed.notify_all()
            self._pictured.notify_all()
        for thread in run.threads if run else ():
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- inside --------------------------------------------------------------------------------------------------------

    def _rate_hz(self) -> float:
        """Frames analysed a second, of late; 0 where there was none since the stream began or its source was lost."""
        times, now = list(self._analysed_at), time.monotonic()
        if len(times) < 2:
            return 0.0
        before = max(0, bisect.bisect(times, now - RATE_S, hi=len(times) - 1) - 1)
        return (len(times) - 1 - before) / max(LEAST_RATE_S, now - times[before])

    def _counted(self) -> None:
        for kind, number in self._watching.items():
            self.metrics.viewers.labels(self.key, kind).set(number)

    def _wanted(self) -> bool:
        recording = self._recording is not None and self._recording.active
        return recording or any(self._watching.values())

    def _start(self) -> None:
        """Start the threads where they don't run. The lock is held."""
        if self._closed or (self._run and not self._run.stop.is_set()):
            return
        run = self._run = _Run(keep_all=not self.source.live)
        self._behind, self._lagging = 0.0, False
        self._latest = self._picture = None  # what was seen before is not shown as if it were now
        self._state, self._message = "connecting", f"opening {self.source.title}"
        for work in (self._capture, self._analyse):
            thread = threading.Thread(target=work, args=(run,), name=f"{work.__name__}-{self.key}", daemon=True)
            run.threads.append(thread)
            thread.start()

    def _stopped_unwanted(self, run: _Run) -> bool:
        """Whether nobody has wanted anything for some time; the run is stopped then, under the lock that starts runs."""
        with self._changed:
            if self._wanted() or time.monotonic() - self._unwatched_since < self.config.idle_stop_s:
                return False
            run.stop.set()
            self._state, self._message = "idle", "nobody watches"
            self._latest = self._picture = None
            self._analysed_at.clear()
            return True

    def _capture(self, run: _Run) -> None:
        # A run that was stopped may still sit in a read that takes seconds; the device is for one at a time.
        while not self._source_turn.acquire(timeout=TICK_S):
            if run.stop.is_set():
                return
        try:
            backoff = Backoff()
            while not run.stop.is_set():
                try:
                    self.source.open()
                    self._read_until_stopped(run, backoff)
                except Exception as error:  # a driver may raise anything; the stream outlives it
                    if not isinstance(error, SourceLostError):
                        log.exception("source %s failed", self.key)
                        self.metrics.errors.labels("source").inc()
                    self.source.close()
                    wait_s = backoff.next_s()
                    if not run.stop.is_set():
                        reason = str(error) if isinstance(error, FerError) else f"{self.source.title} failed"
                        self._state, self._message = "lost", f"{reason}; trying again in {wait_s:g} s"
                        log.warning("%s", self._message)
                    run.stop.wait(wait_s)
        finally:
            self.source.close()
            self._source_turn.release()

    def _read_until_stopped(self, run: _Run, backoff: Backoff) -> None:
        captured = self.metrics.frames.labels(self.key, "captured")
        skipped = self.metrics.frames.labels(self.key, "skipped")
        opened = time.monotonic()
        while not run.stop.is_set():
            frame = self.source.read()
            if run.stop.is_set():
                return
            if run.seen and self._state == "lost":
                self._counts["reconnects"] += 1
                self.metrics.reconnects.labels(self.key).inc()
            run.seen = True
            if frame.note and not (self._state == "live" and self._message):  # once, though more may be found damaged
                log.warning("%s: %s", self.source.title, frame.note)
            self._state, self._message = "live", frame.note
            if time.monotonic() - opened > 5:  # not at once: a source that dies again and again is not to be hammered
                backoff.reset()
            self._counts["captured"] += 1
            captured.inc()
            gave_way = run.slot.put(frame, run.stop)
            self._behind += (gave_way - self._behind) / BEHIND_FRAMES
            if gave_way:
                self._counts["skipped"] += 1
                skipped.inc()

    def _analyse(self, run: _Run) -> None:
        from fer_keras.inference.analyzer import Analyzer

        analyzer: Analyzer | None = None
        last_notice = 0.0
        while not run.stop.is_set() and not self._stopped_unwanted(run):
            frame = run.slot.take(TICK_S)
            try:
                if analyzer is None:
                    self._publish_notice("Connecting", f"opening {self.source.title} with {self.model}")
                    # A face that comes in must be found before the picture is seen, where none may be recognisable.
                    every = {"detect_every_s": 0.0} if self.config.blur else {}
                    analyzer = Analyzer(self._make_recognizer(self.model), self._make_detector(self.detector), **every)
                if frame is not None:
                    self._analyse_frame(analyzer, frame)
                elif self._state != "live" and time.monotonic() - last_notice >= NOTICE_S:
                    last_notice = time.monotonic()
                    self._analysed_at.clear()
                    titles = {"connecting": "Connecting", "lost": "Source lost", "idle": "Stopped"}
                    self._publish_notice(titles[self._state], self._message)
            except Exception as error:  # one frame that fails must not end the stream
                log.exception("analysis of %s failed", self.key)
                self.metrics.errors.labels("analysis").inc()
                text = str(error) if isinstance(error, FerError) else "the analysis failed; the server's log says why"
                self._publish_notice("Error", text)
                run.stop.wait(NOTICE_S)

    def _analyse_frame(self, analyzer: Any, frame: Frame) -> None:
        if frame.restarted:
            analyzer.reset(ids_go_on=True)  # in one recording, an id is one person
        if not self._analysed_at:
            self._analysed_at.append(time.monotonic())
        # Taken here, between two frames, and not put in by the one who chose, who may do so again before this one is done.
        model, detector = self.model, self.detector
        analyzer.recognizer = recognizer = self._make_recognizer(model)
        analyzer.detector = self._make_detector(detector)
        faces = analyzer.analyze(frame.rgb, frame.time_s)[: self.config.max_faces]
        stages_s = dict(analyzer.last_stage_s)
        recording = self._recording
        if recording is not None and recording.active:
            size_wh = (frame.rgb.shape[1], frame.rgb.shape[0])
            recording.add(frame.captured_at, frame.time_s, size_wh, model, recognizer.labels, faces)
            if recording.message:
                log.warning("the recording of %s ended: %s", self.key, recording.message)
            self.metrics.recording.labels(self.key).set(int(recording.active))
        jpeg = None
        self._pace.set_rate(self._picture_rate_hz())
        if self._watching["picture"] and self._pace.due():
            start = time.perf_counter()
            # Not of the faces shown alone, which are fewer: there is a most, and one seen for the first time is not shown yet.
            hidden = analyzer.boxes_xyxy_px if self.config.blur else ()
            picture = live_picture.draw_live(frame.rgb, faces, recognizer.labels, hidden)
            drawn = time.perf_counter()
            jpeg = live_picture.encode_jpeg(picture, self.config.jpeg_quality)
            stages_s |= {"draw": drawn - start, "encode": time.perf_counter() - drawn}
        stages_s["total"] = max(0.0, time.time() - frame.captured_at)
        self._analysed_at.append(time.monotonic())
        self._latencies_s.append(stages_s["total"])
        self._counts["analysed"] += 1
        self._counts["faces"] += len(faces)
        self.metrics.observe(stages_s)
        self.metrics.frames.labels(self.key, "analysed").inc()
        self.metrics.faces.labels("stream").inc(len(faces))
        result = {
            "time_s": round(frame.time_s, 3),
            "captured_at": round(frame.captured_at, 3),
            "width": frame.rgb.shape[1],
            "height": frame.rgb.shape[0],
            "model": model,
            "detector": detector,
            "stages_ms": {name: round(1000 * seconds, 2) for name, seconds in stages_s.items()},
            "faces": [face_json(face, recognizer.labels) for face in faces],
        }
        self._publish(frame.captured_at, result, jpeg)

    def _picture_rate_hz(self) -> float:
        """Pictures a second for each viewer. Where frames are skipped, sending to many takes the time that analysis lacks."""
        most = self.config.picture_fps
        # Two bounds, since what is spared here makes the share smaller.
        self._lagging = self._behind > (CAUGHT_UP_SHARE if self._lagging else BEHIND_SHARE)
        if not self._lagging:
            return most
        return min(most, max(LEAST_PICTURE_HZ, self.config.sent_per_s / max(1, self._watching["picture"])))

    def _publish_notice(self, title: str, text: str) -> None:
        jpeg = live_picture.notice_jpeg(title, text) if self._watching["picture"] else None
        self._publish(time.time(), None, jpeg)

    def _publish(self, captured_at: float, result: dict[str, Any] | None, jpeg: bytes | None) -> None:
        status = self.status()
        with self._changed:
            self._sequence += 1
            self._latest = Update(self._sequence, captured_at, result, status, jpeg)
            self._changed.notify_all()
            if jpeg:
                self._picture = self._latest
                self._pictured.notify_all()


def face_json(face: TrackedFace, labels: tuple[str, ...]) -> dict[str, Any]:
    """A tracked face as JSON values."""
    return {
        "id": face.track_id,
        "box": [round(edge, 1) for edge in face.box_xyxy_px],
        "score": round(face.score, 4),
        "label": face.label,
        "confidence": round(face.confidence, 4),
        "uncertain": face.uncertain,
        "detected": face.detected,
        "seen": face.seen,
        "probabilities": {label: round(value, 4) for label, value in zip(labels, face.probabilities, strict=True)},
    }
