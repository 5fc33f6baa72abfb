"""Remove a growing share of one group from the training faces and see who is named right less often for it.

python -m training.robustness --data data/prepared/mine --remove gender=Female --levels 0,0.25,0.5,0.75
python -m training.robustness --data data/prepared/mine --remove age_group=senior --levels 0,0.5,1 --arch resnet --seeds 5

All levels have the same number of training faces of each label: a face of the group that is removed is replaced by one of the
same label of the other groups. So level 0 too is a part of the data, with the groups in their natural proportion. All are judged
on one test set that has as many faces of each group, label by label. Validation faces are the same for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.evaluation.fairness import UNKNOWN
from fer_keras.evaluation.ordering import in_order, ordered
from fer_keras.evaluation.repeated import drawn_text, judge_repeated, seeds_note
from fer_keras.files import write_json, write_whole
from training import scoring, variants
from training.bias import check_columns, groups_provenance
from training.config import TrainConfig, given_settings, refuse_idle
from training.variants import Variant, figure_text

if TYPE_CHECKING:
    import pandas as pd

    from training.scoring import ScoredFaces

FEW = 30  # faces of a group, under which intervals are so wide that little can be found


@dataclass(frozen=True)
class Removal:
    """Which faces a level trains on.

    column, group: what is removed. levels: shares, ascending. rows: for each level int64 (n,), all of one length. in_group:
    how many of them are of the group. labels: faces of each label, the same at all levels. left_out: training faces that no
    level can use (group or label unknown).
    """

    column: str
    group: str
    levels: tuple[float, ...]
    rows: tuple[np.ndarray, ...]
    in_group: tuple[int, ...]
    labels: dict[str, int]
    left_out: int


def plan_removal(labels: np.ndarray, groups: np.ndarray, group: str, levels: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """The faces of each level: positions int64, ascending.

    labels, groups: str (n,). Of each label a fixed number is used, the largest for which there are enough others to stand in at
    the highest level. At level 0 the group has its natural share of them; at level l a share l of these is gone, and as many
    others stand in. The faces of the group at a level are a part of those at a lower one, the others the other way round.
    Raises DataError where a level can't be made.
    """
    random = np.random.RandomState([seed, 0x0B57])
    highest = max(levels)
    parts: list[list[np.ndarray]] = [[] for _ in levels]
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero((labels == label) & (groups == group)))
        others = random.permutation(np.flatnonzero((labels == label) & (groups != group)))
        share = len(mine) / (len(mine) + len(others))
        needed = 1 - share * (1 - highest)  # of the faces used, those that are others at the highest level
        used = len(mine) + len(others) if not needed else min(len(mine) + len(others), int(len(others) / needed))
        # Rounding may ask for one face too many.
        while used and used - round(round(used * share) * (1 - highest)) > len(others):
            used -= 1
        start = round(used * share)
        for part, level in zip(parts, levels, strict=True):
            kept = round(start * (1 - level))
            part.append(np.concatenate([mine[:kept], others[: used - kept]]))
    chosen = [np.sort(np.concatenate(part)) for part in parts]
    if not len(chosen[0]):
        have = int((groups == group).sum())
        raise DataError(
            f"no face is left to train on: {have} of {len(groups)} training faces are of the group that is removed, with no "
            f"others of the same labels to stand in at level {highest:g}; choose lower --levels or another group"
        )
    return chosen


def balanced_test(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Faces with equally many of each group, label by label: positions int64, ascending.

    labels, groups: (n,). A label that a group lacks is left out. Where no label is in all groups, equally many of each group
    are taken whatever their labels.
    """
    random = np.random.RandomState([seed, 0x7E57])
    kinds = np.unique(groups)
    chosen = []
    for label in np.unique(labels):
        members = [np.flatnonzero((labels == label) & (groups == kind)) for kind in kinds]
        fewest = min(len(each) for each in members)
        chosen += [random.permutation(each)[:fewest] for each in members]
    if not sum(len(part) for part in chosen):
        members = [np.flatnonzero(groups == kind) for kind in kinds]
        fewest = min(len(each) for each in members)
        chosen = [random.permutation(each)[:fewest] for each in members]
    return np.sort(np.concatenate(chosen))


