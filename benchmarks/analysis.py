"""How many frames a second are analysed: 640x480, four moving faces, detection, tracking, the shipped model, and the frame
encoded as JPEG, one after the other. Beside it, in the same run, the naive way: the `mtcnn` package on every frame and
`model.predict` for every face.

    python -m benchmarks.analysis [--seconds 10] [--model saved_models/ferplus-cnn] [--min-face 20] [--detect-every 0.2]
"""

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np

from benchmarks.detector import four_faces

FPS = 25  # of the clock that the frames carry; they are analysed as fast as can be


def moving(frames: int) -> list[np.ndarray]:
    """The four faces, drifting to and fro."""
    still = four_faces()
    return [np.roll(still, round(20 * np.sin(2 * np.pi * index / 50)), axis=1) for index in range(frames)]


def encode(frame: np.ndarray) -> bytes:
    """A frame as JPEG."""
    import cv2

    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def main() -> None:
    """Print frames a second of both, and where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="how long ours is timed; the naive way a third of it")
    parser.add_argument("--model", default="saved_models/ferplus-cnn")
    parser.add_argument("--min-face", type=int, default=20)
    parser.add_argument("--detect-every", type=float, default=0.2, help="seconds between detections")
    parser.add_argument("--runtime", default="auto")
    args = parser.parse_args()

    from fer_keras.detectors import create_detector
    from fer_keras.inference.analyzer import Analyzer
    from fer_keras.inference.recognizer import Recognizer

    frames = moving(50)
    start = time.perf_counter()
    detector = create_detector("mtcnn", args.min_face, args.runtime)
    analyzer = Analyzer(Recognizer(args.model, runtime=args.runtime), detector, detect_every_s=args.detect_every)
    for index in range(10):  # the second detection makes the networks for this frame size
        analyzer.analyze(frames[index], index / FPS)
    print(f"ready after {time.perf_counter() - start:.1f} s")

    times, stages, faces, index = [], defaultdict(float), 0, 10
    start = time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        before = time.perf_counter()
        faces += len(analyzer.analyze(frames[index % len(frames)], index / FPS))
        middle = time.perf_counter()
        encode(frames[index % len(frames)])
        times.append(time.perf_counter() - before)
        stages["encode"] += time.perf_counter() - middle
        for name, seconds in analyzer.last_stage_s.items():
            stages[name] += seconds
        index += 1
    ours = 1 / statistics.mean(times)
    parts = ", ".join(f"{name} {1000 * seconds / len(times):.1f} ms" for name, seconds in stages.items())
    print(
        f"here ({detector.runtime}): {ours:.1f} frames/s, {faces / len(times):.2f} faces a frame; a frame takes "
        f"{1000 * statistics.median(times):.1f} ms (median), {1000 * np.quantile(times, 0.95):.1f} ms (95%); mean of it {parts}"
    )

    from mtcnn import MTCNN

    from benchmarks.detector import leave_out_empty_levels
    from fer_keras.data.images import crop_box, resize, to_channels
    from fer_keras.models.exported import load_keras_model, read_metadata

    leave_out_empty_levels()
    package, model, size = MTCNN(), load_keras_model(args.model), read_metadata(args.model)["input"]
    times = []
    start = time.perf_counter()
    for index in range(10**6):
        before = time.perf_counter()
        frame = frames[index % len(frames)]
        for face in package.detect_faces(frame, box_format="xyxy", min_face_size=args.min_face) or []:
            pixels = resize(to_channels(crop_box(frame, tuple(face["box"])), size["channels"]), size["height"])
            model.predict(pixels[None].astype(np.float32), verbose=0)
        encode(frame)
        if index:  # the first traces the model
            times.append(time.perf_counter() - before)
        if time.perf_counter() - start > args.seconds / 3 and len(times) >= 5:
            break
    naive = 1 / statistics.mean(times)
    median = 1000 * statistics.median(times)
    print(f"naive: {naive:.1f} frames/s, a frame takes {median:.0f} ms (median); here {ours / naive:.0f} times as fast")


if __name__ == "__main__":
    main()
