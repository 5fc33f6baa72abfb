"""What starting from a trained model brings to who has few pictures of their own classes.

    python -m benchmarks.transfer --data data/prepared/mine --arch cnn --weights ferplus-cnn [--per-class 25,100,400] [--seeds 3]
    python -m benchmarks.transfer --data data/prepared/mine --arch densenet --weights my-densenet

Each way is trained on so many faces a class (or as many as there are) of the data set's training part, a fifth of which chooses
the best epoch, with several seeds that also draw the faces; smaller sets are part of the larger. All are judged on the whole test
part by balanced accuracy, the mean of the recalls, since classes may be of very different size there. The interval is that of
the mean over seeds: a bootstrap of 2,000 repeats over the test's identities (faces, where none are known) within their class, and
Student's t over seeds. Given again, it goes on where it was stopped.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_keras.cli import CommandParser, positive_int, run, words
from fer_keras.data.dataset import FaceDataset


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained yet; print the table and write transfer.csv and transfer.png."""
    parser = CommandParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--data", required=True, help="prepared data set with the classes wanted")
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--weights", default="ferplus-cnn", help="exported model to start from")
    sizes = "faces a class, training and validation together"
    parser.add_argument("--per-class", type=_sizes, default="25,100,400", help=sizes)
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--epochs", type=positive_int, default=20)
    parser.add_argument("--out", default="runs/transfer")
    return run(_command, parser, argv)


def _sizes(text: str) -> list[int]:
    sizes = [positive_int(word) for word in words(text)]
    if min(sizes) < 2:
        raise argparse.ArgumentTypeError(f"one face to train with and one to validate with are the fewest, got {text!r}")
    return sizes


def _command(args: argparse.Namespace) -> None:
    import pandas as pd

    from fer_keras.evaluation import resampling
    from fer_keras.evaluation.repeated import drawn_text, judge_repeated
    from training import variants
    from training.config import TrainConfig

    dataset, out = FaceDataset.load(args.data), Path(args.out)
    base = TrainConfig(data=args.data, arch=args.arch, epochs=args.epochs, batch_size=32, tensorboard=False)
    ways = ways_of(base, args.weights)
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
        for size in args.per_class
    }
    runs = iter(variants.train_variants([variant for each in planned.values() for variant in each], dataset, out))
    faces, notes = variants.judged_faces(dataset, None, ways.values())
    judged = variants.judge([[next(runs) for _ in each] for each in planned.values()], faces, faces.true_names)
    found = judge_repeated(judged.correct, judged.groups, clusters=judged.clusters, min_n=1)
    means, draws = found.means.mean(axis=-1), found.draws.mean(axis=-1)  # of recalls: balanced accuracy
    low, high = resampling.interval(means, draws)
    used = [sum(len(rows) for rows in each[0].rows.values()) for each in planned.values()]  # the same for every seed
    table = pd.DataFrame(list(planned), columns=["way", "faces a class"])
    table = table.assign(faces=used, **{"balanced accuracy": means, "low": low, "high": high})
    table.to_csv(out / "transfer.csv", index=False, float_format="%.4f")
    plot(table, len(faces.rows), out / "transfer.png")
    over = drawn_text(found.units, args.seeds)
    print(f"{len(faces.rows)} {faces.split} faces of {dataset.name}, intervals over {over}", *notes, sep="\n")
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
    raise SystemExit(main())