def robustness(
    settings: TrainConfig,
    remove: str,
    levels: Sequence[float],
    seeds: int,
    out: Path,
    *,
    protocol: str | None = None,
    min_n: int = FEW,
    repeats: int = 2000,
) -> dict[str, Any]:
    """Train each level with each seed and write robustness.json, CSV files, a plot and report.html to `out`.

    settings: what all share, resolved. remove: COLUMN=GROUP. levels: shares of the group to remove, 0..1; 0 is added, since
    the others are compared with it. Returns what robustness.json holds.
    Raises ConfigError for an unknown column or group, a level outside 0..1, levels of the same faces, and where a report is there
    of levels or seeds that are not among these, DataError where a level or the test set can't be made, and what
    `variants.train_variants` raises.
    """
    levels = _checked_levels(levels)
    dataset = variants.load_dataset(settings)
    variants.refuse_to_drop(
        out / "robustness.json",
        lambda told: [entry["level"] for entry in told["levels"]],
        levels,
        "--levels",
        variants.seeds_of(settings, seeds),
    )
    column, group = _parsed_group(dataset, remove)
    removal = remove_group(dataset, column, group, levels, settings.seed)
    faces, notes = variants.judged_faces(dataset, protocol, [settings])
    faces, groups, test_notes = _test_set(dataset, faces, column, group, min_n, settings.seed)
    _check_levels_differ(removal)
    planned = [
        [
            Variant(f"removed-{_name(level)}-seed{one.seed}", one, {"train": rows, "validation": dataset.rows("validation")})
            for one in variants.with_seeds(settings, seeds)
        ]
        for level, rows in zip(levels, removal.rows, strict=True)
    ]
    trained = iter(variants.train_variants([variant for level in planned for variant in level], dataset, out))
    runs = [[next(trained) for _ in level] for level in planned]

    judged = variants.judge(runs, faces, groups)
    found = judge_repeated(
        judged.correct,
        judged.groups,
        clusters=judged.clusters,
        min_n=min_n,
        repeats=repeats,
        comparisons=(len(levels) - 1) * (len(np.unique(groups)) + 2),
        seed=settings.seed,
    )
    figures = [*in_order(found.groups), "gap", "accuracy"]
    differences = found.differences(0, range(1, len(levels)), figures)
    result = {
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "split": faces.split,
        "protocol": faces.protocol,
        "n": len(groups),
        "removed": {"column": column, "group": group},
        "groups_from": groups_provenance(dataset, [column]),
        "test_counts": ordered(dict(zip(found.groups, found.counts.tolist(), strict=True))),
        "n_train": len(removal.rows[0]),
        "train_labels": removal.labels,
        "seeds": [variant.settings.seed for variant in planned[0]],
        "repeats": len(found.draws),
        "units": found.units,
        "levels": [
            {
                "level": level,
                "n_group": removal.in_group[index],
                "n_others": len(removal.rows[index]) - removal.in_group[index],
                **found.describe(index),
                "runs": [str(run.path) for run in runs[index]],
            }
            for index, level in enumerate(levels)
        ],
        "differences": [
            {"level": level, "from_level": levels[0], **entry}
            for level, line in zip(levels[1:], differences, strict=True)
            for entry in line
        ],
        "notes": [*notes, *test_notes, *_train_notes(dataset, removal), *found.few_people(), seeds_note(seeds, found.units)],
        "settings": settings.to_dict(),
        "out": str(out),
    }
    write_json(out / "robustness.json", result)
    judged.write_predictions(out / "predictions.csv")
    tables = {"levels": levels_frame(result), "differences": differences_frame(result)}
    for name, table in tables.items():
        write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6f"))
    _write_report(out, result)
    return result


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 0 <= level <= 1:
            raise ConfigError(f"--levels are shares of the group to remove, from 0 to 1; got {level:g}")
    every = tuple(sorted({0.0, *levels}))
    if len(every) < 2:
        raise ConfigError("--levels has nothing to compare with level 0; give a share such as 0.5")
    return every


