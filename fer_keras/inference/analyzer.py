"""From the frames of a stream to tracked faces with what the model says of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_keras.detectors import Detector
from fer_keras.detectors.checks import check_image
from fer_keras.errors import ConfigError
from fer_keras.inference.recognizer import Recognizer
from fer_keras.inference.tracking import SmoothedEmotions, Track, Tracker
from fer_keras.types import TrackedFace

#: How far another label must be ahead before it takes the place of the one shown.
LABEL_LEAD = 0.1

# Cuts of a film. "Likeness" is the correlation of two frames' brightness in so many places, so that light switched on is no cut.
_PLACES = (18, 32)
_CUT_BELOW = 0.45  # two frames less alike than this are of different shots,
_CUT_DROP = 0.3  # if the two before them were so much more alike: what moves quickly does so for a while
_CUT_WITHIN_S = 0.15  # and they are this close in time
_SAME_SHOT_FROM = 0.6  # a shot that is at least this much like one before goes on with it
_RECENT_EVERY_S, _RECENT_KEPT = 0.5, 7  # what is like one of these is this shot still, in which faces are remembered for 3 s
_SHOTS_KEPT, _SHOT_KEPT_S = 4, 15.0
_LEAST_CONTRAST = 2.0  # standard deviation of brightness, 0..255, below which a frame (black, say) tells nothing


@dataclass
class _Shot:
    """What a film left at a cut: brightness (places,) of its last frame, when that was, and who was in view or remembered."""

    picture: np.ndarray
    time_s: float
    tracks: list[Track]

    def state(self) -> dict[str, Any]:
        tracks = [track.state() for track in self.tracks]
        return {"picture": self.picture.tolist(), "time_s": self.time_s, "tracks": tracks}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> _Shot:
        tracks = [Track.restored(each) for each in state["tracks"]]
        return cls(np.array(state["picture"], np.float64), state["time_s"], tracks)


class Analyzer:
    """Detector, tracker and recognizer on one stream. Not for several threads at once; a stream has one analyzer.

    The detector runs every `detect_every_s`. Between, a detector that can (MTCNN) looks again at the known faces alone; with
    another they are carried by their motion. All faces of a frame are recognised by one call of the model. A face that is
    not seen in a frame keeps its values.

    At a cut to another scene all ids end, since who is now where somebody was is somebody else; where the film cuts back to a
    scene within 15 s, those who are where they were then get their ids back.

    recognizer: may be replaced while the stream runs, by another thread too; smoothing then starts anew.
    smoothing_s: time constant in which probabilities are averaged, at any frame rate; 0: each frame for itself.
    detect_every_s: 0: every frame. tracker: with other settings than the default.
    Raises ConfigError for times below 0.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        detector: Detector,
        *,
        smoothing_s: float = 0.5,
        detect_every_s: float = 0.2,
        tracker: Tracker | None = None,
    ) -> None:
        for name, value in (("smoothing_s", smoothing_s), ("detect_every_s", detect_every_s)):
            if not value >= 0:
                raise ConfigError(f"{name} is a time of 0 seconds or more, got {value}")
        self.recognizer = recognizer
        self.detector = detector
        self.smoothing_s, self.detect_every_s = smoothing_s, detect_every_s
        #: Seconds that the stages of the last frame took: "detect", "recognize", "track".
        self.last_stage_s: dict[str, float] = {"detect": 0.0, "recognize": 0.0, "track": 0.0}
        self._tracker = tracker or Tracker()
        self.reset()

    def reset(self, ids_go_on: bool = False) -> None:
        """Forget all faces, for another video: ids start from 1 again, or go on, as in one table of a stream that was broken."""
        self._tracker.reset(ids_go_on)
        self._emotions: dict[int, SmoothedEmotions] = {}
        self._emotions_of: Recognizer | None = None
        self._time_s: float | None = None
        self._detected_s: float | None = None
        self._picture: np.ndarray | None = None
        self._recent: list[tuple[float, np.ndarray]] = []  # (time, picture) now and then, of this shot
        self._usual = 1.0  # likeness of the last two frames
        self._shots: list[_Shot] = []

    def state(self) -> dict[str, Any]:
        """All that is remembered of the frames until now, as JSON values. With `restore` a break is as if there had been none."""
        return {
            "tracker": self._tracker.state(),
            "emotions": {str(key): value.state() for key, value in self._emotions.items()},
            "time_s": self._time_s,
            "detected_s": self._detected_s,
            "picture": None if self._picture is None else self._picture.tolist(),
            "recent": [[time_s, picture.tolist()] for time_s, picture in self._recent],
            "usual": self._usual,
            "shots": [shot.state() for shot in self._shots],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, of an analyzer with the same models and settings."""
        self._tracker.restore(state["tracker"])
        self._emotions, self._emotions_of = {}, self.recognizer
        for key, value in state["emotions"].items():
            emotions = self._emotions[int(key)] = SmoothedEmotions(self.smoothing_s, LABEL_LEAD)
            emotions.restore(value)
        self._time_s, self._detected_s = state["time_s"], state["detected_s"]
        self._picture = None if state["picture"] is None else np.array(state["picture"], np.float64)
        self._recent = [(time_s, np.array(picture, np.float64)) for time_s, picture in state["recent"]]
        self._usual = state["usual"]
        self._shots = [_Shot.restored(each) for each in state["shots"]]

    def analyze(self, image_rgb: np.ndarray, time_s: float) -> list[TrackedFace]:
        """The faces in the frame at this time of the stream, by id.

        image_rgb: uint8 (h, w, 3). time_s: seconds, never less than the frame before; where it is less, another video has begun
        and all is forgotten, as by `reset`.
        Raises DataError for another picture; the faces of the stream are then as before.
        """
        check_image(image_rgb, "an analyzer")
        if self._time_s is not None and time_s < self._time_s:
            self.reset()
        start = time.perf_counter()
        back = self._cut(image_rgb, time_s)
        self._time_s = time_s
        self._tracker.advance(time_s)
        self._tracker.come_back(back)
        tracking = time.perf_counter() - start

        start = time.perf_counter()
        spent = self._look(image_rgb, time_s)
        found = time.perf_counter() - start
        faces = [track for track in self._tracker.visible if _inside(track, image_rgb.shape)]

        start = time.perf_counter()
        recognizer = self.recognizer  # another thread may put in another one meanwhile
        if recognizer is not self._emotions_of:
            self._emotions, self._emotions_of = {}, recognizer
        self._recognize(recognizer, image_rgb, faces, time_s)
        self.last_stage_s = {"detect": spent, "recognize": time.perf_counter() - start, "track": tracking + found - spent}
        return [self._shown(recognizer, track, time_s) for track in faces if track.track_id in self._emotions]

    @property
    def boxes_xyxy_px(self) -> list[tuple[float, float, float, float]]:
        """Where faces are or may be, (x1, y1, x2, y2) in pixels of the last frame: more than `analyze` gives.

        Those seen for the first time are among them, which are not shown yet, and those lost a short while ago, where they were
        last. For hiding faces.
        """
        return self._tracker.boxes_xyxy_px

    def _cut(self, image: np.ndarray, time_s: float) -> list[Track]:
        """Where a cut is before this frame, forget all faces. Returns those of the scene that the film cuts back to, if any."""
        picture = _brightness(image)
        if picture is None:
            return []
        before, self._picture = self._picture, picture
        if before is None:
            return []
        if not self._recent or self._time_s - self._recent[-1][0] >= _RECENT_EVERY_S:
            self._recent = [*self._recent, (self._time_s, before)][-_RECENT_KEPT:]
        usual, self._usual = self._usual, _likeness(before, picture)
        if self._usual > min(_CUT_BELOW, usual - _CUT_DROP) or time_s - self._time_s > _CUT_WITHIN_S:
            return []
        self._usual = 1.0
        if any(_likeness(recent, picture) >= _SAME_SHOT_FROM for _, recent in self._recent):
            return []  # what stood before the camera is gone
        self._recent = []
        known = [shot for shot in self._shots if time_s - shot.time_s <= _SHOT_KEPT_S]
        alike = [shot for shot in known if _likeness(shot.picture, picture) >= _SAME_SHOT_FROM]
        back = max(alike, key=lambda shot: _likeness(shot.picture, picture), default=None)
        known = [shot for shot in known if shot is not back]
        self._shots = [*known, _Shot(before, self._time_s, self._tracker.leave())][-_SHOTS_KEPT:]
        self._detected_s = None
        return [] if back is None else back.tracks

    def _look(self, image: np.ndarray, time_s: float) -> float:
        """Find the faces. Returns the seconds that the detector took; the rest is the tracker's."""
        spent = 0.0
        tracks = self._tracker.tracks
        if self._detected_s is None or time_s - self._detected_s >= self.detect_every_s - 1e-6:
            start = time.perf_counter()
            detections = self.detector.detect(image)
            spent += time.perf_counter() - start
            self._detected_s = time_s
            # A face that the whole search overlooks, one turned away say, may still be seen by looking right there.
            tracks = self._tracker.update(detections)
        if tracks and hasattr(self.detector, "refine"):
            start = time.perf_counter()
            found = self.detector.refine(image, [track.box_xyxy_px for track in tracks])
            spent += time.perf_counter() - start
            self._tracker.correct(tracks, found)
        return spent

    def _recognize(self, recognizer: Recognizer, image: np.ndarray, faces: list[Track], time_s: float) -> None:
        fresh = [track for track in faces if not track.missed or track.track_id not in self._emotions]
        if fresh:
            probabilities = recognizer.recognize(image, [track.box_xyxy_px for track in fresh])
            for track, row in zip(fresh, probabilities, strict=True):
                emotions = self._emotions.setdefault(track.track_id, SmoothedEmotions(self.smoothing_s, LABEL_LEAD))
                emotions.add(row, time_s)
        self._emotions = {key: value for key, value in self._emotions.items() if self._tracker.knows(key)}

    def _shown(self, recognizer: Recognizer, track: Track, time_s: float) -> TrackedFace:
        emotions = self._emotions[track.track_id]
        confidence = float(emotions.probabilities[emotions.shown])
        return TrackedFace(
            track_id=track.track_id,
            box_xyxy_px=track.box_xyxy_px,
            score=track.score,
            probabilities=tuple(map(float, emotions.probabilities)),
            label=recognizer.labels[emotions.shown],
            confidence=confidence,
            uncertain=confidence < recognizer.uncertain_below,
            detected=track.detected_s == time_s,
            seen=not track.missed,
            landmarks_xy_px=track.landmarks_xy_px,
        )


def _brightness(image: np.ndarray) -> np.ndarray | None:
    """uint8 (h, w, 3) -> float64 (places,), mean 0 and standard deviation 1; None where there is nothing to be seen."""
    if not image.size:
        return None
    (down, across), (height, width) = _PLACES, image.shape[:2]
    # Four pixels a place: to average all would take longer than to find the faces in a large picture.
    rows = ((np.arange(2 * down) + 0.5) * height / (2 * down)).astype(int)
    columns = ((np.arange(2 * across) + 0.5) * width / (2 * across)).astype(int)
    grey = image[rows[:, None], columns].reshape(down, 2, across, 2, 3).mean(axis=(1, 3, 4)).ravel()
    contrast = grey.std()
    return None if contrast < _LEAST_CONTRAST else (grey - grey.mean()) / contrast


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).mean())


def _inside(track: Track, shape: tuple[int, ...]) -> bool:
    """Whether the middle of the face is in the picture."""
    return bool(0 <= track.centre[0] < shape[1] and 0 <= track.centre[1] < shape[0])
