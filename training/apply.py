"""Run a model on a whole data set, a random face, a fraction of it, or one face."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_keras.cli import CommandParser, run
from fer_keras.data import targets
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError, DataError
from training import scoring
from training.scoring import ScoredFaces, ScoredModel

DRAWN = 40  # most faces that --draw shows


def parse_select(text: str) -> str | int | float:
    """Read `--select`: "all", "rand", a row number such as 46 (int), or a fraction with a point such as 0.1 (float).

    "1" is the face at row 1, "1.0" is everything. Raises ConfigError for anything else.
    """
    word = text.strip()
    if word in ("all", "rand"):
        return word
    if re.fullmatch(r"\d+", word):
        return int(word)
    if re.fullmatch(r"\d*\.\d+|\d+\.", word) and 0 < float(word) <= 1:
        return float(word)
    raise ConfigError(
        f"--select is all, rand, a fraction above 0 and up to 1.0 (such as 0.1), or a row number (such as 46); got {text!r}"
    )


def stratified_fraction(truth: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions of a random fraction of the faces, the same fraction of each label; at least one face. int64, ascending.

    truth: int (n,), the label of each face. fraction: above 0, up to 1.
    """
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(positions, size=round(fraction * len(positions)), replace=False)
        for positions in (np.flatnonzero(truth == label) for label in np.unique(truth))
    ]
    picked = np.sort(np.concatenate(chosen))
    return picked if len(picked) else random.choice(len(truth), size=1)


def label_of_row(dataset: FaceDataset, row: int, split: str | None, protocol: str) -> int:
    """Index of the true label of one face, -1 where the protocol gives it none.

    Raises ConfigError where there is no such row, it was dropped, or it is not in the split.
    """
    if row >= len(dataset.manifest):
        raise ConfigError(
            f"--select {row}: {dataset.path} has {len(dataset.manifest)} faces, rows 0 to {len(dataset.manifest) - 1}"
        )
    entry = dataset.manifest.iloc[row]
    if not entry["kept"]:
        raise ConfigError(
            f"--select {row}: this face was dropped when the data was prepared ({entry['reason']}); take another row"
        )
    if split is not None and entry["split"] != split:
        raise ConfigError(
            f"--select {row}: this face is in split {entry['split']}, not {split}; leave out --split or take another row"
        )
    _, truth = targets.select(dataset, np.array([row]), protocol)
    return int(truth[0]) if len(truth) else -1


def labelled_faces(dataset: FaceDataset, split: str | None, protocol: str) -> ScoredFaces:
    """Every kept face of a split, or of all, that has a label by the protocol. Raises DataError where there is none."""
    rows = dataset.rows(split)
    if not len(rows):
        where = f"no {split} faces" if split else "no kept face"
        raise DataError(f"{dataset.path} has {where}; it has {', '.join(dataset.splits()) or 'nothing'}")
    kept, truth = targets.select(dataset, rows, protocol)
    if not len(kept):
        raise DataError(f"no face of {dataset.path} has a label by protocol {protocol}; choose another with --protocol")
    return ScoredFaces(dataset, split or "+".join(dataset.splits()), protocol, kept, truth)


