"""What starting from a trained model brings to who has few pictures of their own classes.

    python -m benchmarks.transfer --data data/prepared/mine --arch cnn --weights ferplus-cnn [--per-class 25,100,400] [--seeds 3]
    python -m benchmarks.transfer --data data/prepared/mine --arch densenet --weights my-densenet

Each way is trained on so many faces a class (or as many as there are) of the data set's training part, a fifth of which chooses
the best epoch, with several seeds that also draw the faces; smaller sets are part of the larger. All are judged on the whole test
part by balanced accuracy, the mean of the recalls, since classes may be of very different size there. The interval is of 2,000
bootstrap repeats over test faces within their class and over seeds. Given again, it goes on where it was stopped.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np


def main() -> None:
    """Train what is not trained yet; print the table and write transfer.csv and transfer.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="prepared data set with the classes wanted")
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--weights", default="ferplus-cnn", help="exported model to start from")
    parser.add_argument("--per-class", default="25,100,400", help="faces a class, training and validation together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", default="runs/transfer")
    args = parser.parse_args()

    import pandas as pd

    from fer_keras.data.dataset import FaceDataset
    from training import variants
    from training.config import TrainConfig

    dataset, out = FaceDataset.load(args.data), Path(args.out)
    base = TrainConfig(data=args.data, arch=args.arch, epochs=args.epochs, batch_size=32, tensorboard=False)
    ways = ways_of(base, args.weights)
    sizes = [int(size) for size in args.per_class.split(",")]
    planned = {
        (way, size): [
            variants.Variant(
                f"{way.replace(' ', '-')}-{size}-seed{seed}",
                dataclasses.replace(settings, seed=seed).resolved(),
                few(dataset, size, seed),
            )
            for seed in range(args.seeds)
        ]
        for way, settings in ways.items()
        for size in sizes
    }
    flat = [variant for each in planned.values() for variant in each]
    runs = variants.train_variants(flat, dataset, out)
    faces, notes = variants.judged_faces(dataset, None, ways.values())
    judged = variants.judge([[run] for run in runs], faces, faces.true_names)
    lines = []
    for (way, size), each in planned.items():
        predicted = np.array([judged.predicted[variant.name] for variant in each])
        mean, low, high = balanced_accuracy(predicted == faces.truth, faces.truth)
        used = sum(len(rows) for rows in each[0].rows.values())  # the same for every seed
        lines.append({"way": way, "faces a class": size, "faces": used, "balanced accuracy": mean, "low": low, "high": high})
    table = pd.DataFrame(lines)
    table.to_csv(out / "transfer.csv", index=False, float_format="%.4f")
    plot(table, len(faces.rows), out / "transfer.png")
    print(f"{len(faces.rows)} {faces.split} faces of {dataset.name}, {args.seeds} seeds", *notes, sep="\n")
    print(table.to_string(index=False, float_format="{:.3f}".format))


def ways_of(base, weights: str) -> dict:
    """The settings of each way of training."""
    if not base.two_phases:
        from fer_keras.models.transfer import exported_options

        # The same network; trained weights want smaller steps than random ones.
        options = exported_options(weights, base.saved_models, base.arch)
        return {
            "from scratch": dataclasses.replace(base, weights="none", lr=3e-3, options=options),
            f"from {weights}": dataclasses.replace(base, weights=weights, lr=5e-4),
        }
    return {
        "from scratch": dataclasses.replace(base, weights="none", frozen_epochs=0),
        "frozen": dataclasses.replace(base, weights=weights, finetune_epochs=0),
        "frozen then fine-tuned": dataclasses.replace(base, weights=weights),
    }


def few(dataset, size: int, seed: int) -> dict[str, np.ndarray]:
    """{"train", "validation"}: rows of `size` faces of each class at most, every fifth of them for validation."""
    rows = dataset.rows("train")
    rng, parts = np.random.default_rng(seed), {"train": [], "validation": []}
    for label in range(len(dataset.labels)):
        chosen = rng.permutation(rows[dataset.label_indices[rows] == label])[:size]
        parts["validation"].append(chosen[::5])
        parts["train"].append(np.delete(chosen, np.s_[::5]))
    return {name: np.sort(np.concatenate(some)) for name, some in parts.items()}


def balanced_accuracy(correct: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its interval. correct: bool (seeds, n)."""
    rng, classes = np.random.default_rng(0), [np.flatnonzero(truth == label) for label in np.unique(truth)]
    repeats = []
    for _ in range(2000):
        seeds = correct[rng.integers(0, len(correct), len(correct))]
        repeats.append(np.mean([seeds[:, rng.choice(some, len(some))].mean() for some in classes]))
    mean = np.mean([correct[:, some].mean() for some in classes])
    return float(mean), *(float(edge) for edge in np.quantile(repeats, (0.025, 0.975)))


def plot(table, count: int, path: Path) -> None:
    """Balanced accuracy against faces a class, a line a way, with intervals."""
    from fer_keras.evaluation import plots

    figure = plots.new_figure(7, 4.2, "Few pictures of one's own classes")
    axes = figure.subplots()
    for shift, (way, lines) in enumerate(table.groupby("way", sort=False)):
        at = lines["faces a class"] * (1 + 0.04 * shift)  # side by side, so that intervals do not hide each other
        mean = lines["balanced accuracy"]
        axes.errorbar(at, mean, [mean - lines["low"], lines["high"] - mean], marker="o", capsize=3, label=way)
    axes.set(xscale="log", xlabel="faces a class (at most)", ylabel=f"balanced accuracy ({count} test faces)")
    axes.set_xticks(sorted(set(table["faces a class"])), [str(size) for size in sorted(set(table["faces a class"]))])
    axes.minorticks_off()
    axes.legend()
    plots.save_png(figure, path)


if __name__ == "__main__":
    main()
