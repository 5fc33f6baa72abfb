"""How well faces are followed: real portraits that move over a background, so that who is where is known in every frame.

    python -m benchmarks.tracking --portraits DIR [--only WORDS]

Beside it, on the same frames, what is usually written first: the detector in every frame, boxes joined by their overlap
(Hungarian method), remembered for a second. --portraits: a folder of square photographs (.jpg) of one person each, LFW's say; the
first person of a name "Person_0001.jpg" counts once. Prints, a line a scene: the share of visible faces that have a box;
changes of id; ids for how many people; ids that several people had; boxes where nobody was, as rows of a table would tell.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fer_keras.cli import CommandParser, run
from fer_keras.errors import DataError

WIDTH, HEIGHT = 640, 360
SEEN_SHARE = 0.65  # of a face that must be in view for it to count as visible
Boxes = dict[str, tuple[float, float, float, float]]
#: Of each frame: seconds; who is pasted, the last in front: (name, portrait, centre x, y, side); whether a wall hides all.
Scene = Iterator[tuple[float, list[tuple[str, int, float, float, float]], bool]]


def crossing(fps: float, speed: float, front: str) -> Scene:
    """Two people pass each other; `front`, "A" (who has the first id) or "B", is before the other."""
    for step in range(int((420 / speed + 1) * fps)):
        moved = min(max(step / fps - 0.5, 0) * speed, 420)
        people = [("A", 0, 110 + moved, 180, 200), ("B", 1, 530 - moved, 180, 200)]
        yield step / fps, people if front == "B" else people[::-1], False


def hidden(gap_s: float, fps: float = 25) -> Scene:
    """Somebody is behind a wall for a while."""
    for step in range(int((4 + gap_s) * fps)):
        now = step / fps
        yield now, [("A", 2, 320, 180, 220)], 2 <= now < 2 + gap_s


def cuts(fps: float, returning: bool) -> Scene:
    """A shot of 2 s after the other, of one person each: A, B, C at one place, or A and B in turn."""
    for step in range(int(8 * fps)):
        shot = int(step / fps / 2)
        number = shot % 2 if returning else shot % 3
        yield step / fps, [("ABC"[number], 3 + number, (220, 400)[number] if returning else 320, 180, 220)], False


def comes_later(fps: float) -> Scene:
    """Somebody joins another after 8 s."""
    for step in range(int(20 * fps)):
        people = [("A", 6, 170, 180, 220), ("B", 7, 470, 180, 220)]
        yield step / fps, people[: 1 + (step / fps >= 8)], False


def crowd(fps: float = 12) -> Scene:
    """Nine people who sway."""
    for step in range(int(4 * fps)):
        now = step / fps
        places = [(100 + 220 * (n % 3), 60 + 120 * (n // 3)) for n in range(9)]
        sway = [(8 * math.sin(1.3 * now + n), 8 * math.cos(now + n)) for n in range(9)]
        yield now, [(str(n), n, x + sway[n][0], y + sway[n][1], 110) for n, (x, y) in enumerate(places)], False


def leaves(fps: float = 25) -> Scene:
    """Somebody walks out of the picture and comes back half a second later."""
    for step in range(int(7 * fps)):
        now = step / fps
        away = 300 * max(now - 1, 0) if now < 2.7 else 300 * max(1.7 - max(now - 3.2, 0), 0)
        yield now, [("A", 8, 320 + away, 180, 220)], False


SCENES: dict[str, tuple[Callable[..., Scene], dict]] = {
    **{
        f"crossing, {fps} frames/s, {speed} px/s, {'older' if front == 'A' else 'newer'} id in front": (
            crossing,
            {"fps": fps, "speed": speed, "front": front},
        )
        for fps, speed in ((25, 120), (25, 300), (10, 120))
        for front in "AB"
    },
    **{f"hidden for {gap} s": (hidden, {"gap_s": gap}) for gap in (0.2, 1)},
    "leaves and returns": (leaves, {}),
    "cuts, three people at one place": (cuts, {"fps": 25, "returning": False}),
    "cuts, two people in turn": (cuts, {"fps": 25, "returning": True}),
    **{f"one joins, {fps} frames/s": (comes_later, {"fps": fps}) for fps in (0.5, 1, 5)},
    "nine people": (crowd, {}),
}


class Portraits:
    """Photographs to paste, and where the face is in each, in shares of its side."""

    def __init__(self, folder: Path, count: int, detector: object) -> None:
        from PIL import Image

        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; name one of photographs")
        self.pictures: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        people = {path.stem.rsplit("_", 1)[0]: path for path in sorted(folder.glob("*.jpg"), reverse=True)}
        for _, path in sorted(people.items(), key=lambda item: hash_of(item[0])):
            if len(self.pictures) == count:
                return
            large = np.full((480, 480, 3), 120, np.uint8)
            large[80:400, 80:400] = np.asarray(Image.open(path).convert("RGB").resize((320, 320)))
            found = [each for each in detector.detect(large) if each.area_px > 80**2]
            if len(found) == 1:
                self.pictures.append(large[80:400, 80:400])
                self.faces.append((np.array(found[0].box_xyxy_px) - 80) / 320)
        raise DataError(f"{folder} has not {count} portraits (.jpg) of different people with one face each")

    def paste(self, frame: np.ndarray, number: int, x: float, y: float, side: float) -> tuple[float, ...]:
        """Paste one, cut to an oval as heads are; gives the box of its face."""
        import cv2

        scale = side / 320
        place = np.array([[scale, 0, x - side / 2], [0, scale, y - side / 2]])
        down, across = np.mgrid[:320, :320] / 160 - 1
        oval = np.clip((1 - np.hypot(across / 0.84, down)) / 0.06, 0, 1).astype(np.float32)
        size = frame.shape[1::-1]
        share = cv2.warpAffine(oval, place, size)[:, :, None]
        moved = cv2.warpAffine(self.pictures[number], place, size, flags=cv2.INTER_AREA)
        frame[:] = (frame * (1 - share) + moved * share + 0.5).astype(np.uint8)
        return tuple(np.array([x, y, x, y]) + (self.faces[number] - 0.5) * side)


def hash_of(name: str) -> int:
    """A fixed order that is not that of the alphabet."""
    import zlib

    return zlib.crc32(name.encode())


def filmed(scene: Scene, portraits: Portraits) -> Iterator[tuple[float, np.ndarray, Boxes, set[str]]]:
    """(seconds, frame, boxes of all people, who is visible)."""
    import cv2
    from skimage import data

    wall = cv2.GaussianBlur(cv2.resize(data.brick(), (1400, 800)), (0, 0), 2)
    for now, people, covered in scene:
        shot = int(now / 2) if len({name for name, *_ in people}) == 1 and people[0][1] in (3, 4, 5) else 0
        left = int(40 * now + 210 * shot) % 700
        frame = np.stack([wall[20 : 20 + HEIGHT, left : left + WIDTH]] * 3, axis=2)
        boxes: Boxes = {}
        for name, number, x, y, side in people:
            boxes[name] = portraits.paste(frame, number, x, y, side)
        names, visible = [name for name, *_ in people], set()
        for order, name in enumerate(names):
            x1, _, x2, _ = boxes[name]
            inside = (min(x2, WIDTH) - max(x1, 0)) / (x2 - x1)
            behind = max((shared(boxes[name], boxes[other]) for other in names[order + 1 :]), default=0.0)
            if inside >= SEEN_SHARE and behind <= 1 - SEEN_SHARE and not covered:
                visible.add(name)
        if covered:
            frame[40:] = 90
        yield now, frame, boxes, visible


def shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """How much of a box another covers."""
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0) / ((one[2] - one[0]) * (one[3] - one[1]))


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    share = shared(one, other)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return share * areas[0] / (areas[0] + areas[1] - share * areas[0])


def joined(costs: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs with the largest sum of overlaps, none below the least."""
    from scipy.optimize import linear_sum_assignment

    return [pair for pair in zip(*linear_sum_assignment(-costs), strict=True) if costs[pair] >= least] if costs.size else []