def build_parser() -> CommandParser:
    """The command line of `python -m training.apply`."""
    parser = CommandParser(
        prog="python -m training.apply",
        description=__doc__,
        epilog="example:\n  python -m training.apply --model saved_models/ferplus-cnn --data data/ferplus --select rand",
    )
    parser.add_argument(
        "--model", required=True, help="an exported model (its name or folder), or a run folder (its best weights)"
    )
    scoring.add_face_options(
        parser, data="for a run, the one that it was trained on", split="only faces of this split; default: the whole data set"
    )
    parser.add_argument(
        "--select",
        default="all",
        metavar="WHAT",
        help="all: every face; rand: a random one; 0.1: that part of each label; 46: the face at that row (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of rand and of a fraction (default %(default)s)")
    parser.add_argument("--draw", metavar="PNG", help=f"draw the faces and what the model says (at most {DRAWN}) into this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    select = parse_select(args.select)
    if args.draw and Path(args.draw).suffix.lower() != ".png":
        raise ConfigError(f"--draw writes a PNG; expected a name that ends in .png, got {args.draw}")
    if args.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {args.seed}")
    # All that can be wrong with the data is told before TensorFlow is loaded.
    dataset = scoring.common_dataset(scoring.runs_among([args.model]), args.data)
    protocol = args.protocol or targets.default_protocol(dataset)
    split = None if args.split == scoring.ALL else args.split
    if isinstance(select, int):
        truth = label_of_row(dataset, select, split, protocol)
        return _one(scoring.open_model(args.model), dataset, select, truth, protocol, args.draw)
    faces = labelled_faces(dataset, split, protocol)
    if select == "rand":
        position = int(np.random.default_rng(args.seed).integers(len(faces.rows)))
        row, truth = int(faces.rows[position]), int(faces.truth[position])
        return _one(scoring.open_model(args.model), dataset, row, truth, protocol, args.draw)
    if select != "all":
        some = stratified_fraction(faces.truth, select, args.seed)
        faces = replace(faces, rows=faces.rows[some], truth=faces.truth[some])
    return _many(scoring.open_model(args.model), faces, args.draw, args.seed, args.batch_size)


def _one(model: ScoredModel, dataset: FaceDataset, row: int, truth: int, protocol: str, draw: str | None) -> int:
    rows = np.array([row])
    probabilities = scoring.predict_rows(model, dataset, rows, 1)[0]
    best = int(probabilities.argmax())
    true = dataset.labels[truth] if truth >= 0 else f"none by protocol {protocol}"
    entry = dataset.manifest.iloc[row]
    print(f"row {row} of {dataset.name} ({entry['split']}), source {entry['source']}")
    print(f"predicted: {model.labels[best]} ({probabilities[best]:.3f})")
    print(f"true:      {true}")
    width = max(map(len, model.labels))
    for index in np.argsort(-probabilities, kind="stable"):
        bar = "#" * round(30 * float(probabilities[index]))
        print(f"  {model.labels[index]:<{width}}  {probabilities[index]:.4f}  {bar}".rstrip())
    if truth >= 0 and true not in model.labels:
        print(f"note: the model does not know {true}")
    if draw:
        from fer_keras.evaluation.plots import plot_probabilities

        title = f"predicted {model.labels[best]}, true {true}"
        _save(plot_probabilities(dataset.faces[row], probabilities, model.labels, title), draw)
    return 0


def _many(model: ScoredModel, faces: ScoredFaces, draw: str | None, seed: int, batch_size: int) -> int:
    from fer_keras.evaluation.classification import classification_metrics
    from training.evaluate import summary_text

    positions = scoring.label_positions(model, faces)
    notes = scoring.fit_notes(model, faces)
    probabilities = scoring.predict_rows(model, faces.dataset, faces.rows, batch_size)
    figures = classification_metrics(positions, probabilities, model.labels, model.temperature)
    result = {
        "protocol": faces.protocol,
        "split": faces.split,
        "n": len(faces.rows),
        "data": {"name": faces.dataset.name},
        "notes": notes,
        "models": {model.key: figures},
    }
    print(summary_text(result))
    if draw:
        from fer_keras.evaluation.plots import COLOURS, plot_faces

        count = min(DRAWN, len(faces.rows))
        shown = np.sort(np.random.default_rng(seed).choice(len(faces.rows), size=count, replace=False))
        said = probabilities[shown].argmax(axis=1)
        captions = [
            f"true {model.labels[truth]}\nsaid {model.labels[best]} {row[best]:.2f}"
            for truth, best, row in zip(positions[shown], said, probabilities[shown], strict=True)
        ]
        colours = [COLOURS[2] if right else COLOURS[3] for right in said == positions[shown]]
        pictures = [faces.dataset.faces[row] for row in faces.rows[shown]]
        _save(plot_faces(pictures, captions, colours, title=f"{model.key} on {faces.dataset.name}"), draw)
    return 0


def _save(figure: object, path: str) -> None:
    from fer_keras.evaluation.plots import save_png

    print(f"drawn: {save_png(figure, path)}")


if __name__ == "__main__":
    raise SystemExit(main())
