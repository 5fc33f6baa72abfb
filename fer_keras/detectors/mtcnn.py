"""MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks").

The networks, weights, thresholds and arithmetic of the `mtcnn` package 1.x, and its results, run well: one graph for the
whole pyramid, prepared once per frame size; R-net and O-net on batches; boxes handled as arrays. Three stages: P-net looks at
every place of a pyramid of shrunk pictures, R-net at what is left of its proposals, O-net at what R-net leaves.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fer_keras.detectors.checks import check_image, check_min_face_px
from fer_keras.detectors.mtcnn_networks import CALLERS, MEAN, MtcnnNetworks, PatchNetwork, ProposalNetwork
from fer_keras.errors import DataError
from fer_keras.runtime import keep_freed_memory
from fer_keras.types import Detection

if TYPE_CHECKING:
    import scipy.sparse

# The package's defaults.
_DEFAULT_MIN_FACE_PX = 20
_WINDOW = 12  # what P-net sees at a place, in pixels of the level
_STRIDE = 2
_LEVEL_FACTOR = 0.709
_MIN_SCORES = {"proposal": 0.6, "refine": 0.7, "output": 0.8}
_MAX_OVERLAPS = {"level": 0.5, "proposal": 0.7, "refine": 0.7, "output": 0.7}

# The networks also find some faces smaller than the windows that they look through, down to half. Those smaller than asked for
# by more than this are left out, in pixels; by default and a bit above none are, as in the package.
_SMALLER_BY_PX = 20

_SMALLEST_LEVEL = 11  # pixels; of less P-net makes nothing
_FRAME_SIZES_KEPT = 4
#: Batches are padded to one of these, since a runtime prepares itself for each size that it meets; larger ones are cut up.
_BATCHES = (1, 2, 3, 4, 6, *range(8, 65, 8), *range(80, 257, 16))

_Share = TypeVar("_Share")


class MtcnnDetector:
    """MTCNN with the weights of the `mtcnn` package. The score is a probability.

    min_face_px: side of the smallest face that is looked for. With 20 the boxes are those of `mtcnn.MTCNN().detect_faces`;
        with more they are those of its min_face_size, less the faces far below it; the package itself can't run that for most
        picture sizes (it counts the levels of its pyramid as if the size were 20, and fails on the empty ones). With less the
        large faces are found too, which the package leaves out for the same reason.
    runtime: as in `create_detector`.
    Raises ConfigError where min_face_px is no whole number of 10 or more, and FerError where the package is missing.
    """

    def __init__(self, min_face_px: int = _DEFAULT_MIN_FACE_PX, runtime: str = "auto") -> None:
        check_min_face_px(min_face_px)
        keep_freed_memory()
        self._networks = MtcnnNetworks(runtime)
        self._frames: OrderedDict[tuple[int, int], _Frame | None] = OrderedDict()
        self._one_at_a_time = threading.Lock()
        self._helpers = ThreadPoolExecutor(CALLERS - 1, thread_name_prefix="mtcnn")
        self.min_face_px = min_face_px

    @property
    def runtime(self) -> str:
        """What runs the networks: "openvino" or "tensorflow"."""
        return self._networks.runtime

    def detect(self, image_rgb: np.ndarray) -> list[Detection]:
        """Faces in uint8 (h, w, 3) RGB, surest first, each with its five landmarks.

        The second picture of a size takes some tenths of a second longer, since the networks are then made for that size; the
        last few sizes are kept.
        """
        check_image(image_rgb)
        with self._one_at_a_time:
            frame = self._frame(*image_rgb.shape[:2])
            if frame is None:
                return []
            boxes = _squared(_proposals(frame, frame.answers(image_rgb, self._helpers)))
            picture = self._networks.prepared(image_rgb)
            boxes = _squared(self._refined(picture, boxes))
            found = _detections(*self._output(picture, boxes), image_rgb.shape)
        return [face for face in found if _longer_side(face) >= self.min_face_px - _SMALLER_BY_PX]

    def refine(self, image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Sequence[float]]) -> list[Detection | None]:
        """Look again at faces that are about in these boxes, with O-net alone: a millisecond instead of a whole detection.

        Returns for each box the face that is there, or None where O-net sees none. Raises DataError for another picture, or
        what are no boxes (x1, y1, x2, y2) with an area.
        """
        check_image(image_rgb)
        try:
            boxes = np.array(boxes_xyxy_px, np.float64).reshape(-1, 4)
        except (TypeError, ValueError):
            given = " ".join(repr(boxes_xyxy_px).split())[:200]  # arrays are shown in several lines
            raise DataError(f"boxes must be a list of (x1, y1, x2, y2), got {given}") from None
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            raise DataError(f"boxes must be finite (x1, y1, x2, y2) with x1 < x2 and y1 < y2, got {boxes.tolist()}")
        if not len(boxes) or not image_rgb.size:
            return [None] * len(boxes)
        with self._one_at_a_time:
            answers = _in_batches(self._networks.output_net, self._networks.prepared(image_rgb), _squared(boxes))
        boxes, landmarks, scores = _adjusted(_squared(boxes), answers)
        found: list[Detection | None] = []
        for row in range(len(boxes)):
            faces = _detections(boxes[row : row + 1], landmarks[row : row + 1], scores[row : row + 1], image_rgb.shape)
            found.append(faces[0] if faces and faces[0].score > _MIN_SCORES["output"] else None)
        return found

    def _frame(self, height: int, width: int) -> _Frame | None:
        """What is prepared for pictures of a size; None for those too small to hold a face."""
        size = (height, width)
        seen = size in self._frames
        frame = self._frames.pop(size, None)
        if frame is None:
            scales = _pyramid_scales(height, width, self.min_face_px)
            if not scales:
                return None
            # Photographs come in many sizes, each once; a stream in one. So the first of a size is not worth a graph of its own,
            # and nothing of it is kept but that it was seen.
            frame = _Frame.prepare(height, width, scales, self._networks, lasting=seen)
        self._frames[size] = frame if seen else None
        while len(self._frames) > _FRAME_SIZES_KEPT:
            self._frames.popitem(last=False)
        return frame

    def _refined(self, picture: Any, boxes: np.ndarray) -> np.ndarray:
        answers = _in_batches(self._networks.refine_net, picture, boxes)
        scores = _sigmoid(answers[:, 4])
        boxes = _moved(boxes, answers[:, :4], 1)
        order = _best_first(scores, scores > _MIN_SCORES["refine"])
        return boxes[order][_survivors(boxes[order], _MAX_OVERLAPS["refine"])]

    def _output(self, picture: Any, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        answers = _in_batches(self._networks.output_net, picture, boxes)
        boxes, landmarks, scores = _adjusted(boxes, answers)
        order = _best_first(scores, scores > _MIN_SCORES["output"])
        order = order[_survivors(boxes[order], _MAX_OVERLAPS["output"], of_smaller=True)]
        return boxes[order], landmarks[order], scores[order]


@dataclass(frozen=True)
class _Levels:
    """Some levels of the pyramid of a frame size, and P-net for them.

    shrink_y: (rows of all levels, height), shrink_x: one (columns, width) for each level: averages over areas, as matrices.
    """

    network: ProposalNetwork
    sizes_xy: list[tuple[int, int]]
    shrink_y: scipy.sparse.csr_array
    shrink_x: list[scipy.sparse.csr_array]

    @classmethod
    def prepare(cls, height: int, width: int, sizes_xy: list[tuple[int, int]], network: ProposalNetwork) -> _Levels:
        import scipy.sparse

        return cls(
            network=network,
            sizes_xy=sizes_xy,
            shrink_y=scipy.sparse.vstack([_area_average(height, y) for _, y in sizes_xy], format="csr"),
            shrink_x=[_area_average(width, x) for x, _ in sizes_xy],
        )

    def pictures(self, image: np.ndarray) -> list[np.ndarray]:
        """float32 (h, w * 3) -> one float32 (1, x, y, 3) for each level."""
        import cv2

        shrunk = self.shrink_y @ image
        levels, row = [], 0
        for (columns, rows), shrink in zip(self.sizes_xy, self.shrink_x, strict=True):
            x_major = cv2.transpose(shrunk[row : row + rows].reshape(rows, -1, 3))
            levels.append((shrink @ x_major.reshape(-1, rows * 3)).reshape(1, columns, rows, 3))
            row += rows
        return levels


@dataclass(frozen=True)
class _Frame:
    """All that depends on the size of the picture alone.

    corners, scales, levels: of each of P-net's answers, end to end: left and upper edge (n, 2) of the window that it is
    about, in pixels of its level; scale of the level (n,); number of the level (n,).
    """

    parts: list[_Levels]
    corners: np.ndarray
    scales: np.ndarray
    levels: np.ndarray

    @classmethod
    def prepare(cls, height: int, width: int, scales: list[float], networks: MtcnnNetworks, lasting: bool) -> _Frame:
        # The package hands `shape * scale` to TensorFlow, which cuts off the fractions.
        sizes = [(int(width * scale), int(height * scale)) for scale in scales]
        # To make a level of the whole picture takes as long as P-net takes for a hundredth of its pixels.
        shares = _fair_shares([x * y + width * height / 100 for x, y in sizes])
        order = np.concatenate(shares)
        parts = []
        for caller, share in enumerate(shares):
            some = [sizes[level] for level in share]
            parts.append(_Levels.prepare(height, width, some, networks.proposal_net(some, lasting, caller)))
        corners = [_cell_corners(*sizes[level]) for level in order]
        counts = [len(each) for each in corners]
        return cls(
            parts=parts,
            corners=np.concatenate(corners),
            scales=np.repeat(np.array(scales)[order], counts),
            levels=np.repeat(order, counts),
        )

    def answers(self, image_rgb: np.ndarray, helpers: Executor) -> np.ndarray:
        """P-net's answers at all levels: float32 (n, 5)."""
        image = np.subtract(image_rgb, np.float32(MEAN), dtype=np.float32).reshape(len(image_rgb), -1)
        return np.concatenate(_together(lambda part: part.network(part.pictures(image)), self.parts, helpers))


