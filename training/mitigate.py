"""Train with and without balancing and see what it does to accuracy and to the gap between groups, and what is noise.

python -m training.mitigate --data data/prepared/mine --by gender --methods none,weight,resample,augment,dro --seeds 3
python -m training.mitigate --data data/prepared/mine --by label,gender --arch densenet --epochs 10

Every method is trained with every seed; a command that was stopped goes on when it is given again. All are judged on the same
test faces by their best weights. A smaller gap is a smaller gap on these faces, between these groups; it does not make a model
free of bias, and a gap can close because the better group got worse: look at both.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_keras import cli
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.evaluation.fairness_report import FEW_PEOPLE, counted
from fer_keras.evaluation.ordering import in_order, ordered
from fer_keras.evaluation.repeated import drawn_text, judge_repeated, seeds_note
from fer_keras.files import write_json, write_whole
from training import variants
from training.bias import check_columns, groups_provenance
from training.config import TrainConfig, given_settings, refuse_idle
from training.variants import Variant, figure_text

if TYPE_CHECKING:
    import pandas as pd

#: Each way of --balance-by, and training as it is.
METHODS = {
    "none": "the faces as they are",
    "weight": "each face weighs inversely to the size of its cell",
    "resample": "faces of short cells are drawn more often",
    "augment": "short cells brought up with new pictures: mirrored, turned, shifted, lighter or darker",
    "mean-flip": "large cells cut to the mean size, short ones brought up to it with mirrored faces",
    "dro": "group DRO (Sagawa et al. 2020, arXiv:1911.08731): cells of higher loss weigh more, cells drawn equally often",
}
FIGURES = ("accuracy", "gap", "worst")
BEST_NOTE = (
    "The best epoch is the one of lowest validation loss over all faces, for every method; chosen by the worst group, methods "
    "can do better for that group (Sagawa et al. 2020; Idrissi et al. 2022, arXiv:2110.14503)."
)


def mitigate(
    settings: TrainConfig,
    by: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    out: Path,
    *,
    target: int | None = None,
    protocol: str | None = None,
    min_n: int = 30,
    repeats: int = 2000,
) -> dict[str, Any]:
    """Train each method with each seed and write mitigate.json, CSV files, a plot and report.html to `out`.

    settings: what all share, resolved. by: columns whose cells are balanced; the gap is that between groups of those that are
    not "label". methods: of METHODS; "none" is trained anyway. target: for augment, faces a cell.
    Returns what mitigate.json holds.
    Raises ConfigError for unknown methods or columns and where a report is there of methods or seeds that are not among these,
    DataError where groups can't be compared, and what `variants.train_variants` raises.
    """
    methods = _checked_methods(methods)
    dataset = variants.load_dataset(settings)
    groups_by = [column for column in by if column != "label"]
    if not groups_by:
        raise ConfigError(f"--by {','.join(by)} has no group; name one of {', '.join(dataset.group_columns) or 'none there'}")
    check_columns(dataset, groups_by)
    rows = {split: dataset.rows(split) for split in ("train", "validation")}
    chosen = variants.seeds_of(settings, seeds)
    variants.refuse_to_drop(out / "mitigate.json", lambda told: told["methods"], methods, "--methods", chosen)
    faces, notes = variants.judged_faces(dataset, protocol, [settings])
    groups, known = variants.joined_groups(dataset, faces.rows, groups_by)
    notes += _check_test_groups(dataset, groups_by, groups[known], min_n, faces.split)
    planned = {
        method: [
            Variant(f"{method}-seed{one.seed}", _balanced(one, method, by, target), rows)
            for one in variants.with_seeds(settings, seeds)
        ]
        for method in methods
    }
    flat = [variant for each in planned.values() for variant in each]
    trained = dict(zip([variant.name for variant in flat], variants.train_variants(flat, dataset, out), strict=True))
    runs = [[trained[variant.name] for variant in planned[method]] for method in methods]

    judged = variants.judge(runs, variants.subset_faces(faces, known), groups[known])
    found = judge_repeated(
        judged.correct,
        judged.groups,
        clusters=judged.clusters,
        min_n=min_n,
        repeats=repeats,
        comparisons=(len(methods) - 1) * len(FIGURES),
        seed=settings.seed,
    )
    differences = found.differences(0, range(1, len(methods)), FIGURES)
    small = in_order(name for name, fits in zip(found.groups, found.compared, strict=True) if not fits)
    notes += [f"{len(known) - known.sum()} {faces.split} faces of unknown group are left out"] if not known.all() else []
    notes += [f"fewer than {min_n} faces, so no part of the gap: {', '.join(small)}"] if small else []
    notes += found.few_people()
    result = {
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "split": faces.split,
        "protocol": faces.protocol,
        "n": len(judged.groups),
        "by": list(by),
        "groups_by": groups_by,
        "groups_from": groups_provenance(dataset, groups_by),
        "group_counts": ordered(dict(zip(found.groups, found.counts.tolist(), strict=True))),
        "seeds": [variant.settings.seed for variant in planned[methods[0]]],
        "repeats": len(found.draws),
        "units": found.units,
        "before": methods[0],
        "methods": {
            method: {
                "meaning": METHODS[method],
                **found.describe(index),
                "n_train": [run.metrics["n_train"] for run in runs[index]],
                "epochs": [run.metrics["epochs"] for run in runs[index]],
                "best_epoch": [run.metrics["best_epoch"] for run in runs[index]],
                "cells": runs[index][0].metrics.get("cells"),
                "dro_weights": [run.metrics["dro_weights"] for run in runs[index]] if method == "dro" else None,
                "runs": [str(run.path) for run in runs[index]],
            }
            for index, method in enumerate(methods)
        },
        "differences": dict(zip(methods[1:], differences, strict=True)),
        "notes": [*notes, *_sizes_note(methods, runs), BEST_NOTE, seeds_note(seeds, found.units)],
        "settings": settings.to_dict(),
        "out": str(out),
    }
    write_json(out / "mitigate.json", result)
    judged.write_predictions(out / "predictions.csv")
    tables = {"methods": methods_frame(result), "differences": differences_frame(result), "runs": _runs_frame(result)}
    for name, table in tables.items():
        write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6f"))
    _write_report(out, result)
    return result


def _checked_methods(methods: Sequence[str]) -> list[str]:
    if unknown := [method for method in methods if method not in METHODS]:
        raise ConfigError(f"unknown method {unknown[0]!r} in --methods; choose from {', '.join(METHODS)}")
    if len(set(methods)) != len(methods):
        raise ConfigError(f"--methods {','.join(methods)} names one twice")
    every = ["none", *(method for method in methods if method != "none")]  # without it there is no "before"
    if len(every) < 2:
        raise ConfigError(f"--methods has nothing to compare with none; choose from {', '.join(list(METHODS)[1:])}")
    return every


def _check_test_groups(dataset: FaceDataset, columns: Sequence[str], there: Any, min_n: int, split: str) -> list[str]:
    """Raise DataError where a gap can't be measured, before anything is trained. Returns what a reader should know."""
    from collections import Counter

    counts = Counter(there.tolist())
    train, known = variants.joined_groups(dataset, dataset.rows("train"), columns)
    missing = in_order(set(train[known].tolist()) - set(counts))
    if sum(count >= min_n for count in counts.values()) < 2:
        has = ", ".join(f"{name} {count}" for name, count in ordered(counts).items()) or "none"
        more = f"; prepare the data with --split-by label,{','.join(columns)}" if missing else ""
        raise DataError(f"a gap needs two groups of {min_n} {split} faces or more, got {has}{more}; add faces, or lower --min-n")
    return [f"no {split} face is in a group that training faces are in: {', '.join(missing)}"] if missing else []


