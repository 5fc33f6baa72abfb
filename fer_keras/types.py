"""Frozen dataclasses that cross rooms. Dicts stay inside one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """One face in a picture.

    box_xyxy_px: (x1, y1, x2, y2) in pixels of the picture, x2 and y2 exclusive; may reach outside the picture.
    score: confidence, higher is surer; detectors without one give 1.0.
    landmarks_xy_px: five points (left eye, right eye, nose, mouth left, mouth right, as seen in the picture), or None.
    """

    box_xyxy_px: tuple[float, float, float, float]
    score: float
    landmarks_xy_px: tuple[tuple[float, float], ...] | None = None

    @property
    def area_px(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.box_xyxy_px
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)


@dataclass(frozen=True)
class TrackedFace:
    """One person's face in one frame of a stream, with what the model says of it.

    track_id: stable from frame to frame, from 1. box_xyxy_px, score, landmarks_xy_px: as in Detection; the box is carried
    between detections. probabilities: calibrated and smoothed over time, in the order of the model's labels, sum 1.
    label: the name shown, which changes only where another is clearly ahead. confidence: probability of that label.
    uncertain: the confidence is below the threshold. detected: whether the detector ran and found it in this very frame.
    seen: False where it was looked for and not found: the box is where it is expected, and the values are those of before.
    """

    track_id: int
    box_xyxy_px: tuple[float, float, float, float]
    score: float
    probabilities: tuple[float, ...]
    label: str
    confidence: float
    uncertain: bool
    detected: bool = True
    seen: bool = True
    landmarks_xy_px: tuple[tuple[float, float], ...] | None = None
