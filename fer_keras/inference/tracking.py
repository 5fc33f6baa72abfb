"""Who is who from frame to frame: stable ids for faces, boxes carried between detections, values smoothed over time.

Written here rather than taken from a library: supervision and Norfair bring OpenCV, matplotlib or filterpy with them, count in
frames instead of seconds, and know nothing of faces that are looked at again between detections.

All times are seconds of the stream's own clock, so that the same video gives the same tracks however fast it is analysed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from fer_keras.errors import ConfigError, DataError
from fer_keras.types import Detection

# How far a face is followed. "Sides" are lengths of the face's box.
_LEAST_OVERLAP = 0.25  # a detection is of a face that is in view if it overlaps its expected box by this share of the union
_REACH_SIDES = 0.6  # one that was lost may come back this far from where it is expected,
_REACH_SIDES_PER_S = 0.4  # and further the longer it was away,
_MAX_REACH_SIDES = 1.5  # up to here
_SIZE_RATIO = 1.7  # and about as large
_SAME_FACE_OVERLAP = 0.55  # two tracks this much on top of each other are one face
_MAX_SIDES_PER_S = 4.0  # quicker is a mistake

# How measurements are believed.
_POSITION_GAIN = 0.85  # the rest is trembling of the detector
_SIZE_GAIN = 0.6
_VELOCITY_S = 0.15  # time over which velocity is averaged
_DAMPING_S = 0.4  # a face that is not seen is expected to stop

_TENTATIVE_S = 0.7  # a face seen once that is not seen again is forgotten after this
_FIRST_FRAME_S = 0.04  # how long the first frame of a face counts in its average, before which nothing is known


@dataclass
class Track:
    """One face as the tracker follows it.

    track_id: 1, 2, ... as they are confirmed; 0 for one that is not confirmed yet. centre, size, velocity:
    float (2,), pixels and pixels/s. seen_s: when it was last seen; detected_s: when last by the detector itself. missed: when it
    was last looked for, it was not seen. lost: it has not been seen for so long that it is no longer shown.
    """

    track_id: int
    centre: np.ndarray
    size: np.ndarray
    score: float
    landmarks_xy_px: tuple[tuple[float, float], ...] | None
    seen_s: float
    detected_s: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    missed: bool = False
    lost: bool = False

    @property
    def box_xyxy_px(self) -> tuple[float, float, float, float]:
        """Where the face is now, as far as is known."""
        (x, y), (width, height) = self.centre, self.size
        return (float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2))

    def state(self) -> dict[str, Any]:
        """All of it as JSON values, for `restored`; floats come back the same to the last bit."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(Track)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Track:
        """The track that gave this state."""
        landmarks = state["landmarks_xy_px"]
        arrays = {name: np.array(state[name], np.float64) for name in ("centre", "size", "velocity")}
        points = None if landmarks is None else tuple(tuple(point) for point in landmarks)
        return cls(**{**state, **arrays, "landmarks_xy_px": points})


