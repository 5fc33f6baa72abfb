"""What each ingredient of a training brings: the same training with one thing changed, over seeds, and what of it is noise.

python -m training.ablate --config training/configs/ferplus-cnn-start.yaml --vary "no flip: flip=false" --seeds 3
python -m training.ablate --data data/prepared/mine --epochs 10 --vary "poor cameras: dark=0.8 blur=0.03 noise=0.08" --mirror

Each --vary is a name and the settings that it changes. Every variation is trained with every seed; a command that was stopped
goes on when it is given again, and given with more of --vary or --seeds it trains those too. All are judged on the same faces by
their best weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.errors import ConfigError
from fer_keras.evaluation.repeated import drawn_text, judge_repeated, seeds_note
from fer_keras.files import write_json, write_whole
from training import config, variants
from training.config import TrainConfig
from training.variants import Variant, figure_text

if TYPE_CHECKING:
    import pandas as pd

BASE = "as it is"
MIRROR = "as it is, each face mirrored too"


def ablate(
    settings: TrainConfig,
    varied: Mapping[str, TrainConfig],
    seeds: int,
    out: Path,
    *,
    mirror: bool = False,
    protocol: str | None = None,
    repeats: int = 2000,
) -> dict[str, Any]:
    """Train the settings as they are and varied, with each seed, and write ablate.json, CSV files, a plot and report.html.

    settings: resolved. varied: what it is called -> resolved settings. mirror: judge the first also by the mean of what it
    says of a face and of its mirror image, which takes no training. Returns what ablate.json holds.
    Raises what `variants.train_variants` raises, and ConfigError where a report is there of variations or seeds that are
    not among these; both before anything is trained.
    """
    dataset = variants.load_dataset(settings)
    rows = {split: dataset.rows(split) for split in ("train", "validation")}
    everything = {BASE: settings, **varied}
    names = [*everything, *([MIRROR] if mirror else [])]
    chosen = variants.seeds_of(settings, seeds)
    variants.refuse_to_drop(out / "ablate.json", lambda told: told["variations"], names, "--vary and --mirror", chosen)
    faces, notes = variants.judged_faces(dataset, protocol, everything.values())
    planned = {
        name: [Variant(f"{_folder(name)}-seed{one.seed}", one, rows) for one in variants.with_seeds(changed, seeds)]
        for name, changed in everything.items()
    }
    flat = [variant for each in planned.values() for variant in each]
    trained = dict(zip([variant.name for variant in flat], variants.train_variants(flat, dataset, out), strict=True))
    runs = {name: [trained[variant.name] for variant in each] for name, each in planned.items()}
    if mirror:
        runs[MIRROR] = runs[BASE]
    mirrored = [name == MIRROR for name in names]

    truth = np.array(faces.true_names)
    judged = variants.judge([runs[name] for name in names], faces, truth, mirror=mirrored)
    found = judge_repeated(
        judged.correct,
        None,
        clusters=judged.clusters,
        trainings=[names.index(BASE if name == MIRROR else name) for name in names],
        repeats=repeats,
        comparisons=len(names) - 1,
        seed=settings.seed,
    )
    differences = found.differences(0, range(1, len(names)), ("accuracy",))
    result = {
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "split": faces.split,
        "protocol": faces.protocol,
        "n": len(judged.groups),
        "seeds": [variant.settings.seed for variant in planned[BASE]],
        "repeats": len(found.draws),
        "units": found.units,
        "variations": {
            name: {
                "changes": {} if name == MIRROR else _changes(settings, everything[name]),
                "accuracy": found.describe(index)["accuracy"],
                "macro_f1": _macro_f1(judged, runs[name], mirrored[index]),
                "recall": {str(label): float(judged.correct[index][:, truth == label].mean()) for label in np.unique(truth)},
                "minutes": float(np.mean([sum(run.metrics["seconds"].values()) for run in runs[name]]) / 60),
                "runs": [str(run.path) for run in runs[name]],
            }
            for index, name in enumerate(names)
        },
        "differences": {name: line[0] for name, line in zip(names[1:], differences, strict=True)},
        "notes": [*notes, seeds_note(seeds, found.units), *_mirror_note(mirror, seeds)],
        "settings": settings.to_dict(),
        "out": str(out),
    }
    write_json(out / "ablate.json", result)
    judged.write_predictions(out / "predictions.csv")
    write_whole(out / "variations.csv", variations_frame(result).to_csv(index=False, float_format="%.6f"))
    _write_report(out, result)
    return result


def _folder(name: str) -> str:
    """A name as part of a folder's: its letters, marks and digits of every script, and hyphens for all between them."""
    name = unicodedata.normalize("NFC", name)
    kept = "".join(each if each == "." or unicodedata.category(each)[0] in "LMN" else "-" for each in name)
    return re.sub("-+", "-", kept).strip("-.")