def _name(level: float) -> str:
    """A level with as many digits as tell it from all others: in names of runs, where most have few."""
    return short if float(short := f"{level:g}") == level else repr(level)


def _percent(level: float) -> str:
    """0.125 -> "12.5%", with as many digits as it has."""
    return f"{100 * level:.12g}%"


def _check_levels_differ(removal: Removal) -> None:
    """Raise ConfigError where two levels train on the same faces, or read alike."""
    for (lower, rows), (higher, others) in pairwise(zip(removal.levels, removal.rows, strict=True)):
        if np.array_equal(rows, others) or _percent(lower) == _percent(higher):
            raise ConfigError(
                f"--levels {_name(lower)} and {_name(higher)} train on the same faces, of {removal.in_group[0]} of "
                f"{removal.column} {removal.group} at level 0; give levels that are further apart"
            )


def _parsed_group(dataset: FaceDataset, remove: str) -> tuple[str, str]:
    """(column, group) of COLUMN=GROUP; the group as the data set spells it."""
    column, sign, value = (part.strip() for part in remove.partition("="))
    if not (column and sign and value):
        raise ConfigError(f"--remove takes COLUMN=GROUP, such as gender=Female, got {remove!r}")
    check_columns(dataset, [column])
    kinds = [kind for kind in np.unique(dataset.manifest[column].to_numpy(str)[dataset.rows()]).tolist() if kind not in UNKNOWN]
    same = [kind for kind in kinds if kind == value] or [kind for kind in kinds if kind.casefold() == value.casefold()]
    if len(same) != 1:
        raise ConfigError(f"{dataset.path} has no {column} {value!r}; it has {', '.join(kinds) or 'none known'}")
    return column, same[0]


