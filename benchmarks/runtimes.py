"""Exported models under TensorFlow and under OpenVINO, also in bfloat16: whether they say the same of every face, and how long
each takes.

    python -m benchmarks.runtimes --data data/prepared/ferplus [--model saved_models/ferplus-cnn ...] [--record]

For each model: seconds to load it once TensorFlow is up, its size on disk, milliseconds for a call with 8 faces (median,
taken in turns), and how far OpenVINO is from TensorFlow over all faces of the split: the largest difference of a probability,
and the share of faces with the same label. A processor without bfloat16 computes in it by a detour, which takes longer and
rounds alike.
"""

import argparse
import statistics
import time

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
    """Print some lines a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="prepared data set")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", nargs="+", default=["saved_models/ferplus-cnn"])
    parser.add_argument(
        "--record",
        action="store_true",
        help="write into each metadata.json how often the label is the same in bfloat16, without which it is not chosen unasked",
    )
    args = parser.parse_args()

    from fer_keras.cli import import_tensorflow
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.files import write_json
    from fer_keras.inference.runtimes import open_runtime
    from fer_keras.models.exported import load_exported, read_metadata
    from fer_keras.models.finding import find_model
    from fer_keras.runtime import RUNTIMES, computes_bfloat16
    from training.scoring import fitted

    import_tensorflow()
    dataset = FaceDataset.load(args.data)
    rows = dataset.rows(args.split)
    if not len(rows):
        raise SystemExit(f"{args.data} has no {args.split} faces")
    paths = [find_model(name) for name in args.model]
    load_exported(paths[0])  # TensorFlow's own first use is not part of any model's loading
    for path in paths:
        metadata, size = read_metadata(path), sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        start = time.perf_counter()
        model = load_exported(path)
        loading = time.perf_counter() - start
        calls = {name: open_runtime(path, metadata, name)[1] for name in RUNTIMES}
        pixels = fitted(dataset.faces[rows], model)
        answers = {name: predict(pixels) for name, predict in calls.items()}
        labels = {name: each.argmax(axis=1) for name, each in answers.items()}
        same = {name: each == labels["tensorflow"] for name, each in labels.items()}
        if args.record:
            share = round(float(same["openvino-bf16"].mean()), 5)
            tried = {"same_label": share, "n": len(rows), "data": f"{dataset.name} {args.split}"}
            write_json(path / "metadata.json", {**metadata, "bfloat16": tried})
        took = median_ms(calls, pixels[:FACES])
        print(f"{path.name}: loads in {loading:.2f} s; {size / 1e6:.1f} MB; {len(rows)} {args.split} faces")
        for name, ms in took.items():
            far = np.abs(answers[name] - answers["tensorflow"]).max()
            how = " (this processor has no bfloat16)" if name == "openvino-bf16" and not computes_bfloat16() else ""
            print(
                f"  {name}{how}: {FACES} faces {ms:.1f} ms (median of {PAIRS}); from TensorFlow {far:.1e} at most, "
                f"the same label for {same[name].mean():.2%} (all but {(~same[name]).sum()})"
            )


if __name__ == "__main__":
    main()