class FrameByFrame:
    """The detector in every frame, boxes joined by their overlap with those of the last second."""

    def __init__(self, detector: object) -> None:
        self.detector, self.known, self.count = detector, [], 0

    def __call__(self, frame: np.ndarray, now: float) -> list[tuple[int, tuple[float, ...]]]:
        """(id, box) of each face in the frame."""
        boxes = [each.box_xyxy_px for each in self.detector.detect(frame)]
        self.known = [each for each in self.known if now - each[2] <= 1]
        costs = np.array([[overlap(old, new) for new in boxes] for _, old, _ in self.known]).reshape(len(self.known), len(boxes))
        ids = {new: self.known[old][0] for old, new in joined(costs, 0.25)}
        for new in range(len(boxes)):
            if new not in ids:
                self.count += 1
                ids[new] = self.count
        answer = [(ids[new], box) for new, box in enumerate(boxes)]
        self.known = [each for each in self.known if each[0] not in ids.values()] + [(key, box, now) for key, box in answer]
        return answer


class OneLabel:
    """In place of a model, which has no part in this."""

    labels, uncertain_below = ("face",), 0.0

    def recognize(self, image: np.ndarray, boxes: list) -> np.ndarray:
        """A row for each box."""
        return np.ones((len(boxes), 1))