def _pyramid_scales(height: int, width: int, min_face_px: int) -> list[float]:
    """How much the picture is shrunk at each level, the largest first."""
    shorter = min(height, width)
    if shorter < _WINDOW:
        return []

    def count(side: float) -> int:
        return round(-(math.log(side / _WINDOW) / math.log(_LEVEL_FACTOR) + 1))

    # As many as the package makes, or where it stops too early for a small min_face_px as many as it should; less the empty.
    levels = max(count(shorter), count(shorter * _DEFAULT_MIN_FACE_PX / min_face_px))
    scales = [_WINDOW / min_face_px * _LEVEL_FACTOR**level for level in range(levels)]
    return [scale for scale in scales if int(shorter * scale) >= _SMALLEST_LEVEL]


def _area_average(size: int, smaller: int) -> scipy.sparse.csr_array:
    """(smaller, size): the mean over `size / smaller` neighbours, those at the borders by their share."""
    import scipy.sparse

    edges = np.arange(smaller + 1) * (size / smaller)
    widest = math.ceil(size / smaller) + 1
    columns = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(widest)
    covered = np.minimum(columns + 1, edges[1:, None]) - np.maximum(columns, edges[:-1, None])
    rows = np.broadcast_to(np.arange(smaller)[:, None], columns.shape)
    used = (covered > 1e-9) & (columns < size)
    values = (covered / (size / smaller)).astype(np.float32)
    places = rows[used].astype(np.int32), columns[used].astype(np.int32)
    return scipy.sparse.csr_array((values[used], places), shape=(smaller, size))


