"""Everything of a server that is not HTTP: its models, detectors, streams, and the analysis of what visitors send."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from fer_keras import labels as names_of_labels
from fer_keras.data.images import resize, to_channels
from fer_keras.detectors import DETECTORS, create_detector
from fer_keras.errors import FerError
from fer_keras.models.exported import read_metadata
from fer_keras.types import TrackedFace
from serving.metrics import Metrics
from serving.model_paths import find_models
from serving.reception import Reception
from serving.settings import ServerConfig
from serving.sources import Source, create_source, shrunk
from serving.stream import Stream, TooManyError

if TYPE_CHECKING:
    from fer_keras.detectors import Detector
    from fer_keras.inference.analyzer import Analyzer
    from fer_keras.inference.recognizer import Recognizer
    from fer_keras.types import Detection

log = logging.getLogger("fer_keras.serving")
_Made = TypeVar("_Made")

#: Pictures that are decoded and analysed at the same time. More would not be faster, and each may be large.
WORKERS = 2
#: An upload waits so long for a place: a visitor's video that was left for another is noticed when its next line is sent.
VIDEO_WAIT_S = 3.0
#: Webcam visitors whose faces are tracked, and how long one is remembered who sends nothing more.
MAX_SESSIONS = 32
SESSION_S = 30.0
#: A stopping server waits so long for its threads; the rest of the three seconds that it has is for the others.
CLOSE_S = 0.8


class OnDemand(Generic[_Made]):
    """Things by name, each made when it is first asked for, once; others can be had meanwhile. Thread-safe."""

    def __init__(self, names: Iterable[str], make: Callable[[str], _Made]) -> None:
        self.names = tuple(names)
        self._make = make
        self._made: dict[str, _Made] = {}
        self._locks = {name: threading.Lock() for name in self.names}

    def __call__(self, name: str) -> _Made:
        """The one of this name, which must be one of `names`."""
        made = self._made.get(name)
        if made is not None:
            return made
        with self._locks[name]:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def stop(self) -> None:
        """Wait for what is being made, and make nothing any more: who asks for it waits for ever, as the process ends."""
        for lock in self._locks.values():
            lock.acquire()


class Engine:
    """The running parts of a server. Nothing runs before `start`, or before something is asked of it.

    sources: by title, instead of those that the settings name. Raises FerError where a model or file is not there.
    """

    def __init__(self, config: ServerConfig, sources: Sequence[Source] | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.paths = find_models(config.models)
        self.metadata = {name: read_metadata(path) for name, path in self.paths.items()}
        self.default_model = next(iter(self.paths))
        self.recognizers: OnDemand[Recognizer] = OnDemand(self.paths, self._open_recognizer)
        self.detectors: OnDemand[Detector] = OnDemand(DETECTORS, self._open_detector)
        self.upload_detectors: OnDemand[Detector] = OnDemand(DETECTORS, self._open_upload_detector)
        self.closing = threading.Event()
        self.streams: dict[str, Stream] = {}
        for source in sources or [create_source(spec, config.max_side_px) for spec in config.sources]:
            key = _unique_key(source.title, self.streams)
            self.streams[key] = Stream(
                key,
                source,
                config,
                self.metrics,
                model=self.default_model,
                recognizer=self.recognizers,
                detector=self.detectors,
                all_labels=self.all_labels,
            )
        self.reception = Reception(config)
        self._start_lock = threading.Lock()
        self._started = False
        self.ready = threading.Event()
        self.failure: str | None = None
        self._requests = threading.BoundedSemaphore(config.max_requests)
        self._workers = threading.BoundedSemaphore(WORKERS)
        self._videos = threading.BoundedSemaphore(WORKERS)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._sessions_lock = threading.Lock()

    def start(self) -> None:
        """Begin to load the first model and the detector, in the background; once, however often it is called."""
        with self._start_lock:
            if self._started or self.closing.is_set():
                return
            self._started = True
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def close(self) -> None:
        """End streams, recordings and the analysis of videos, and send all viewers away; returns within CLOSE_S."""
        self.closing.set()
        deadline = time.monotonic() + CLOSE_S
        closers = [threading.Thread(target=stream.close, args=(deadline,), daemon=True) for stream in self.streams.values()]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join(max(0.0, deadline - time.monotonic()))
        # Who analyses a video notices at its next frame, and deletes what is on the disk before giving the place back.
        free = [self._videos.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in range(WORKERS)]
        for _ in filter(None, free):
            self._videos.release()

    def leave(self) -> None:
        """As `close`, where Python is about to end in order: OpenVINO would take it down with a signal if a thread were inside
        it then. No thread can be started any more."""
        self.closing.set()
        deadline = time.monotonic() + CLOSE_S
        for stream in self.streams.values():
            stream.close(deadline)
        for made in (self.recognizers, self.detectors, self.upload_detectors):
            made.stop()

    def all_labels(self) -> tuple[str, ...]:
        """The labels of all models together, emotions first."""
        return names_of_labels.ordered(label for metadata in self.metadata.values() for label in metadata["labels"])

    # --- what visitors send --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn to decode and analyse something. Raises TooManyError where too many wait already."""
        if not self._requests.acquire(blocking=False):
            raise TooManyError(f"{self.config.max_requests} requests are waiting already; try again later")
        try:
            with self._workers:
                yield
        finally:
            self._requests.release()

    def find_faces(
        self, images_rgb: Sequence[np.ndarray], *, whole: bool, model: str, detector: str
    ) -> list[list[dict[str, Any]]]:
        """The faces of some pictures, surest first, as JSON values; all faces go to the model in one call.

        images_rgb: uint8 (h, w, 3). whole: each picture is one face already, squeezed to a square as in training.
        """
        recognizer = self.recognizers(model)
        if whole:
            size = recognizer.image_size
            faces = [resize(to_channels(image, recognizer.channels), size) for image in images_rgb]
            boxes = [[(0.0, 0.0, float(image.shape[1]), float(image.shape[0]))] for image in images_rgb]
            scores: list[list[float | None]] = [[None] for _ in images_rgb]
            answers = [row[None] for row in recognizer.predict(np.stack(faces))]
        else:
            boxes, scores, small = [], [], []
            for image in images_rgb:
                # Faces too small to be found after this are too small to be read.
                small.append(shrunk(image, self.config.max_side_px))
                start = time.perf_counter()
                found = self.upload_detectors(detector).detect(small[-1])[: self.config.max_faces]
                self.metrics.observe({"detect": time.perf_counter() - start})
                boxes.append([each.box_xyxy_px for each in found])
                scores.append([each.score for each in found])
            start = time.perf_counter()
            answers = recognizer.recognize_many(small, boxes)
            self.metrics.observe({"recognize": time.perf_counter() - start})
            boxes = [
                [tuple(edge * image.shape[1] / few.shape[1] for edge in box) for box in of_picture]
                for image, few, of_picture in zip(images_rgb, small, boxes, strict=True)
            ]
        self.metrics.faces.labels("upload").inc(sum(map(len, boxes)))
        return [
            [_face_json(recognizer, box, score, row) for box, score, row in zip(of_picture, scores_of_picture, rows, strict=True)]
            for of_picture, scores_of_picture, rows in zip(boxes, scores, answers, strict=True)
        ]

    def track_faces(
        self, session: str, image_rgb: np.ndarray, *, model: str, detector: str
    ) -> tuple[tuple[str, ...], list[TrackedFace]]:
        """The faces of the next picture of a visitor's webcam, with ids: the labels of the model, and the faces.

        session: made up by the visitor's page. Raises TooManyError where MAX_SESSIONS others are at it.
        """
        recognizer = self.recognizers(model)
        image_rgb = shrunk(image_rgb, self.config.max_side_px)
        held = self._session(session, recognizer, self.detectors(detector))
        with held.lock:
            held.analyzer.recognizer, held.analyzer.detector = recognizer, self.detectors(detector)
            faces = held.analyzer.analyze(image_rgb, time.monotonic())[: self.config.max_faces]
            self.metrics.observe(held.analyzer.last_stage_s)
        self.metrics.faces.labels("webcam").inc(len(faces))
        return recognizer.labels, faces

    @contextlib.contextmanager
    def video_analyzer(self, model: str, detector: str) -> Iterator[Analyzer]:
        """An analyzer for one uploaded video. Raises TooManyError where enough others are being analysed for VIDEO_WAIT_S."""
        from fer_keras.inference.analyzer import Analyzer

        if not self._videos.acquire(timeout=VIDEO_WAIT_S):
            raise TooManyError(f"{WORKERS} videos are being analysed already; try again later")
        try:
            yield Analyzer(self.recognizers(model), self.upload_detectors(detector))
        finally:
            self._videos.release()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            recognizer = self.recognizers(self.default_model)
            detector = self.detectors(self.config.detector)
            blank = np.zeros((480, 640, 3), np.uint8)
            detector.detect(blank)  # what is compiled at first use is compiled now
            recognizer.recognize(blank, [(0, 0, 64, 64)])
            self.ready.set()
            self.upload_detectors(self.config.detector)  # whoever sends the first picture need not wait for it
        except Exception as error:
            self.failure = str(error) if isinstance(error, FerError) else f"unexpected {type(error).__name__}"
            log.exception("the model could not be loaded")

    def _open_recognizer(self, name: str) -> Recognizer:
        from fer_keras.inference.recognizer import Recognizer

        return Recognizer(self.paths[name], runtime=self.config.runtime)

    def _open_detector(self, name: str) -> Detector:
        return create_detector(name, self.config.min_face_px, self.config.runtime)

    def _open_upload_detector(self, name: str) -> Detector:
        thorough = create_detector(name, self.config.upload_min_face_px, self.config.runtime)
        return _UploadDetector(thorough, self.detectors(name), self.config.max_side_px // 2)

    def _session(self, name: str, recognizer: Recognizer, detector: Detector) -> _Session:
        from fer_keras.inference.analyzer import Analyzer

        now = time.monotonic()
        with self._sessions_lock:
            while self._sessions and now - next(iter(self._sessions.values())).used > SESSION_S:
                self._sessions.popitem(last=False)
            if name not in self._sessions:
                if len(self._sessions) >= MAX_SESSIONS:
                    raise TooManyError(f"{MAX_SESSIONS} webcams are being analysed already; try again later")
                self._sessions[name] = _Session(Analyzer(recognizer, detector, detect_every_s=0.0))
            self._sessions.move_to_end(name)
            self._sessions[name].used = now
            return self._sessions[name]


class _UploadDetector:
    """One detector for pictures of up to `side` pixels and one for larger ones, in which faces are larger too.

    Looked at closely, a large picture has faces where there are none: on a sleeve, say.
    """

    def __init__(self, thorough: Detector, coarse: Detector, side: int) -> None:
        self._thorough, self._coarse, self._side = thorough, coarse, side

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        return (self._thorough if max(image_rgb.shape[:2]) <= self._side else self._coarse).detect(image_rgb)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thorough, name)  # `refine`, where the detector has it


class _Session:
    """One visitor's webcam."""

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer
        self.lock = threading.Lock()
        self.used = 0.0


def _face_json(recognizer: Recognizer, box: Sequence[float], score: float | None, row: np.ndarray) -> dict[str, Any]:
    best = int(row.argmax())
    return {
        "box": [round(edge, 1) for edge in box],
        "score": None if score is None else round(score, 4),
        "label": recognizer.labels[best],
        "confidence": round(float(row[best]), 4),
        "uncertain": float(row[best]) < recognizer.uncertain_below,
        "probabilities": {label: round(float(value), 4) for label, value in zip(recognizer.labels, row, strict=True)},
    }


def _unique_key(title: str, taken: Mapping[str, object]) -> str:
    """A title as it may stand in a URL: "camera 0" -> "camera-0"."""
    key = base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "source"
    number = 2
    while key in taken:
        key, number = f"{base}-{number}", number + 1
    return key
