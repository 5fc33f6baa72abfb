"""How much a camera or a loose detector box costs: the same faces blurred, dark, noisy, small, tilted, shifted, one at a time.

python -m training.corruptions --model saved_models/ferplus-cnn --data data/prepared/ferplus
python -m training.corruptions --model runs/one --model runs/two --data data/prepared/mine --corruptions blur,small=36,24,16

Every model sees the very same corrupted faces. A difference is that to the same model on the untouched faces, with a 95%
interval for paired faces (Newcombe 1998, method 10).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.cli import CommandParser
from fer_keras.data.corruptions import CORRUPTIONS, check, corrupt
from fer_keras.errors import ConfigError
from fer_keras.files import write_json, write_whole
from training import scoring
from training.scoring import ScoredFaces, ScoredModel

if TYPE_CHECKING:
    import pandas as pd

CLEAN = "none"


def parse_corruptions(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Kinds and their levels from words such as "blur", "small=36", "24": a number belongs to the kind before it.

    No word at all is every kind at its usual levels. Raises ConfigError for what is no kind, no number, out of range,
    or named twice.
    """
    chosen: dict[str, list[float]] = {}
    kind = ""
    for word in words:
        name, sign, level = word.partition("=")
        if not _is_number(word):
            kind = name.strip()
            chosen.setdefault(kind, [])
            if kind not in CORRUPTIONS:
                raise ConfigError(f"unknown corruption {kind!r}; choose from {', '.join(CORRUPTIONS)}")
        level = level if sign else word if _is_number(word) else ""
        if not kind or (sign and not _is_number(level)):
            raise ConfigError(f"can't read {word!r}; expected NAME or NAME=LEVEL,LEVEL with NAME one of {', '.join(CORRUPTIONS)}")
        if level:
            check(kind, float(level))
            if float(level) in chosen[kind]:
                raise ConfigError(f"--corruptions names {kind}={float(level):g} twice")
            chosen[kind].append(float(level))
    chosen = chosen or {kind: [] for kind in CORRUPTIONS}
    return {kind: tuple(levels) or CORRUPTIONS[kind].levels for kind, levels in chosen.items()}


def _is_number(word: str) -> bool:
    try:
        return np.isfinite(float(word))
    except ValueError:
        return False


def judge(
    models: Sequence[ScoredModel],
    faces: ScoredFaces,
    corruptions: Mapping[str, Sequence[float]],
    *,
    split: str | None = None,
    seed: int = 0,
    batch_size: int = scoring.BATCH_SIZE,
) -> dict[str, Any]:
    """Score models on faces as they are and after each corruption. split: what was asked for, which the notes tell of.

    Returns {"protocol", "split", "n", "seed", "data", "notes", "models": {key: [{corruption, level, meaning, accuracy,
    accuracy_ci95, accuracy_ci95_identities, macro_f1, difference, difference_ci95}]}}; the first entry of a model is of the
    untouched faces (corruption "none", no level, no difference). accuracy_ci95 is over faces; accuracy_ci95_identities, over
    persons, is there where some have several faces, and is the one to state.
    """
    from fer_keras.evaluation.classification import classification_metrics
    from fer_keras.evaluation.paired import accuracy_difference_interval, one_person_note
    from fer_keras.evaluation.resampling import person_units

    dataset, people = faces.dataset, scoring.identities(faces.dataset, faces.rows)
    truths = [scoring.label_positions(model, faces) for model in models]  # before anything is computed: these may not fit
    notes = [*scoring.face_notes(faces, split), *(note for model in models for note in scoring.fit_notes(model, faces))]
    units = person_units(people)
    alone = one_person_note(people)
    notes += alone
    if units is not None and not alone:
        notes.append(
            f"these {len(people)} faces are of {len(units.group)} persons, whose faces go together: intervals are over persons"
        )
    notes += [
        f"small {level:g} changes nothing: faces of {dataset.name} are {dataset.image_size} pixels"
        for level in corruptions.get("small", ())
        if level >= dataset.image_size
    ]
    plan = [(CLEAN, None), *((kind, level) for kind, levels in corruptions.items() for level in levels)]
    scored: dict[str, list[dict[str, Any]]] = {model.key: [] for model in models}
    clean: dict[str, np.ndarray] = {}
    for kind, level in plan:
        change = None if level is None else partial(_corrupted, kind=kind, level=level, seed=seed)
        title = kind if level is None else f"{kind} {level:g}"
        for model, truth in zip(models, truths, strict=True):
            probabilities = scoring.predict_rows(model, dataset, faces.rows, batch_size, change=change, title=title)
            figures = classification_metrics(truth, probabilities, model.labels, curves=False)
            correct = probabilities.argmax(axis=1) == truth
            entry = {
                "corruption": kind,
                "level": level,
                "meaning": "as they are" if level is None else CORRUPTIONS[kind].describe(level),
                **{name: figures[name] for name in ("accuracy", "accuracy_ci95", "macro_f1")},
                **scoring.identities_interval(correct, people),
                "difference": None,
                "difference_ci95": None,
            }
            if level is None:
                clean[model.key] = correct
            else:
                entry["difference"] = float(correct.mean() - clean[model.key].mean())
                entry["difference_ci95"] = list(accuracy_difference_interval(clean[model.key], correct, people))
            scored[model.key].append(entry)
    return {
        "protocol": faces.protocol,
        "split": faces.split,
        "n": len(faces.rows),
        "seed": seed,
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "notes": notes,
        "models": scored,
    }


