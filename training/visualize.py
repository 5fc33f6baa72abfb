"""Show what a prepared data set holds: classes, groups, faces, brightness, votes, and what cleaning dropped."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.cli import CommandParser, positive_int, run
from fer_keras.data.dataset import SPLITS, FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.files import write_json, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fer_keras.evaluation.dataset_plots import FaceStatistics

#: Faces of a class that mean face and brightness are taken from; more would cost time and change nothing to be seen.
SAMPLE_PER_CLASS = 2000
_DROPPED_SHOWN = 12  # of each reason
#: Files that not every data set gets.
_AT_TIMES = ("second-emotion.csv", "agreement.png", "second-emotion.png", "dropped.png", "dropped-faces.png", "classes-by-*.png")


@dataclass
class _Overview:
    """What was found, and how to draw it once it is on disk."""

    numbers: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: list[tuple[str, str, str, Callable[[], Figure]]] = field(default_factory=list)  # heading, name, caption, draw


def visualize(
    dataset: FaceDataset, *, out: str | os.PathLike | None = None, per_class: int = 8, seed: int = 0, split: str | None = None
) -> Path:
    """Write the overview of a data set and return its folder.

    overview.json and CSV files with the numbers, one PNG a figure, and report.html, which holds everything.
    split: None takes all. per_class: faces shown of each class. Raises DataError where the split has no faces.
    """
    from fer_keras.evaluation.plots import save_png
    from fer_keras.evaluation.report import html_page, image_html, paragraph_html, table_html

    rows = dataset.rows(split)
    rows = rows[dataset.label_indices[rows] >= 0]
    if not len(rows):
        has = ", ".join(dataset.splits()) or "none"
        raise DataError(f"{dataset.path} has no faces{f' in split {split!r}' if split else ''}; the splits with faces are: {has}")
    folder = Path(out) if out is not None else Path("reports") / f"{dataset.name}-overview{f'-{split}' if split else ''}"
    overview = _look(dataset, rows, per_class, seed, split)

    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for pattern in _AT_TIMES for path in folder.glob(pattern)]:
        path.unlink()  # one of an overview before, perhaps of other data
    write_json(folder / "overview.json", overview.numbers)
    for name, table in overview.tables.items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False))
    bodies: dict[str, list[str]] = {}
    for heading, name, caption, draw in _progress(overview.figures, "figures"):
        path = save_png(draw(), folder / f"{name}.png")
        bodies.setdefault(heading, []).append(image_html(path, alt=heading, caption=caption))
    about = f"{len(rows)} faces, {dataset.image_size}x{dataset.image_size} pixels, {'grey' if dataset.channels == 1 else 'RGB'}."
    where = f"Read from {dataset.path}; {f'split {split} only' if split else 'all splits'}; random faces with seed {seed}."
    intro = paragraph_html(about) + table_html(overview.tables["summary"], decimals=1) + paragraph_html(where, note=True)
    sections = [("", intro), *((heading, "\n".join(parts)) for heading, parts in bodies.items())]
    write_whole(folder / "report.html", html_page(f"Faces of {dataset.name}", sections))
    return folder


def _look(dataset: FaceDataset, rows: np.ndarray, per_class: int, seed: int, split: str | None) -> _Overview:
    import pandas as pd

    from fer_keras.evaluation import dataset_plots as plots
    from fer_keras.evaluation.plots import plot_faces
    from fer_keras.evaluation.report import column_names

    labels, manifest = dataset.labels, dataset.manifest
    classes = dataset.label_indices[rows]
    counts = dict(zip(labels, np.bincount(classes, minlength=len(labels)).tolist(), strict=True))
    numbers = {
        "data": {"name": dataset.name, "path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "split": split or "all",
        "n": len(rows),
        "labels": list(labels),
        "counts": counts,
    }
    overview = _Overview(numbers)
    overview.figures.append(("Classes", "classes", "", lambda: plots.plot_classes(counts)))
    _add_groups(overview, dataset, rows, split)

    shown = plots.sample_rows(rows, classes, per_class, len(labels), seed)
    overview.figures.append(
        ("Faces", "gallery", f"{per_class} random faces of each class", lambda: plots.plot_gallery(_by_label(dataset, shown)))
    )
    sampled = plots.sample_rows(rows, classes, SAMPLE_PER_CLASS, len(labels), seed)
    statistics = _statistics(dataset, sampled)
    of = f"from {'all' if len(sampled) == len(rows) else f'at most {SAMPLE_PER_CLASS} random'} faces of each class"
    mean_faces = statistics.mean.round().astype(np.uint8)
    overview.figures.append(("Mean face", "mean-faces", of, lambda: plot_faces(mean_faces, labels)))
    overview.figures.append(("Brightness", "intensity", of, lambda: plots.plot_intensity(statistics, labels)))
    brightness = statistics.brightness
    _add_summary(overview, counts, brightness)
    histogram = pd.DataFrame(statistics.histogram.T, columns=list(column_names(labels, ("level",), "label").values()))
    histogram.insert(0, "level", np.arange(256))
    overview.tables["intensity"] = histogram
    if dataset.has_votes:
        _add_votes(overview, dataset, rows)
    dropped = np.flatnonzero(~manifest["kept"].to_numpy(bool) & (True if split is None else (manifest["split"] == split)))
    _add_dropped(overview, dataset, dropped, seed)
    return overview


def _add_groups(overview: _Overview, dataset: FaceDataset, rows: np.ndarray, split: str | None) -> None:
    import pandas as pd

    from fer_keras.evaluation import dataset_plots as plots

    manifest = dataset.manifest
    names = manifest["label"].to_numpy(object)[rows]
    columns = [*([] if split else ["split"]), *(name for name in dataset.group_columns if name in manifest.columns)]
    overview.numbers["groups"] = {}
    lines = []
    for column in columns:
        table = plots.count_table(names, manifest[column].to_numpy(object)[rows], dataset.labels)
        if column == "split":
            table = table[[part for part in SPLITS if part in table.columns]]
        overview.numbers["groups"][column] = {str(value): table[value].to_dict() for value in table.columns}
        lines += [(column, value, label, int(table.loc[label, value])) for value in table.columns for label in table.index]
        file_name = "classes-by-" + re.sub(r"\W+", "-", column)
        overview.figures.append((f"Classes by {column}", file_name, "", lambda table=table: plots.plot_counts(table)))
    overview.tables["groups"] = pd.DataFrame(lines, columns=["column", "value", "label", "faces"])


def _add_summary(overview: _Overview, counts: dict[str, int], brightness: np.ndarray) -> None:
    import pandas as pd

    total = sum(counts.values())
    overview.tables["summary"] = pd.DataFrame(
        {
            "label": list(counts),
            "faces": list(counts.values()),
            "percent": [100 * count / total for count in counts.values()],
            "mean brightness": brightness[:, 0],
            "sd": brightness[:, 1],
        }
    )
    overview.numbers["brightness"] = {
        name: None if np.isnan(mean) else {"mean": round(float(mean), 2), "sd": round(float(spread), 2)}
        for name, (mean, spread) in zip(counts, brightness, strict=True)
    }


def _add_votes(overview: _Overview, dataset: FaceDataset, rows: np.ndarray) -> None:
    import pandas as pd

    from fer_keras.data.targets import mapped_votes
    from fer_keras.evaluation import dataset_plots as plots

    votes = mapped_votes(dataset, rows)
    names = [*dataset.labels, "unknown", "no face"]
    shares, top = plots.top_share(votes), votes.argmax(axis=1)
    second = plots.second_choices(votes)
    known = shares[np.isfinite(shares)]
    overview.numbers["votes"] = {
        "mean_top_share": round(float(known.mean()), 4) if len(known) else None,
        "more_than_half": round(float((known > 0.5).mean()), 4) if len(known) else None,
        "unanimous": round(float((known == 1).mean()), 4) if len(known) else None,
        "faces_with_votes": len(known),
    }
    table = pd.DataFrame(second, columns=[*names, "nothing else"])
    table.insert(0, "most_votes_for", names)
    overview.tables["second-emotion"] = table
    caption = "How many of a face's taggers chose its most voted class; every vote counts, single ones too"
    overview.figures.append(("Votes", "agreement", caption, lambda: plots.plot_agreement(shares, top, names)))
    caption = "Of the faces with most votes for the class of a line: which class came second"
    overview.figures.append(("Votes", "second-emotion", caption, lambda: plots.plot_second_choices(second, names)))


def _add_dropped(overview: _Overview, dataset: FaceDataset, dropped: np.ndarray, seed: int) -> None:
    from fer_keras.evaluation import dataset_plots as plots

    reasons = dataset.manifest["reason"].to_numpy(str)[dropped]
    names, numbers = np.unique(reasons, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    counts = {str(names[index]) or "no reason given": int(numbers[index]) for index in order}
    overview.numbers["dropped"] = counts
    if not counts:
        return
    kinds = np.array([list(names[order]).index(reason) for reason in reasons])
    shown = plots.sample_rows(dropped, kinds, _DROPPED_SHOWN, len(counts), seed)
    reason_of = dict(zip(dropped.tolist(), kinds.tolist(), strict=True))

    def gallery() -> Figure:
        lines = {
            name: dataset.faces[[row for row in shown.tolist() if reason_of[row] == number]] for number, name in enumerate(counts)
        }
        return plots.plot_gallery(lines)

    overview.figures.append(("Dropped by cleaning", "dropped", "", lambda: plots.plot_dropped(counts)))
    caption = f"At most {_DROPPED_SHOWN} random pictures of each reason; black: could not be read"
    overview.figures.append(("Dropped by cleaning", "dropped-faces", caption, gallery))


def _by_label(dataset: FaceDataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    classes = dataset.label_indices[rows]
    return {name: dataset.faces[rows[classes == index]] for index, name in enumerate(dataset.labels)}


def _statistics(dataset: FaceDataset, rows: np.ndarray) -> FaceStatistics:
    from tqdm import tqdm

    from fer_keras.evaluation.dataset_plots import face_statistics

    with tqdm(total=len(rows), desc="reading faces", disable=None) as bar:
        return face_statistics(dataset.faces, rows, dataset.label_indices[rows], len(dataset.labels), bar.update)


def _progress(items: list, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, desc=what, disable=None)


def build_parser() -> CommandParser:
    """The command line of `python -m training.visualize`."""
    parser = CommandParser(
        prog="python -m training.visualize",
        description=__doc__,
        epilog="""Writes overview.json, CSV files, PNGs and report.html.

  python -m training.visualize --data data/ferplus
  python -m training.visualize --data data/ferplus --split test --per-class 12 --out reports/ferplus-test""",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="a data set that training.prepare wrote")
    parser.add_argument("--out", metavar="DIR", help="folder of the report; default: reports/NAME-overview")
    parser.add_argument("--per-class", type=positive_int, default=8, metavar="N", help="faces shown of each class (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="which random faces are shown (default 0)")
    parser.add_argument("--split", choices=("all", *SPLITS), default="all", help="faces to look at (default all)")
    return parser


def _command(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {args.seed}")
    split = None if args.split == "all" else args.split
    folder = visualize(FaceDataset.load(args.data), out=args.out, per_class=args.per_class, seed=args.seed, split=split)
    print(f"overview: {folder / 'report.html'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
