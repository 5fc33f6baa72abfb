"""How much faster MTCNN is here than in the `mtcnn` package, whose networks, weights and results it keeps. Both are timed in
turn, each by the median of three calls after one that is not counted, since either leaves the other's memory out of the caches;
and their boxes are compared.

    python -m benchmarks.detector [--repeats 9] [--runtime auto|openvino|tensorflow] [--image PHOTO ...]

640x480, smallest face 20 and 40 pixels, one face and four (the astronaut of scikit-image), and the photographs named.
The package can't run a smallest face of 40: it counts the levels of its pyramid as if it were 20, and fails on the empty
ones. Here they are left out for it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

WIDTH, HEIGHT = 640, 480


def one_face() -> np.ndarray:
    """The astronaut on grey, as large as the frame is high."""
    from PIL import Image
    from skimage import data

    frame = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))
    frame.paste(Image.fromarray(data.astronaut()).resize((HEIGHT, HEIGHT)), ((WIDTH - HEIGHT) // 2, 0))
    return np.asarray(frame)


def four_faces() -> np.ndarray:
    """The astronaut four times, mirrored and at four sizes."""
    from PIL import Image
    from skimage import data

    person = Image.fromarray(data.astronaut())
    frame = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))
    for place, (x, y, size) in enumerate([(0, 0, 320), (320, 0, 300), (10, 250, 280), (330, 240, 240)]):
        picture = person.resize((size, size))
        frame.paste(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if place % 2 else picture, (x, y))
    return np.asarray(frame)


def photograph(path: str) -> np.ndarray:
    """A file, resized to the frame."""
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)))


def leave_out_empty_levels() -> None:
    """Let the package run smallest faces above its default."""
    from mtcnn.stages import stage_pnet

    build = stage_pnet.build_scale_pyramid

    def without_empty(width: int, height: int, **settings: float) -> np.ndarray:
        scales = build(width, height, **settings)
        return scales[[int(min(width, height) * scale) >= 11 for scale in scales]]

    stage_pnet.build_scale_pyramid = without_empty


def milliseconds(function: Callable, *args: object, **settings: object) -> float:
    """Median of three calls, after one that is not counted."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function(*args, **settings)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--image", nargs="*", default=[], help="photographs, resized to 640x480")
    args = parser.parse_args()

    from mtcnn import MTCNN

    from fer_keras.detectors import create_detector

    leave_out_empty_levels()
    package = MTCNN()
    pictures = {"one face": one_face(), "four faces": four_faces(), **{path: photograph(path) for path in args.image}}
    for min_face in (20, 40):
        detector = create_detector("mtcnn", min_face, args.runtime)
        for name, picture in pictures.items():
            faces = package.detect_faces(picture, box_format="xyxy", min_face_size=min_face) or []
            detector.detect(picture)  # the second picture of a size is the slow one
            found = detector.detect(picture)
            same = sorted(tuple(map(float, face["box"])) for face in faces) == sorted(face.box_xyxy_px for face in found)
            pairs = []
            for _ in range(args.repeats):
                theirs_ms = milliseconds(package.detect_faces, picture, min_face_size=min_face)
                pairs.append((theirs_ms, milliseconds(detector.detect, picture)))
            theirs, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(package_ms / ours_ms for package_ms, ours_ms in pairs)
            print(
                f"min face {min_face}, {name}: package {theirs:.1f} ms, {detector.runtime} {ours:.1f} ms "
                f"(fastest {min(each[1] for each in pairs):.1f}), {ratio:.1f} times as fast (median of pairs); "
                f"{len(faces)} faces by the package, {len(found)} here, boxes {'the same' if same else 'DIFFER'}"
            )


if __name__ == "__main__":
    main()