def _balanced(settings: TrainConfig, method: str, by: Sequence[str], target: int | None) -> TrainConfig:
    if method == "none":
        return dataclasses.replace(settings, balance=[], balance_by="weight", balance_target=None)
    faces = target if method == "augment" else None
    return dataclasses.replace(settings, balance=list(by), balance_by=method, balance_target=faces)


def _sizes_note(methods: Sequence[str], runs: Sequence[Sequence[Any]]) -> list[str]:
    """Methods that train on another number of faces also make another number of steps, which may be what is seen."""
    sizes = {method: seeds[0].metrics["n_train"] for method, seeds in zip(methods, runs, strict=True)}
    if len(set(sizes.values())) == 1:
        return []
    listed = ", ".join(f"{method} {size}" for method, size in sizes.items())
    return [f"an epoch has a different number of faces, and so of steps, by method, which may matter by itself: {listed}"]


def methods_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line a method: accuracy, gap, worst group and every group, each with its interval and the spread of seeds; of a group
    also how many test faces it has."""
    import pandas as pd

    lines = []
    for method, entry in result["methods"].items():
        line: dict[str, Any] = {"method": method}
        figures = {**{name: entry[name] for name in FIGURES}, **entry["groups"]}
        for name, figure in figures.items():
            line |= {name: figure["mean"], f"{name} low": figure["low"], f"{name} high": figure["high"]}
            line[f"{name} std of seeds"] = figure["std"]
            if name in entry["groups"]:
                line[f"{name} n"] = figure["n"]
        lines.append({**line, "n_train": entry["n_train"][0]})
    return pd.DataFrame(lines)


def differences_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line a method and figure: how it differs from `before`."""
    import pandas as pd

    return pd.DataFrame([{"method": method, **entry} for method, line in result["differences"].items() for entry in line])