def judged(film: Iterator, follow: Callable) -> list[str]:
    """What is printed of one way of following."""
    visible = found = changes = extra = 0
    last: dict[str, int] = {}
    frames_of: dict[int, Counter] = defaultdict(Counter)
    people: set[str] = set()
    for now, frame, boxes, seen in film:
        answer = follow(frame, now)
        names = list(boxes)
        costs = np.array([[overlap(boxes[name], box) for _, box in answer] for name in names]).reshape(len(names), len(answer))
        costs += 0.5 * np.array([[name in seen] for name in names]) * (costs >= 0.3)
        pairs = joined(costs, 0.3)
        visible, people = visible + len(seen), people | seen
        extra += len(answer) - len(pairs)
        for row, column in pairs:
            name, key = names[row], answer[column][0]
            if name in seen:
                found += 1
                changes += last.get(name, key) != key
                last[name] = key
                frames_of[key][name] += 1
    shared_ids = sum(sum(count >= 3 for count in names.values()) > 1 for names in frames_of.values())
    return [f"{found / visible:.2f}", str(changes), f"{len(frames_of)} for {len(people)}", str(shared_ids), str(extra)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = CommandParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--portraits", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", default="", help="scenes with these words in their names")
    return run(_command, parser, argv)


def _command(args: argparse.Namespace) -> None:
    from fer_keras.detectors import create_detector
    from fer_keras.inference.analyzer import Analyzer

    detector = create_detector("mtcnn")
    portraits = Portraits(args.portraits, 9, detector)
    print("| scene | visible faces found | changes of id | ids for people | ids of several | boxes of nobody |")
    print("|---|---|---|---|---|---|")
    for name, (make, settings) in SCENES.items():
        if args.only not in name:
            continue
        analyzer = Analyzer(OneLabel(), detector)

        def rows(frame: np.ndarray, now: float, analyzer: Analyzer = analyzer) -> list[tuple[int, tuple[float, ...]]]:
            return [(face.track_id, face.box_xyxy_px) for face in analyzer.analyze(frame, now) if face.seen]

        ours, simple = (judged(filmed(make(**settings), portraits), follow) for follow in (rows, FrameByFrame(detector)))
        print(f"| {name} | " + " | ".join(f"{one}, {other}" for one, other in zip(ours, simple, strict=True)) + " |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