def remove_group(dataset: FaceDataset, column: str, group: str, levels: Sequence[float], seed: int = 0) -> Removal:
    """The training rows of each level (`plan_removal`). Raises DataError where a level can't be made."""
    rows = dataset.rows("train")
    values, labels = dataset.manifest[column].to_numpy(str)[rows], dataset.manifest["label"].to_numpy(str)[rows]
    known = ~np.isin(values, UNKNOWN)
    there, values, labels = rows[known], values[known], labels[known]
    if not (values == group).any():
        raise DataError(f"no training face of {dataset.path} is {column} {group}; there is nothing to remove")
    chosen = plan_removal(labels, values, group, levels, seed)
    names, counts = np.unique(labels[chosen[0]], return_counts=True)
    return Removal(
        column,
        group,
        tuple(levels),
        tuple(there[positions] for positions in chosen),
        tuple(int((values[positions] == group).sum()) for positions in chosen),
        {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        len(rows) - len(there),
    )


def _test_set(
    dataset: FaceDataset, faces: ScoredFaces, column: str, group: str, min_n: int, seed: int
) -> tuple[ScoredFaces, np.ndarray, list[str]]:
    """The balanced test set, its groups, and what a reader should know about it."""
    values = dataset.manifest[column].to_numpy(str)[faces.rows]
    known = ~np.isin(values, UNKNOWN)
    faces, values = variants.subset_faces(faces, known), values[known]
    if not (values == group).any():
        raise DataError(
            f"no {faces.split} face of {dataset.path} is {column} {group}; prepare the data with --split-by label,{column}"
        )
    kinds, counts = np.unique(values, return_counts=True)
    large = kinds[counts >= min_n]
    if group not in large or len(large) < 2:
        has = ", ".join(f"{kind} {count}" for kind, count in ordered(dict(zip(kinds, counts, strict=True))).items())
        raise DataError(
            f"a balanced test set needs {column} {group} and another group with {min_n} {faces.split} faces or more, got {has}; "
            "add faces, or lower --min-n"
        )
    notes = [
        f"{column} {kind} has only {count} {faces.split} faces (fewer than {min_n}) and is not in the test set"
        for kind, count in zip(kinds, counts, strict=True)
        if count < min_n
    ]
    compared = np.isin(values, large)
    faces, values = variants.subset_faces(faces, compared), values[compared]
    chosen = balanced_test(faces.truth, values, seed)
    absent = [dataset.labels[index] for index in np.setdiff1d(faces.truth, faces.truth[chosen])]
    if absent:
        notes.append(f"labels that not every group has are not in the test set: {', '.join(absent)}")
    each = len(chosen) // len(large)
    if each < min_n:
        raise DataError(
            f"a test set with as many faces of each {column}, label by label, has only {each} of each, expected {min_n} or more; "
            "add faces, or lower --min-n"
        )
    return variants.subset_faces(faces, chosen), values[chosen], notes


def _train_notes(dataset: FaceDataset, removal: Removal) -> list[str]:
    every = len(dataset.rows("train"))
    notes = [
        f"{len(removal.rows[0])} of {every} training faces are used at each level, so that the number of faces does not differ; "
        "a removed face is replaced by one of the same label of another group, so others gain what the group loses",
        "validation faces, by which the best epoch is chosen, are the same at all levels and hold the group",
    ]
    if removal.left_out:
        notes.append(f"{removal.left_out} training faces of unknown {removal.column} are used at no level")
    if lost := sorted(set(dataset.labels) - set(removal.labels)):
        notes.append(f"labels without others to stand in for {removal.group} are not trained: {', '.join(lost)}")
    return notes


def levels_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line a level and figure: group or gap or accuracy, mean over seeds, interval, spread of seeds."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "level": entry["level"],
                "n_group": entry["n_group"],
                "n_others": entry["n_others"],
                "figure": name,
                **{key: figure[key] for key in ("mean", "low", "high", "std")},
                **{f"seed {seed}": value for seed, value in zip(result["seeds"], figure["by_seed"], strict=True)},
            }
            for entry in result["levels"]
            for name, figure in {**entry["groups"], "gap": entry["gap"], "accuracy": entry["accuracy"]}.items()
        ]
    )


