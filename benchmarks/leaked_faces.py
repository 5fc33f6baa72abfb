"""What it is worth to have seen the judged faces: how many of them stand, pixel for pixel, among a benchmark's training rows.

    python -m benchmarks.leaked_faces --data data/prepared/ferplus [--model saved_models/ferplus-cnn ...]

`training.prepare` leaves such training rows out ("leakage" in the manifest). Whoever trains on the benchmark's rows as they
are trains on these faces. For each model: its accuracy on the faces that have a twin among the training rows, on the others,
and what it would score had it learnt the twins' labels by heart and stayed the same elsewhere.
"""

import argparse
from collections.abc import Sequence

import numpy as np


def twins(faces: np.ndarray, judged: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each judged row the first of the other rows with the same pixels, -1 where there is none.

    faces: uint8 (n, h, w, c). judged: int (j,), others: int (o,), row numbers. Returns int64 (j,).
    """
    first: dict[bytes, int] = {}
    for row in others:
        first.setdefault(faces[row].tobytes(), int(row))
    return np.array([first.get(faces[row].tobytes(), -1) for row in judged], np.int64)


def main(argv: Sequence[str] | None = None) -> None:
    """Print how many there are, and a line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="prepared data set")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", nargs="+", default=["saved_models/ferplus-cnn"])
    args = parser.parse_args(argv)

    from fer_keras.data.dataset import FaceDataset
    from fer_keras.data.targets import select
    from fer_keras.errors import FerError
    from fer_keras.evaluation.classification import accuracy_interval
    from training import scoring

    try:
        dataset = FaceDataset.load(args.data)
        judged = scoring.choose_faces([], dataset, args.split)
        models = [scoring.exported_model(path) for path in args.model]
    except FerError as error:
        raise SystemExit(str(error)) from None
    names = np.array(dataset.labels)
    truth = names[judged.truth]
    training = np.flatnonzero((dataset.manifest["split"] == "train").to_numpy())
    twin = twins(dataset.faces, judged.rows, training)
    seen = twin >= 0
    learnt = np.full(len(twin), "", names.dtype)
    labelled, labels = select(dataset, np.unique(twin[seen]), judged.protocol)
    for row, label in zip(labelled, labels, strict=True):
        learnt[twin == row] = names[label]
    print(
        f"{dataset.name}, {judged.split}, protocol {judged.protocol}: {len(twin)} faces; {seen.sum()} ({seen.mean():.1%}) stand "
        f"among the {len(training)} training rows of the source as well, {(learnt == truth)[seen].sum()} with the same label"
    )

    def share(right: np.ndarray) -> str:
        if not len(right):
            return "no face"
        low, high = accuracy_interval(right.sum(), len(right))
        return f"{right.mean():.3f} ({low:.3f} to {high:.3f})"

    for model in models:
        answers = np.array(model.labels)[scoring.predict_rows(model, dataset, judged.rows).argmax(axis=1)]
        right, by_heart = answers == truth, np.where(learnt != "", learnt, answers) == truth
        apart = f"with a twin {share(right[seen])}, without {share(right[~seen])}"
        print(f"{model.key}: {share(right)}; {apart}; by heart {share(by_heart)}")


if __name__ == "__main__":
    main()