def _cell_corners(columns: int, rows: int) -> np.ndarray:
    """Left and upper edges (n, 2), in pixels of the level, of the windows that P-net's answers are about, in their order."""
    across, down = (math.ceil((length - 2) / 2) - 4 for length in (columns, rows))
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down), indexing="ij"), axis=-1)
    return (grid.reshape(-1, 2) * _STRIDE + 1).astype(np.float64)


def _proposals(frame: _Frame, answers: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) where P-net sees a face, best first."""
    least = _MIN_SCORES["proposal"]
    cells = np.flatnonzero(answers[:, 4] > math.log(least / (1 - least)))
    cells = cells[np.lexsort((-answers[cells, 4], frame.levels[cells]))]
    corners = frame.corners[cells]
    windows = np.concatenate([corners, corners + (_WINDOW - 1)], axis=1)
    boxes = _moved(windows, answers[cells, :4], 0) / frame.scales[cells, None]
    kept = _survivors(boxes, _MAX_OVERLAPS["level"], groups=frame.levels[cells])
    kept = kept[np.argsort(-answers[cells[kept], 4], kind="stable")]
    return boxes[kept][_survivors(boxes[kept], _MAX_OVERLAPS["proposal"])]


def _in_batches(network: PatchNetwork, picture: Any, boxes: np.ndarray) -> np.ndarray:
    """The network's answers for what is in the boxes."""

    def answers(some: np.ndarray) -> np.ndarray:
        padded = np.zeros((next(each for each in _BATCHES if each >= len(some)), 4))
        padded[: len(some)] = some
        return network(picture, padded)[: len(some)]

    starts = range(0, max(len(boxes), 1), _BATCHES[-1])
    return np.concatenate([answers(boxes[start : start + _BATCHES[-1]]) for start in starts])


