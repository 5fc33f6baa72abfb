"""Compare runs or exported models on the same faces, with paired tests so that noise is not called progress."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.cli import CommandParser, run
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError
from fer_keras.evaluation.paired import mcnemar, persons_note
from fer_keras.evaluation.resampling import holm, person_units
from fer_keras.files import write_json
from fer_keras.models.exported import interval_to_state
from training import scoring
from training.scoring import ScoredModel

if TYPE_CHECKING:
    from training.run_folder import RunFolder

SIGNIFICANT = 0.05
NO_DIFFERENCE = "no difference shown"


def differing_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that are not the same in all: setting -> {model: value}, None where a model has no such setting."""
    names = dict.fromkeys(name for one in settings.values() for name in one)
    table = {name: {model: one.get(name) for model, one in settings.items()} for name in names}
    return {name: values for name, values in table.items() if len({repr(value) for value in values.values()}) > 1}


def compare(
    models: Sequence[ScoredModel],
    dataset: FaceDataset,
    split: str | None = None,
    protocol: str | None = None,
    batch_size: int = scoring.BATCH_SIZE,
) -> dict[str, Any]:
    """Score models on the same faces and test each pair.

    Returns {"protocol", "split", "n", "data", "notes", "models": {key: {accuracy, accuracy_ci95, macro_f1, ece, log_loss,
    parameters, and where some persons have several faces accuracy_ci95_identities}}, "pairs": [{first, second,
    accuracy_difference, only_first, only_second, p, p_holm, verdict}], "exchanged": "persons" or "faces", what the tests
    exchange, "settings": {name: {run: value}}}. Raises ConfigError for fewer than two models or where their faces differ.
    """
    from fer_keras.evaluation.classification import classification_metrics

    if len(models) < 2:
        raise ConfigError(f"a comparison needs two models or more, got {len(models)}")
    faces = scoring.choose_faces(models, dataset, split, protocol)
    truths = [scoring.label_positions(model, faces) for model in models]
    notes = [*scoring.face_notes(faces, split), *(note for model in models for note in scoring.fit_notes(model, faces))]
    people = scoring.identities(dataset, faces.rows)
    notes += persons_note(people)
    correct: dict[str, np.ndarray] = {}
    entries: dict[str, dict[str, Any]] = {}
    for model, truth in zip(models, truths, strict=True):
        probabilities = scoring.predict_rows(model, dataset, faces.rows, batch_size)
        figures = classification_metrics(truth, probabilities, model.labels)
        correct[model.key] = probabilities.argmax(axis=1) == truth
        wanted = ("accuracy", "accuracy_ci95", "macro_f1", "ece", "log_loss")
        over_people = scoring.identities_interval(correct[model.key], people)
        entries[model.key] = {**{name: figures[name] for name in wanted}, **over_people, "parameters": model.parameters}
    pairs = []
    for first, second in combinations(entries, 2):
        difference = entries[second]["accuracy"] - entries[first]["accuracy"]
        test = mcnemar(correct[first], correct[second], people)
        pairs.append({"first": first, "second": second, "accuracy_difference": difference, **test})
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        better = pair["second"] if pair["accuracy_difference"] > 0 else pair["first"]
        pair["p_holm"] = float(corrected)
        pair["verdict"] = NO_DIFFERENCE if corrected >= SIGNIFICANT else f"{better} is better"
    return {
        "protocol": faces.protocol,
        "split": faces.split,
        "n": len(faces.rows),
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "notes": notes,
        "models": entries,
        "pairs": pairs,
        "exchanged": "faces" if person_units(people) is None else "persons",
        "settings": differing_settings({model.key: _settings(model.run) for model in models if model.run is not None}),
    }


def _settings(run: RunFolder) -> dict[str, Any]:
    aside = ("out", "export", "saved_models", "overwrite", "tensorboard")  # where things were written, not what was trained
    settings = {**run.config, "precision": run.precision}  # what "auto" came to
    return {name: value for name, value in scoring.flat(settings).items() if name not in aside}


def comparison_text(result: Mapping[str, Any]) -> str:
    """What `compare` returned, as tables for the terminal."""
    parts = [
        f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}",
        _table(
            [
                {
                    "model": key,
                    "accuracy": f"{entry['accuracy']:.3f}",
                    "95% interval": "{:.3f} to {:.3f}".format(*interval_to_state(entry)),
                    "macro F1": f"{entry['macro_f1']:.3f}",
                    "ECE": f"{entry['ece']:.3f}",
                    "parameters": f"{entry['parameters']:,}",
                }
                for key, entry in result["models"].items()
            ]
        ),
    ]
    if result["settings"]:
        lines = [
            {"setting": name, **{model: _short(value) for model, value in values.items()}}
            for name, values in result["settings"].items()
        ]
        parts.append("settings that differ\n" + _table(lines))
    pairs = [
        {
            "pair": f"{pair['first']} / {pair['second']}",
            "difference": f"{pair['accuracy_difference']:+.3f}",
            "only first right": pair["only_first"],
            "only second right": pair["only_second"],
            "p (Holm)": f"{pair['p_holm']:.4f}" if pair["p_holm"] >= 0.0001 else "< 0.0001",
            "verdict": pair["verdict"],
        }
        for pair in result["pairs"]
    ]
    tests = "paired tests, whole persons exchanged" if result["exchanged"] == "persons" else "paired exact McNemar tests"
    parts.append(f"{tests}\n" + _table(pairs))
    if result["notes"]:
        parts.append("\n".join(f"note: {note}" for note in result["notes"]))
    return "\n\n".join(parts)


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(lines).to_string(index=False)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def build_parser() -> CommandParser:
    """The command line of `python -m training.compare`."""
    parser = CommandParser(
        prog="python -m training.compare",
        description=__doc__,
        epilog="example:\n  python -m training.compare runs/one runs/two saved_models/ferplus-cnn --data data/ferplus",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="RUN",
        help="run folders (their best weights) or exported models (names or folders), two or more",
    )
    scoring.add_face_options(
        parser, data="the one that all the runs were trained on", split="default: test, or validation where there is no test"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    paths = [scoring.find(path) for path in args.models]
    names = scoring.distinct_names(paths)
    if len(names) < 2:
        raise ConfigError(f"a comparison needs two models or more, got {len(names)}")
    dataset = scoring.common_dataset(scoring.runs_among(paths), args.data)  # before TensorFlow: it may be missing
    models = [scoring.open_model(path, name) for path, name in zip(paths, names, strict=True)]
    result = compare(models, dataset, args.split, args.protocol, args.batch_size)
    print(comparison_text(result))
    if args.json:
        write_json(Path(args.json), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