def differences_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line a level and figure: how it differs from level 0."""
    import pandas as pd

    return pd.DataFrame(result["differences"])


def _shown_frames(result: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    group = result["removed"]["group"]
    levels = pd.DataFrame(
        [
            {
                "removed": _percent(entry["level"]),
                f"{group} in training": entry["n_group"],
                "others": entry["n_others"],
                **{name: figure_text(figure) for name, figure in entry["groups"].items()},
                "gap": figure_text(entry["gap"]),
                "accuracy": figure_text(entry["accuracy"]),
            }
            for entry in result["levels"]
        ]
    )
    apart = pd.DataFrame(
        [
            {
                "removed": _percent(entry["level"]),
                "figure": entry["figure"],
                "difference from 0%": figure_text(entry, sign=True),
                "p (Holm)": f"{entry['p_holm']:.3f}",
                "verdict": entry["verdict"],
            }
            for entry in result["differences"]
        ]
    )
    return levels, apart


def findings(result: Mapping[str, Any]) -> list[str]:
    """What the figures show, one sentence a level."""
    sentences = []
    group = f"{result['removed']['column']} {result['removed']['group']}"
    for level in dict.fromkeys(entry["level"] for entry in result["differences"]):
        mine = [entry for entry in result["differences"] if entry["level"] == level]
        shown = [f"{entry['figure']} {figure_text(entry, sign=True)}" for entry in mine if entry["shown"]]
        rest = [entry["figure"] for entry in mine if not entry["shown"]]
        text = f"With {_percent(level)} of {group} removed, against 0%: " + (", ".join(shown) or "no difference shown")
        sentences.append(text + (f"; noise: {', '.join(rest)}." if shown and rest else "."))
    sentences.append(
        "Accuracy by group, on as many faces of each group, label by label. No difference shown does not mean that there is "
        "none: the intervals say how large one could be."
    )
    return sentences


def summary_text(result: Mapping[str, Any]) -> str:
    """The result as tables for the terminal."""
    head = (
        f"{result['n']} {result['split']} faces of {result['data']['name']}, as many of each {result['removed']['column']}, "
        f"protocol {result['protocol']}; {result['n_train']} training faces at each level, "
        f"95% intervals over {drawn_text(result['units'], len(result['seeds']))}"
    )
    tables = [table.to_string(index=False) for table in _shown_frames(result)]
    notes = [f"note: {note}" for note in result["notes"]]
    return "\n\n".join([head, *tables, "\n".join(findings(result)), "\n".join(notes)])


def _write_report(out: Path, result: Mapping[str, Any]) -> None:
    from fer_keras.evaluation import plots, report
    from fer_keras.evaluation.variant_plots import plot_levels

    removed = f"{result['removed']['column']} {result['removed']['group']}"
    by_group = {name: [entry["groups"][name] for entry in result["levels"]] for name in result["test_counts"]}
    figure = plot_levels([entry["level"] for entry in result["levels"]], by_group, removed)
    picture = plots.save_png(figure, out / "accuracy-by-level.png")
    levels, apart = _shown_frames(result)
    counts = ", ".join(f"{name} {count}" for name, count in result["test_counts"].items())
    about = (
        f"Tested on {result['n']} {result['split']} faces of {result['data']['name']} ({counts}), protocol {result['protocol']}. "
        f"{result['n_train']} training faces at each level; seeds of each level: "
        f"{', '.join(map(str, result['seeds']))}; 95% intervals from {result['repeats']} bootstrap repeats over "
        f"{drawn_text(result['units'], len(result['seeds']))}; p two-sided, by Holm "
        "for all comparisons in the table."
    )
    caption = "Points: mean over seeds. Dashes: single seeds. Lines: 95% intervals."
    sections = [
        ("", report.paragraph_html(about)),
        ("Findings", "\n".join(report.paragraph_html(text) for text in findings(result))),
        ("Accuracy by level", report.image_html(picture, f"accuracy by group against the share of {removed} removed", caption)),
        ("Levels", report.table_html(levels)),
        ("Against level 0", report.table_html(apart)),
        ("Groups", "\n".join(report.paragraph_html(text) for text in result["groups_from"])),
        ("Notes", "\n".join(report.paragraph_html(note, note=True) for note in result["notes"])),
    ]
    write_whole(out / "report.html", report.html_page(f"Without {removed}: {result['data']['name']}", sections))


def _levels(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--levels takes numbers with commas, such as 0,0.25,0.5; got {text!r}") from None


def build_parser() -> cli.CommandParser:
    """The command line of `python -m training.robustness`."""
    parser = cli.CommandParser(prog="python -m training.robustness", description=__doc__)
    parser.add_argument("--remove", required=True, metavar="COLUMN=GROUP", help="the group to remove, such as gender=Female")
    parser.add_argument("--levels", default="0,0.25,0.5,0.75", help="shares of it to remove (default %(default)s)")
    variants.add_options(parser, "runs/robustness-DATA-COLUMN-GROUP")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    settings = variants.base_settings(args)
    refuse_idle(given_settings(args), settings)
    name = f"robustness-{Path(settings.data or 'data').name}-{args.remove.replace('=', '-').lower()}"
    out = Path(args.folder or Path("runs") / scoring.file_names([name])[name])
    result = robustness(
        settings,
        args.remove,
        _levels(args.levels),
        args.seeds,
        out,
        protocol=args.protocol,
        min_n=args.min_n,
        repeats=args.repeats,
    )
    print(summary_text(result))
    print(f"Report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