def _together(work: Callable[[_Share], np.ndarray], shares: Sequence[_Share], helpers: Executor) -> list[np.ndarray]:
    """What the work makes of each of the shares, at the same time: of the first in this thread, of the others in helpers."""
    waiting = [helpers.submit(work, share) for share in shares[1:]]
    return [work(shares[0]), *(each.result() for each in waiting)]


def _fair_shares(costs: Sequence[float]) -> list[list[int]]:
    """Numbers of the costs, the largest first, in as many lists as threads may work, of about the same sums."""
    shares: list[list[int]] = [[] for _ in range(min(CALLERS, len(costs)))]
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        min(shares, key=lambda share: sum(costs[each] for each in share)).append(number)
    return shares


def _adjusted(boxes: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """O-net's boxes (n, 4), landmarks (n, 5, 2) and scores (n,) from the boxes that it was shown."""
    sides = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None, :]
    landmarks = np.stack([answers[:, 4:9], answers[:, 9:14]], axis=-1) * sides + boxes[:, None, :2] - 1
    return _moved(boxes, answers[:, :4], 1), landmarks, _sigmoid(answers[:, 14])


def _moved(boxes: np.ndarray, offsets: np.ndarray, inclusive: int) -> np.ndarray:
    """Boxes moved by offsets in shares of their sides. inclusive: 1 where the package counts the last pixel to the side."""
    sides = boxes[:, 2:] - boxes[:, :2] + inclusive
    return boxes + offsets * np.concatenate([sides, sides], axis=1)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """The square of the longer side about the same centre."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True, initial=-np.inf)
    corner = boxes[:, :2] + sides / 2 - longer / 2
    return np.concatenate([corner, corner + longer], axis=1)


def _best_first(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-scores[rows], kind="stable")]


def _survivors(boxes: np.ndarray, max_overlap: float, of_smaller: bool = False, groups: np.ndarray | None = None) -> np.ndarray:
    """Rows of the boxes (n, 4), best first, that no better box overlaps by more than a share of the union (or the smaller).

    As in the package, and other than in greedy suppression, a box that is itself suppressed still suppresses others.
    groups: (n,) rising numbers; boxes of other groups are let be. By default all boxes are one group.
    """
    if groups is None:
        groups = np.zeros(len(boxes), np.int64)
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T, np.float32)
    areas = (x2 - x1) * (y2 - y1)
    kept = np.empty(len(boxes), bool)
    block = 128
    for start in range(0, len(boxes), block):
        end = min(start + block, len(boxes))
        first = int(np.searchsorted(groups, groups[start]))
        some, better = slice(start, end), slice(first, end)
        common = np.minimum(x2[some, None], x2[better]) - np.maximum(x1[some, None], x1[better])
        np.maximum(common, 0, out=common)
        common *= np.maximum(np.minimum(y2[some, None], y2[better]) - np.maximum(y1[some, None], y1[better]), 0)
        both = areas[some, None], areas[better]
        whole = np.minimum(*both) if of_smaller else np.add(*both) - common
        too_much = (common > max_overlap * whole) & (common > 0) & (groups[some, None] == groups[better])
        kept[some] = ~np.tril(too_much, start - first - 1).any(axis=1)
    return np.flatnonzero(kept)


def _longer_side(face: Detection) -> float:
    x1, y1, x2, y2 = face.box_xyxy_px
    return max(x2 - x1, y2 - y1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _detections(boxes: np.ndarray, landmarks: np.ndarray, scores: np.ndarray, shape: tuple[int, ...]) -> list[Detection]:
    """Boxes inside the picture, and whole pixels, as the package gives them; those with nothing inside are left out."""
    height, width = shape[:2]
    boxes = np.rint(np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1]))
    landmarks = np.rint(landmarks)
    return [
        Detection(tuple(box), score, tuple(map(tuple, points)))
        for box, points, score in zip(boxes.tolist(), landmarks.tolist(), scores.tolist(), strict=True)
        if box[2] > box[0] and box[3] > box[1]
    ]