def _runs_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "method": method,
                "seed": seed,
                **{name: entry[name]["by_seed"][index] for name in FIGURES},
                **{name: group["by_seed"][index] for name, group in entry["groups"].items()},
                "n_train": entry["n_train"][index],
                "best_epoch": entry["best_epoch"][index],
                "run": entry["runs"][index],
            }
            for method, entry in result["methods"].items()
            for index, seed in enumerate(result["seeds"])
        ]
    )


def _shown_frames(result: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Methods, and their differences from before, as text for people."""
    import pandas as pd

    methods = pd.DataFrame(
        [
            {
                "method": method,
                "accuracy": figure_text(entry["accuracy"]),
                "gap": figure_text(entry["gap"]),
                "worst group": f"{entry['gap']['worst_group']} {figure_text(entry['worst'])}",
                **{f"{name} (n {group['n']})": figure_text(group) for name, group in entry["groups"].items()},
                "faces": entry["n_train"][0],
            }
            for method, entry in result["methods"].items()
        ]
    )
    names = {"worst": "worst group"}
    apart = pd.DataFrame(
        [
            {
                "method": method,
                "figure": names.get(entry["figure"], entry["figure"]),
                f"difference from {result['before']}": figure_text(entry, sign=True),
                "p (Holm)": f"{entry['p_holm']:.3f}",
                "verdict": entry["verdict"].replace("worst", "worst group"),
            }
            for method, line in result["differences"].items()
            for entry in line
        ]
    )
    return methods, apart


def findings(result: Mapping[str, Any]) -> list[str]:
    """What the figures show, one sentence a method, and what they do not."""
    before = result["methods"][result["before"]]
    gap = before["gap"]
    few = {name: before["groups"][name]["identities"] for name in (gap["worst_group"], gap["best_group"])}
    few = {name: people for name, people in few.items() if people is not None and people < FEW_PEOPLE}
    if few:
        listed = " and ".join(f"{name} has {counted(people, 'person', 'people')}" for name, people in few.items())
        first = f"Before: whether there is a gap can't be told, {figure_text(gap)}: {listed}, who say little of others."
    elif gap["low"] > 0:
        first = f"Before: {gap['worst_group']} is named right less often than {gap['best_group']}, by {figure_text(gap)}."
    else:
        first = f"Before: no gap is shown, {figure_text(gap)}; then there is nothing for a method to close."
    sentences = [first]
    for method, line in result["differences"].items():
        shown = [entry for entry in line if entry["shown"]]
        words_of = {"accuracy": "accuracy", "gap": "the gap", "worst": "accuracy of the worst group"}
        parts = [f"{words_of[entry['figure']]} {figure_text(entry, sign=True)}" for entry in shown]
        rest = [words_of[entry["figure"]] for entry in line if not entry["shown"]]
        text = f"{method}: " + ("changes " + ", ".join(parts) if parts else "no difference shown")
        sentences.append(text + (f"; noise: {', '.join(rest)}." if parts and rest else "."))
    sentences.append(
        "Nothing here shows a model to be without bias: it compares these groups on these faces, by the labels they came with."
    )
    return sentences


def summary_text(result: Mapping[str, Any]) -> str:
    """The result as tables for the terminal."""
    methods, apart = _shown_frames(result)
    head = (
        f"{result['n']} {result['split']} faces of {result['data']['name']} by {', '.join(result['groups_by'])}, protocol "
        f"{result['protocol']}, 95% intervals over {drawn_text(result['units'], len(result['seeds']))}"
    )
    notes = [f"note: {note}" for note in result["notes"]]
    tables = [table.to_string(index=False) for table in (methods, apart)]
    return "\n\n".join([head, *tables, "\n".join(findings(result)), "\n".join(notes)])


def _write_report(out: Path, result: Mapping[str, Any]) -> None:
    from fer_keras.evaluation import plots, report
    from fer_keras.evaluation.variant_plots import plot_accuracy_against_gap

    picture = plots.save_png(plot_accuracy_against_gap(result["methods"]), out / "accuracy-against-gap.png")
    methods, apart = _shown_frames(result)
    about = (
        f"{result['n']} {result['split']} faces of {result['data']['name']}, protocol {result['protocol']}; cells balanced: "
        f"{' x '.join(result['by'])}; gap between groups of {', '.join(result['groups_by'])}; seeds of each method: "
        f"{', '.join(map(str, result['seeds']))}; 95% intervals from {result['repeats']} bootstrap repeats over "
        f"{drawn_text(result['units'], len(result['seeds']))}; p two-sided, corrected by Holm for all comparisons in the table."
    )
    caption = "Best is up and to the left. Square: before. Small points: single seeds. Lines: 95% intervals."
    meanings = [report.paragraph_html(f"{method}: {entry['meaning']}.") for method, entry in result["methods"].items()]
    sections = [
        ("", report.paragraph_html(about)),
        ("Findings", "\n".join(report.paragraph_html(text) for text in findings(result))),
        ("Accuracy against gap", report.image_html(picture, "accuracy against gap by method", caption)),
        ("Methods", report.table_html(methods) + "\n".join(meanings)),
        ("Before and after", report.table_html(apart)),
        ("Groups", "\n".join(report.paragraph_html(text) for text in result["groups_from"])),
        ("Notes", "\n".join(report.paragraph_html(note, note=True) for note in result["notes"])),
        ("Runs", report.table_html(_runs_frame(result))),
    ]
    write_whole(out / "report.html", report.html_page(f"Mitigation on {result['data']['name']}", sections))


def build_parser() -> cli.CommandParser:
    """The command line of `python -m training.mitigate`."""
    listed = "\n".join(f"  {name:<10} {meaning}" for name, meaning in METHODS.items())
    parser = cli.CommandParser(prog="python -m training.mitigate", description=__doc__, epilog=f"methods:\n{listed}")
    parser.add_argument(
        "--by",
        required=True,
        metavar="COLUMNS",
        help="cells to balance, such as gender or label,gender; the gap is by its groups",
    )
    parser.add_argument(
        "--methods",
        default="none,weight,resample,augment,dro",
        help="ways of balancing, of those below (default %(default)s); none is always trained",
    )
    parser.add_argument(
        "--target", type=cli.positive_int, help="augment: faces that short cells are brought up to; default: as the largest"
    )
    variants.add_options(parser, "runs/mitigate-DATA-BY", without=("balance", "balance_by", "balance_target"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    by = cli.words(args.by)
    if not by:
        raise ConfigError("--by names no column; name the cells to balance, such as gender or label,gender")
    settings, methods = variants.base_settings(args), _checked_methods(cli.words(args.methods))
    refuse_idle(given_settings(args), *(_balanced(settings, method, by, args.target) for method in methods))
    if args.target is not None and "augment" not in methods:
        raise ConfigError("--target changes nothing here: it is for augment, which is not in --methods")
    out = Path(args.folder or f"runs/mitigate-{Path(settings.data or 'data').name}-{'-'.join(by)}")
    result = mitigate(
        settings,
        by,
        methods,
        args.seeds,
        out,
        target=args.target,
        protocol=args.protocol,
        min_n=args.min_n,
        repeats=args.repeats,
    )
    print(summary_text(result))
    print(f"Report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