def _same_folder(name: str, other: str) -> bool:
    """Whether two names lead to one folder, be it only where a file system does not tell capitals from small letters."""
    return _folder(name).casefold() == _folder(other).casefold()


def _changes(settings: TrainConfig, changed: TrainConfig) -> dict[str, Any]:
    before, after = settings.to_dict(), changed.to_dict()
    return {key: after[key] for key in after if after[key] != before[key]}


def _mirror_note(mirror: bool, seeds: int) -> list[str]:
    if not mirror or seeds == 1:
        return []
    return [
        f"{MIRROR!r} judges the very trainings of {BASE!r} again, so what seeds do to their difference is learnt from how the "
        f"difference itself varies over these {seeds} alone (Student's t, degrees of freedom: {seeds - 1})"
    ]


def _macro_f1(judged: variants.Judged, runs: Sequence[Any], mirrored: bool) -> dict[str, Any]:
    from sklearn.metrics import f1_score

    keys = [variants.predicted_key(run, mirrored) for run in runs]
    truth = judged.faces.truth
    there = np.unique(truth)  # as in evaluate: classes without a face have no recall to average
    by_seed = [float(f1_score(truth, judged.predicted[key], labels=there, average="macro")) for key in keys]
    return {"mean": float(np.mean(by_seed)), "by_seed": by_seed, "std": float(np.std(by_seed, ddof=1)) if len(keys) > 1 else None}


def parse_variation(text: str, settings: TrainConfig) -> tuple[str, TrainConfig]:
    """("no flip", resolved settings without it) from "no flip: flip=false"; values as in a config file. Raises ConfigError.

    settings: not resolved, so that what follows from a changed setting changes too.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    pairs = [pair.partition("=") for pair in rest.split()]
    if not colon or not name or not pairs or not all(key and sign for key, sign, _ in pairs):
        raise ConfigError(f"--vary takes 'NAME: SETTING=VALUE ...', such as 'no flip: flip=false', got {text!r}")
    if not _folder(name):
        raise ConfigError(f"--vary {name!r}: a name needs a letter or a digit, for the folders of its runs are called by it")
    changes = {key.replace("-", "_"): config.read_value(value, f"--vary {name!r}: {key}") for key, _, value in pairs}
    if own := [key for key in changes if key in (*variants.OWN_SETTINGS, "data", "seed")]:
        raise ConfigError(f"--vary {name!r} can't change {own[0]}, which all trainings share")
    changed = TrainConfig.from_dict({**settings.to_dict(), **changes}, origin=f"--vary {name!r}").resolved()
    try:
        config.refuse_idle(changes, changed)
    except ConfigError as error:
        raise ConfigError(f"--vary {name!r}: {error}") from None
    if not _changes(settings.resolved(), changed):
        raise ConfigError(f"--vary {name!r} changes nothing: {rest} is how it is")
    return name, changed


def variations_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line a variation, with numbers."""
    import pandas as pd

    lines = []
    for name, entry in result["variations"].items():
        accuracy, difference = entry["accuracy"], result["differences"].get(name, {})
        lines.append(
            {
                "variation": name,
                **{f"accuracy{ending}": accuracy[key] for ending, key in (("", "mean"), (" low", "low"), (" high", "high"))},
                "accuracy std of seeds": accuracy["std"],
                "macro_f1": entry["macro_f1"]["mean"],
                "macro_f1 std of seeds": entry["macro_f1"]["std"],
                **{key: difference.get(key) for key in ("difference", "low", "high", "p", "p_holm", "verdict")},
                **{f"recall {label}": recall for label, recall in entry["recall"].items()},
                "minutes": entry["minutes"],
            }
        )
    return pd.DataFrame(lines)