def _corrupted(faces: np.ndarray, rows: np.ndarray, kind: str, level: float, seed: int) -> np.ndarray:
    return corrupt(faces, kind, level, rows, seed)


def frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """What `judge` returned, one line a model and corruption, intervals in two columns each: over persons where known."""
    import pandas as pd

    from fer_keras.models.exported import interval_to_state

    lines = []
    for key, entries in result["models"].items():
        for entry in entries:
            low, high = interval_to_state(entry)
            change = entry["difference_ci95"] or (None, None)
            lines.append(
                {
                    "model": key,
                    "corruption": entry["corruption"],
                    "level": entry["level"],
                    "meaning": entry["meaning"],
                    "accuracy": entry["accuracy"],
                    "accuracy_low": low,
                    "accuracy_high": high,
                    "macro_f1": entry["macro_f1"],
                    "difference": entry["difference"],
                    "difference_low": change[0],
                    "difference_high": change[1],
                }
            )
    return pd.DataFrame(lines)


def summary_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The same in words, for the terminal and the page: figures with their intervals beside them."""
    import pandas as pd

    table = frame(result)
    shown = pd.DataFrame(
        {
            "model": table["model"],
            "corruption": table["corruption"],
            "what it does": table["meaning"],
            "accuracy": [_interval(*line, "{:.3f}") for line in table.filter(like="accuracy").to_numpy()],
            "difference": ["-" if np.isnan(line[0]) else _interval(*line, "{:+.3f}") for line in _differences(table)],
            "macro F1": table["macro_f1"].map("{:.3f}".format),
        }
    )
    return shown if len(result["models"]) > 1 else shown.drop(columns="model")


def _differences(table: pd.DataFrame) -> np.ndarray:
    return table[["difference", "difference_low", "difference_high"]].to_numpy(dtype=float)


def _interval(value: float, low: float, high: float, form: str) -> str:
    return f"{form.format(value)} ({form.format(low)} to {form.format(high)})"


def write(result: Mapping[str, Any], out: Path) -> None:
    """corruptions.json, corruptions.csv, corruptions.png and report.html in a folder."""
    from fer_keras.evaluation import report
    from fer_keras.evaluation.plots import plot_corruptions, save_png

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "corruptions.json", dict(result))
    write_whole(out / "corruptions.csv", frame(result).to_csv(index=False))
    picture = save_png(plot_corruptions(result["models"]), out / "corruptions.png")
    introduction = (
        f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}; every model sees the "
        f"same corrupted faces (seed {result['seed']}). Intervals at 95%: Wilson's for accuracy (of as many faces as "
        "theirs are worth where some persons have several); for the difference to the same faces as they are Newcombe's for "
        "paired faces, or where some persons have several faces a bootstrap over persons. "
        "Only the crops are at hand: where a turned or shifted face shows what was outside, the pixels at the border are "
        "repeated."
    )
    body = report.paragraph_html(introduction) + report.table_html(summary_frame(result))
    body += report.image_html(picture, "accuracy against the level of each corruption")
    body += "".join(report.paragraph_html(note, note=True) for note in result["notes"])
    title = f"Corruptions: {', '.join(result['models'])}"
    write_whole(out / "report.html", report.html_page(title, [("", body)]))


def build_parser() -> CommandParser:
    """The command line of `python -m training.corruptions`."""
    kinds = "; ".join(f"{name}: {', '.join(f'{level:g}' for level in kind.levels)}" for name, kind in CORRUPTIONS.items())
    parser = CommandParser(prog="python -m training.corruptions", description=__doc__)
    parser.add_argument(
        "--model",
        action="extend",
        nargs="+",
        required=True,
        metavar="NAME",
        help="exported models (names or folders), or runs (their best weights)",
    )
    scoring.add_face_options(
        parser, data="the one that the run was trained on", split="default: test, or validation where there is no test"
    )
    parser.add_argument("--corruptions", default="", metavar="LIST", help=f"NAME or NAME=LEVEL,LEVEL; default all: {kinds}")
    parser.add_argument("--seed", type=int, default=0, help="of noise and directions (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--out", metavar="DIR", help="folder of the report; default: in the run, or in reports/")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise ConfigError(f"a seed is 0 or more, got {args.seed}")
    corruptions = parse_corruptions(cli.words(args.corruptions))
    paths = [scoring.find(path) for path in args.model]
    dataset = scoring.common_dataset(scoring.runs_among(paths), args.data)
    names = scoring.distinct_names(paths)
    models = [scoring.open_model(path, name) for path, name in zip(paths, names, strict=True)]
    faces = scoring.choose_faces(models, dataset, args.split, args.protocol)
    result = judge(models, faces, corruptions, split=args.split, seed=args.seed, batch_size=args.batch_size)
    out = Path(args.out) if args.out else scoring.report_folder(models, faces, "corruptions")
    write(result, out)
    print(f"{result['n']} {result['split']} faces of {dataset.name}, protocol {result['protocol']}, seed {result['seed']}")
    print(summary_frame(result).to_string(index=False))
    print("\n".join(f"note: {note}" for note in result["notes"]), end="\n" if result["notes"] else "")
    print(f"written: {out / 'report.html'}")
    if args.json:
        write_json(Path(args.json), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