class Tracker:
    """Gives faces ids that last. For each frame: `advance` to its time, then `update` with detections, or `correct`.

    carry_s: how long a face that is not seen is still shown where it is expected. remember_s: how long a face that went out of
    view gets its id back when one appears about there. redetect_s: how long a face lives on corrections alone.
    New faces get their id when they are seen a second time, so that a detector's mistake of one frame shows nothing; those of
    the very first frame get theirs at once.
    Raises ConfigError for times below 0.
    """

    def __init__(self, *, carry_s: float = 0.5, remember_s: float = 3.0, redetect_s: float = 1.5) -> None:
        for name, value in (("carry_s", carry_s), ("remember_s", remember_s), ("redetect_s", redetect_s)):
            if not value >= 0:
                raise ConfigError(f"{name} is a time of 0 seconds or more, got {value}")
        # Imported now, since it takes a good part of a second, which would be missed in the middle of a stream.
        import scipy.optimize  # noqa: F401

        self.carry_s, self.remember_s, self.redetect_s = carry_s, remember_s, redetect_s
        self.reset()

    def reset(self, ids_go_on: bool = False) -> None:
        """Forget all faces; ids start from 1 again, or go on, so that none means two faces."""
        self._tracks: list[Track] = []
        self._time_s: float | None = None
        self._confirmed = self._confirmed if ids_go_on else 0
        self._started = False

    def state(self) -> dict[str, Any]:
        """All that is known of the faces, as JSON values: `restore` goes on from it as if there had been no break."""
        return {
            "tracks": [each.state() for each in self._tracks],
            "time_s": self._time_s,
            "confirmed": self._confirmed,
            "started": self._started,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave, of this tracker or of another with the same settings."""
        self._tracks = [Track.restored(values) for values in state["tracks"]]
        self._time_s, self._confirmed, self._started = state["time_s"], state["confirmed"], state["started"]

    @property
    def tracks(self) -> list[Track]:
        """All faces in view, those not confirmed yet among them."""
        return [track for track in self._tracks if not track.lost]

    @property
    def visible(self) -> list[Track]:
        """The faces to show, by id: those seen, and for `carry_s` those looked for in vain, less those behind somebody else."""
        seen = [track.box_xyxy_px for track in self.tracks if not track.missed]

        def shown(track: Track) -> bool:
            if not track.missed:
                return True
            hidden = any(_overlap(track.box_xyxy_px, box) > _SAME_FACE_OVERLAP for box in seen)
            return not hidden and self._now() - track.seen_s <= self.carry_s

        return sorted((track for track in self.tracks if track.track_id and shown(track)), key=lambda track: track.track_id)

    @property
    def boxes_xyxy_px(self) -> list[tuple[float, float, float, float]]:
        """Where faces are or were last: those in view, those not confirmed yet, and those lost but remembered."""
        return [track.box_xyxy_px for track in self._tracks]

    def knows(self, track_id: int) -> bool:
        """Whether a face of this id is in view or remembered."""
        return any(track.track_id == track_id for track in self._tracks)

    def advance(self, time_s: float) -> None:
        """Move every face to where it is expected now. Raises DataError where time runs backwards."""
        step_s = 0.0 if self._time_s is None else time_s - self._time_s
        if not step_s >= 0:
            raise DataError(
                f"frames must come in order of time, got {time_s} s after {self._time_s} s; reset() for another video"
            )
        self._time_s = time_s
        for track in self._tracks:
            # Only who was looked for in vain can be gone: where frames are seconds apart, everybody was seen seconds ago.
            if track.missed and time_s - track.seen_s > (self.carry_s if track.track_id else _TENTATIVE_S):
                track.lost = True
            if not track.lost:
                track.centre = track.centre + track.velocity * step_s
                if track.missed:
                    track.velocity = track.velocity * math.exp(-step_s / _DAMPING_S)
        self._tracks = [
            track for track in self._tracks if not track.lost or (track.track_id and time_s - track.seen_s <= self.remember_s)
        ]

    def update(self, detections: Sequence[Detection]) -> list[Track]:
        """Take what the detector found in the whole frame at the time of `advance`. Returns tracks in view that it did not."""
        now = self._now()
        seen, missing = self.tracks, []
        pairs = _match_by_overlap(seen, detections)
        left = [detection for at, detection in enumerate(detections) if at not in pairs.values()]
        for at, track in enumerate(seen):
            if at in pairs:
                self._see(track, detections[pairs[at]], detected=True)
            else:
                missing.append(track)
        # What overlaps nobody may be someone who moved fast, or someone who was away.
        candidates = missing + [track for track in self._tracks if track.lost]
        pairs = _match_by_distance(candidates, left, now)
        for at, which in pairs.items():
            self._see(candidates[at], left[which], detected=True)
        returned = [candidates[at] for at in pairs]
        new = [detection for which, detection in enumerate(left) if which not in pairs.values()]
        for detection in sorted(new, key=lambda each: each.box_xyxy_px):  # ids from left to right
            self._begin(detection)
        self._started = True
        missing = [track for track in missing if not any(track is other for other in returned)]
        for track in missing:
            track.missed = True
        return missing

    def correct(self, tracks: Sequence[Track], found: Sequence[Detection | None]) -> None:
        """Take what was found where these tracks are expected; None: nothing.

        Who looks for a face that is behind another finds the one in front: it is of the track that expected it most there.
        """
        looked_for = {id(track) for track in tracks}
        taken = [track.box_xyxy_px for track in self.tracks if not track.missed and id(track) not in looked_for]
        pairs = [(track, each) for track, each in zip(tracks, found, strict=True) if each]
        answers = [(_overlap(track.box_xyxy_px, each.box_xyxy_px), track, each) for track, each in pairs]
        for track in tracks:
            track.missed = True
        for overlap, track, detection in sorted(answers, key=lambda answer: -answer[0]):
            stale = self._now() - track.detected_s > self.redetect_s
            another = any(_overlap(detection.box_xyxy_px, box) > _SAME_FACE_OVERLAP for box in taken)
            if overlap >= _LEAST_OVERLAP and not stale and not another:
                taken.append(detection.box_xyxy_px)
                self._see(track, detection, detected=False)

    def leave(self) -> list[Track]:
        """Forget all faces, since another scene begins, where ids go on. Returns those with an id, for `come_back`."""
        left = [track for track in self._tracks if track.track_id]
        self.reset(ids_go_on=True)
        return left

    def come_back(self, tracks: Sequence[Track]) -> None:
        """After `advance`: faces that were here before `leave` get their ids back where they appear about there again."""
        for track in tracks:
            track.missed = track.lost = True
            track.seen_s, track.velocity = self._now(), np.zeros(2)
        self._tracks.extend(tracks)

    def _now(self) -> float:
        if self._time_s is None:
            raise DataError("advance(time_s) comes before detections")
        return self._time_s

    def _begin(self, detection: Detection) -> None:
        now = self._now()
        x1, y1, x2, y2 = detection.box_xyxy_px
        centre, size = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), np.array([x2 - x1, y2 - y1])
        track = Track(0, centre, size, detection.score, detection.landmarks_xy_px, now, now)
        if not self._started:
            self._confirm(track)
        self._tracks.append(track)

    def _confirm(self, track: Track) -> None:
        self._confirmed += 1
        track.track_id = self._confirmed

    def _see(self, track: Track, detection: Detection, detected: bool) -> None:
        now = self._now()
        x1, y1, x2, y2 = detection.box_xyxy_px
        centre, size = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), np.array([x2 - x1, y2 - y1])
        gap_s = now - track.seen_s
        if track.lost:
            track.centre, track.size, track.velocity = centre, size, np.zeros(2)
        else:
            if gap_s > 0:
                # The expected place already has the velocity in it, so what is left is how wrong the velocity was.
                wrong = (centre - track.centre) / gap_s
                velocity = track.velocity + (1 - math.exp(-gap_s / _VELOCITY_S)) * wrong
                fastest = _MAX_SIDES_PER_S * float(size.max())
                track.velocity = velocity * min(1.0, fastest / max(float(np.hypot(*velocity)), 1e-9))
            track.centre = track.centre + _POSITION_GAIN * (centre - track.centre)
            track.size = track.size + _SIZE_GAIN * (size - track.size)
        track.score, track.landmarks_xy_px = detection.score, detection.landmarks_xy_px
        track.seen_s, track.lost, track.missed = now, False, False
        if detected:
            track.detected_s = now
        if not track.track_id and gap_s > 0:
            self._confirm(track)


def _plain(value: Any) -> Any:
    """A field of a track as JSON can hold it."""
    return np.asarray(value).tolist() if isinstance(value, (np.ndarray, np.generic, tuple)) else value


def _match_by_overlap(tracks: Sequence[Track], detections: Sequence[Detection]) -> dict[int, int]:
    """{track: detection} with the largest sum of overlaps, none below the least."""
    overlaps = np.array([[_overlap(t.box_xyxy_px, d.box_xyxy_px) for d in detections] for t in tracks])
    overlaps = overlaps.reshape(len(tracks), len(detections))
    return _assign(1 - overlaps, overlaps >= _LEAST_OVERLAP)


def _match_by_distance(tracks: Sequence[Track], detections: Sequence[Detection], now: float) -> dict[int, int]:
    """{track: detection} with the smallest sum of distances in sides of the face, none out of reach or of another size."""
    costs = np.empty((len(tracks), len(detections)))
    allowed = np.empty(costs.shape, bool)
    for row, track in enumerate(tracks):
        reach = min(_MAX_REACH_SIDES, _REACH_SIDES + _REACH_SIDES_PER_S * (now - track.seen_s))
        for column, detection in enumerate(detections):
            x1, y1, x2, y2 = detection.box_xyxy_px
            side, other = math.sqrt(max(detection.area_px, 1e-9)), math.sqrt(float(track.size.prod()))
            distance = math.hypot((x1 + x2) / 2 - track.centre[0], (y1 + y2) / 2 - track.centre[1]) / max(side, other)
            growth = abs(math.log(side / other))
            costs[row, column] = distance + growth
            allowed[row, column] = distance <= reach and growth <= math.log(_SIZE_RATIO)
    return _assign(costs, allowed)


def _assign(costs: np.ndarray, allowed: np.ndarray) -> dict[int, int]:
    """The cheapest pairs (Hungarian method), of the allowed ones."""
    if not allowed.any():
        return {}
    from scipy.optimize import linear_sum_assignment

    # A forbidden pair costs more than all allowed ones together, so that as many as possible are allowed.
    forbidden = 1.0 + float(costs[allowed].max()) * (len(costs) + 1) + len(costs)
    rows, columns = linear_sum_assignment(np.where(allowed, costs, forbidden))
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if allowed[row, column]}


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    return inside / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - inside)


class SmoothedEmotions:
    """What is shown of one face: probabilities averaged over time, and a label that does not flicker.

    smoothing_s: time constant of the exponential average; a change is shown to 63% after so long, at any frame rate; 0: none.
    lead: how far another label's probability must be ahead of that of the label shown before it takes its place, where frames
        follow each other quickly. The more a frame counts for itself, the less: nothing without smoothing, or seconds apart.
    """

    def __init__(self, smoothing_s: float, lead: float) -> None:
        self._smoothing_s, self._lead = smoothing_s, lead
        self._time_s = 0.0
        self._shown = 0
        self._weight = 0.0
        self.probabilities: np.ndarray | None = None

    def add(self, probabilities: np.ndarray, time_s: float) -> None:
        """Take the probabilities (classes,) of the frame at this time, which is not before the last one's."""
        fresh = np.asarray(probabilities, np.float64)
        lasted_s = _FIRST_FRAME_S if self.probabilities is None else time_s - self._time_s
        kept = math.exp(-lasted_s / self._smoothing_s) if self._smoothing_s > 0 else 0.0
        if self.probabilities is None:
            self.probabilities, self._shown, self._weight = fresh, int(fresh.argmax()), 1 - kept
        elif kept < 1:
            # The weights of all frames do not sum to 1 before long: as if they did, the first would count for all before it.
            weight = kept * self._weight + (1 - kept)
            self.probabilities = (kept * self._weight * self.probabilities + (1 - kept) * fresh) / weight
            self._weight = weight
            best = int(self.probabilities.argmax())
            if self.probabilities[best] > self.probabilities[self._shown] + kept * self._lead:
                self._shown = best
        self._time_s = time_s

    def state(self) -> dict[str, Any]:
        """What is known, as JSON values, for `restore`."""
        return {"time_s": self._time_s, "shown": self._shown, "weight": self._weight, "probabilities": _plain(self.probabilities)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self._time_s, self._shown, self._weight = state["time_s"], state["shown"], state["weight"]
        self.probabilities = None if state["probabilities"] is None else np.array(state["probabilities"], np.float64)

    @property
    def shown(self) -> int:
        """Index of the label shown."""
        return self._shown