def _shown_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """The same as text for people."""
    import pandas as pd

    lines = []
    for name, entry in result["variations"].items():
        difference, f1 = result["differences"].get(name), entry["macro_f1"]
        lines.append(
            {
                "variation": name,
                "accuracy": figure_text(entry["accuracy"]),
                "macro F1": f"{f1['mean']:.3f}" + ("" if f1["std"] is None else f" ± {f1['std']:.3f}"),
                f"difference from {BASE}": figure_text(difference, sign=True) if difference else "",
                "p (Holm)": f"{difference['p_holm']:.3f}" if difference else "",
                "verdict": difference["verdict"] if difference else "",
                "minutes": f"{entry['minutes']:.1f}",
            }
        )
    return pd.DataFrame(lines)


def _about(result: Mapping[str, Any]) -> str:
    return (
        f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}, "
        f"seeds {', '.join(map(str, result['seeds']))}, 95% intervals over "
        f"{drawn_text(result['units'], len(result['seeds']))}"
    )


def summary_text(result: Mapping[str, Any]) -> str:
    """The result as a table for the terminal."""
    notes = [f"note: {note}" for note in result["notes"]]
    return "\n\n".join([_about(result), _shown_frame(result).to_string(index=False), "\n".join(notes)])


def _write_report(out: Path, result: Mapping[str, Any]) -> None:
    from fer_keras.evaluation import plots, report
    from fer_keras.evaluation.variant_plots import plot_differences

    picture = plots.save_png(plot_differences(result["differences"], BASE), out / "differences.png")
    changed = [
        f"{name}: " + ", ".join(f"{key} = {value}" for key, value in entry["changes"].items())
        for name, entry in result["variations"].items()
        if entry["changes"]
    ]
    sections = [
        ("", report.paragraph_html(_about(result) + ".") + report.table_html(_shown_frame(result))),
        ("Differences", report.image_html(picture, "difference of each variation", "Lines: 95% intervals.")),
        ("What was changed", "".join(report.paragraph_html(line) for line in changed)),
        ("Notes", "".join(report.paragraph_html(note, note=True) for note in result["notes"])),
    ]
    write_whole(out / "report.html", report.html_page(f"Ingredients of a training on {result['data']['name']}", sections))


def build_parser() -> cli.CommandParser:
    """The command line of `python -m training.ablate`."""
    parser = cli.CommandParser(prog="python -m training.ablate", description=__doc__)
    parser.add_argument(
        "--vary", action="append", default=[], metavar="TEXT", help="'NAME: SETTING=VALUE ...'; as often as needed"
    )
    parser.add_argument("--mirror", action="store_true", help="judge the base also with each face mirrored, without training")
    variants.add_options(parser, "runs/ablate-DATA", groups=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    settings = dataclasses.replace(config.from_arguments(args, args.config), out=None, export=None)
    varied: dict[str, TrainConfig] = {}
    for text in args.vary:
        name, changed = parse_variation(text, settings)
        if any(_same_folder(name, other) for other in (BASE, MIRROR, *varied)):
            raise ConfigError(f"--vary {name!r}: there is one of that name; give each its own")
        varied[name] = changed
    config.refuse_idle(config.given_settings(args), settings, *varied.values())
    if not varied and not args.mirror:
        raise ConfigError("there is nothing to compare; give --vary 'NAME: SETTING=VALUE', or --mirror")
    out = Path(args.folder or f"runs/ablate-{Path(settings.data or 'data').name}")
    result = ablate(
        settings.resolved(), varied, args.seeds, out, mirror=args.mirror, protocol=args.protocol, repeats=args.repeats
    )
    print(summary_text(result))
    print(f"Report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
