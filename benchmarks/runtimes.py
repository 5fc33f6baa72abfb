"""Exported models under TensorFlow and under OpenVINO: whether both say the same of every face, and how long each takes.

    python -m benchmarks.runtimes --data data/prepared/ferplus [--model saved_models/ferplus-cnn ...] [--split validation]

For each model: the largest difference of a probability over all faces of the split, on how many the label differs, milliseconds
for a call with 8 faces (median of pairs, taken in turns), seconds to load it once TensorFlow is up, and its size on disk.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

FACES = 8
PAIRS = 60


def median_ms(calls: dict, pixels: np.ndarray) -> dict[str, float]:
    """Median time of each call on the same pixels, in turns, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(PAIRS + 5):
        for name, predict in calls.items():
            start = time.perf_counter()
            predict(pixels)
            if turn >= 5:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print one paragraph a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="prepared data set")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", nargs="+", default=["saved_models/ferplus-cnn"])
    args = parser.parse_args()

    from fer_keras.cli import import_tensorflow
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.inference.runtimes import open_runtime
    from fer_keras.models.exported import load_exported, read_metadata
    from training.scoring import fitted

    import_tensorflow()
    dataset = FaceDataset.load(args.data)
    rows = dataset.rows(args.split)
    if not len(rows):
        raise SystemExit(f"{args.data} has no {args.split} faces")
    load_exported(args.model[0])  # TensorFlow's own first use is not part of any model's loading
    for path in map(Path, args.model):
        metadata, size = read_metadata(path), sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        start = time.perf_counter()
        model = load_exported(path)
        loading = time.perf_counter() - start
        calls = {name: open_runtime(path, metadata, name)[1] for name in ("tensorflow", "openvino")}
        largest, differing = 0.0, 0
        for begin in range(0, len(rows), 64):
            pixels = fitted(dataset.faces[rows[begin : begin + 64]], model)
            first, second = (predict(pixels) for predict in calls.values())
            largest = float(np.maximum(largest, np.abs(first - second).max()))  # NaN stays NaN
            differing += int((first.argmax(axis=1) != second.argmax(axis=1)).sum())
        took = median_ms(calls, fitted(dataset.faces[rows[:FACES]], model))
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in took.items())
        print(
            f"{path.name}: {len(rows)} {args.split} faces: probabilities differ by {largest:.1e} at most, the label on "
            f"{differing}; {FACES} faces: {times} (medians of {PAIRS}); loads in {loading:.2f} s; {size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
