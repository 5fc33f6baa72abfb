"""What it is worth to have seen the judged faces: how many of them stand, pixel for pixel, among a benchmark's training rows.

    python -m benchmarks.leaked_faces --data data/prepared/ferplus [--model saved_models/ferplus-cnn ...]

`training.prepare` leaves such training rows out ("leakage" in the manifest). Whoever trains on the benchmark's rows as they
are trains on these faces. For each model: its accuracy on the faces that have a twin among the training rows, on the others,
and what it would score had it learnt the twins' labels by heart and stayed the same elsewhere.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from fer_keras.cli import CommandParser, run
from fer_keras.data.dataset import FaceDataset
from fer_keras.data.targets import select
from training import scoring


def twins(dataset: FaceDataset, judged: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each judged row the first of the other rows with the same pixels, -1 where there is none.

    judged: int64 (j,), others: int64 (o,), row numbers. Returns int64 (j,).
    """
    from training.folds import different_pictures

    rows = np.concatenate([others, judged])
    first, picture = different_pictures(dataset, rows)
    stands = first[picture[len(others) :]]
    return np.where(stands < len(others), rows[stands], -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Print how many there are, and a line a model."""
    parser = CommandParser(prog="python -m benchmarks.leaked_faces", description=__doc__)
    parser.add_argument("--model", nargs="+", default=["saved_models/ferplus-cnn"], help="exported models (default %(default)s)")
    scoring.add_face_options(parser, data="none", split="default: test, or validation where there is no test")
    return run(_command, parser, argv)


def _command(args: argparse.Namespace) -> None:
    from fer_keras.evaluation.classification import accuracy_interval

    dataset = scoring.common_dataset([], args.data)
    judged = scoring.choose_faces([], dataset, args.split, args.protocol)
    models = [scoring.exported_model(path) for path in args.model]
    truths = [scoring.label_positions(model, judged) for model in models]
    training = np.flatnonzero((dataset.manifest["split"] == "train").to_numpy())
    twin = twins(dataset, judged.rows, training)
    seen = twin >= 0
    labelled, labels = select(dataset, np.unique(twin[seen]), judged.protocol)
    label_of = np.full(len(dataset.manifest), -1)
    label_of[labelled] = labels
    learnt = np.where(seen, label_of[twin], -1)
    print(
        f"{dataset.name}, {judged.split}, protocol {judged.protocol}: {len(twin)} faces; {seen.sum()} ({seen.mean():.1%}) stand "
        f"among the {len(training)} training rows of the source as well, {(learnt == judged.truth).sum()} with the same label"
    )

    def share(right: np.ndarray) -> str:
        if not len(right):
            return "no face"
        low, high = accuracy_interval(right.sum(), len(right))
        return f"{right.mean():.3f} ({low:.3f} to {high:.3f})"

    for model, truth in zip(models, truths, strict=True):
        right = scoring.predict_rows(model, dataset, judged.rows, args.batch_size).argmax(axis=1) == truth
        by_heart = np.where(learnt >= 0, learnt == judged.truth, right)
        apart = f"with a twin {share(right[seen])}, without {share(right[~seen])}"
        print(f"{model.key}: {share(right)}; {apart}; by heart {share(by_heart)}")


if __name__ == "__main__":
    raise SystemExit(main())
