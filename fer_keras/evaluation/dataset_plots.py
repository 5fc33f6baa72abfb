"""What a set of faces looks like, in figures and numbers: classes, groups, typical faces, brightness, votes, dropped ones.

Everything is given as arrays and tables; faces may be a memory map and are read a few hundred at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.evaluation.ordering import in_order
from fer_keras.evaluation.plots import COLOURS
from fer_keras.evaluation.plots_text import legend_below, longest, name_columns, text_width, turned_room, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHUNK = 256  # faces in memory at a time
_MOST_VALUES = 10  # of a group column in a figure; the rarer ones are drawn together
_OTHERS = "other values"
_TILE_PX = 96  # larger faces are shrunk in galleries
_GRID = {"color": "#d9d9d9", "linewidth": 0.6}


@dataclass(frozen=True)
class FaceStatistics:
    """Pixel statistics by class.

    faces: int64 (k,), how many were read. mean: float64 (k, h, w, c), 0..255, zero where a class has none.
    histogram: int64 (k, 256), pixels of each brightness (luma where faces are RGB).
    """

    faces: np.ndarray
    mean: np.ndarray
    histogram: np.ndarray

    @property
    def brightness(self) -> np.ndarray:
        """float64 (k, 2): mean and standard deviation of the pixels of each class, NaN where it has none."""
        levels = np.arange(256)
        pixels = np.where(self.histogram.sum(axis=1) > 0, self.histogram.sum(axis=1), np.nan)
        mean = (self.histogram * levels).sum(axis=1) / pixels
        spread = np.sqrt(np.maximum((self.histogram * levels**2).sum(axis=1) / pixels - mean**2, 0))
        return np.stack([mean, spread], axis=1)


def count_table(labels: Sequence[str], values: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """How many faces have each label (rows, in the order of `names`) and each value (columns, as `ordering.in_order`)."""
    import pandas as pd

    values = pd.Series(np.asarray(values, dtype=object)).astype(str).replace("", "unknown")
    table = pd.crosstab(np.asarray(labels, dtype=object), values.to_numpy())
    table = table.reindex(index=list(names), columns=in_order(table.columns), fill_value=0)
    table.index.name, table.columns.name = "label", None
    return table


def sample_rows(rows: np.ndarray, classes: np.ndarray, per_class: int, count: int, seed: int) -> np.ndarray:
    """At most `per_class` random rows of each class 0..count-1, sorted. rows, classes: int (n,)."""
    generator = np.random.default_rng(seed)
    chosen = []
    for index in range(count):
        members = rows[classes == index]
        chosen.append(members if len(members) <= per_class else generator.choice(members, per_class, replace=False))
    return np.sort(np.concatenate(chosen))


def face_statistics(
    faces: np.ndarray, rows: np.ndarray, classes: np.ndarray, count: int, progress: Callable[[int], Any] = lambda faces: None
) -> FaceStatistics:
    """Mean face and brightness of each class, in constant memory.

    faces: uint8 (N, h, w, c), may be a memory map; rows: int (n,); classes: int (n,), 0..count-1. progress: told, now and then,
    how many more faces were read.
    """
    total = np.zeros((count, *faces.shape[1:]))
    seen = np.zeros(count, np.int64)
    histogram = np.zeros(count * 256, np.int64)
    for start in range(0, len(rows), _CHUNK):
        some, kinds = faces[rows[start : start + _CHUNK]], classes[start : start + _CHUNK]
        grey = _grey(some)
        for index in np.unique(kinds):
            mine = kinds == index
            total[index] += some[mine].sum(axis=0, dtype=np.int64)
            histogram[index * 256 : (index + 1) * 256] += np.bincount(grey[mine].ravel(), minlength=256)
        seen += np.bincount(kinds, minlength=count)
        progress(len(some))
    mean = total / np.maximum(seen, 1).reshape(-1, 1, 1, 1)
    return FaceStatistics(seen, mean, histogram.reshape(count, 256))


def _grey(faces: np.ndarray) -> np.ndarray:
    if faces.shape[-1] == 1:
        return faces[..., 0]
    return (faces.astype(np.uint32) @ np.array([299, 587, 114], np.uint32) // 1000).astype(np.uint8)


def top_share(votes: np.ndarray) -> np.ndarray:
    """Share of a face's votes that its most voted class has. int (n, k) -> float64 (n,), NaN where nobody voted."""
    total = votes.sum(axis=1)
    return votes.max(axis=1) / np.where(total > 0, total, np.nan)


def second_choices(votes: np.ndarray) -> np.ndarray:
    """What else the taggers saw. int (n, k) votes -> float64 (k, k + 1).

    Line i is about the faces whose most voted class is i: the share of them whose second most voted class is j (split evenly
    between equals), and in the last column the share on which all votes agree. Lines of classes that are never the most voted
    are zero; so are faces without votes.
    """
    count = votes.shape[1]
    voted = votes[votes.sum(axis=1) > 0]
    top = voted.argmax(axis=1)
    rest = voted.copy()
    rest[np.arange(len(rest)), top] = 0
    most = rest.max(axis=1, keepdims=True)
    second = ((rest == most) & (most > 0)).astype(np.float64)
    second = np.concatenate([second, most == 0], axis=1)
    second /= second.sum(axis=1, keepdims=True)
    lines = np.zeros((count, count + 1))
    np.add.at(lines, top, second)
    return lines / np.maximum(lines.sum(axis=1, keepdims=True), 1)


def plot_classes(counts: Mapping[str, int], title: str = "") -> Figure:
    """Faces of each class as bars, with their number and share."""
    names, room = list(counts), 0.85
    below = turned_room(names, room=room)
    figure = _figure(max(5.5, 0.95 * len(names) + 1), 3.6 + below, title)
    axes = figure.subplots()
    total = max(sum(counts.values()), 1)
    bars = axes.bar(range(len(counts)), list(counts.values()), color=COLOURS[0], width=0.75)
    axes.bar_label(bars, [f"{count}\n{count / total:.1%}" for count in counts.values()], padding=2, fontsize=8.5)
    name_columns(axes, names, room)
    axes.set(ylabel="faces", ylim=(0, 1.2 * max(*counts.values(), 1)))
    _tidy(axes)
    return figure


def with_others(table: pd.DataFrame) -> pd.DataFrame:
    """A `count_table` of ten columns at most: the most frequent values as they come, and the rest together as "other values"."""
    if len(table.columns) <= _MOST_VALUES:
        return table
    frequent = set(table.sum(axis=0).sort_values(ascending=False, kind="stable").index[: _MOST_VALUES - 1]) - {_OTHERS}
    rare = [value for value in table.columns if value not in frequent]
    return table.drop(columns=rare).assign(**{_OTHERS: table[rare].sum(axis=1)})


def plot_counts(table: pd.DataFrame, title: str = "") -> Figure:
    """A `count_table` as bars (left: faces of each label, by value) and as shares (right: labels among the faces of a value).

    Of more than ten values the rarer ones are drawn together.
    """
    table = with_others(table)
    totals = table.sum(axis=0).to_numpy(float)
    names = [f"{value} ({int(total)})" for value, total in zip(table.columns, totals, strict=True)]
    wide, high = max(8.5, 1.35 * len(table) + 1.6), max(3.0, 0.42 * len(table.columns) + 1.8)
    figure = _figure(wide + longest(names) + turned_room(table.index), high + turned_room(table.index), title)
    left, right = figure.subplots(1, 2)
    below = np.zeros(len(table))
    for number, value in enumerate(table.columns):
        heights = table[value].to_numpy(float)
        left.bar(range(len(table)), heights, 0.75, bottom=below, color=COLOURS[number % len(COLOURS)], label=str(value))
        below += heights
    name_columns(left, list(table.index))
    left.set(ylabel="faces", title="faces of each label")
    _tidy(left)
    legend_below(figure, *left.get_legend_handles_labels())
    shares = (table.to_numpy(float) / np.maximum(totals, 1)).T
    _heat(right, shares, names, list(table.index))
    right.set_title("share of each label among them")
    return figure


def plot_gallery(faces: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """One line of faces a class. faces: name -> uint8 (n, h, w, c), n may differ and be 0."""
    height, width, channels = next(iter(faces.values())).shape[1:]
    shrink = max(1, height // _TILE_PX)
    gap = 1 + height // shrink // 24
    tile_h, tile_w = height // shrink + gap, width // shrink + gap
    columns = max(1, *(len(some) for some in faces.values()))
    wall = np.full((len(faces) * tile_h + gap, columns * tile_w + gap, channels), 255, np.uint8)
    for line, some in enumerate(faces.values()):
        for column, face in enumerate(some):
            face = _shrunk(face, shrink)
            y, x = gap + line * tile_h, gap + column * tile_w
            wall[y : y + face.shape[0], x : x + face.shape[1]] = face
    cell = 0.82
    names = [wrapped(name, 2.4) for name in faces]
    margin, top = longest(names) + 0.2, 0.45 if title else 0.1
    wide, high = margin + cell * columns + 0.1, top + cell * len(faces) + 0.1
    wide = max(wide, text_width(title, 11) + 0.2)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high))
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 0.12 / high, va="top")
    axes = figure.add_axes((margin / wide, 0.1 / high, cell * columns / wide, cell * len(faces) / high))
    axes.imshow(_plain(wall), cmap="gray", vmin=0, vmax=255, aspect="auto")
    axes.set_yticks([gap + (line + 0.5) * tile_h - gap / 2 for line in range(len(faces))], names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def plot_intensity(statistics: FaceStatistics, names: Sequence[str], title: str = "") -> Figure:
    """How bright the pixels of each class are, each against the average of the classes."""
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = _figure(2.7 * columns + 0.6, 2.0 * lines + 0.6, title)
    shares = statistics.histogram / np.maximum(statistics.histogram.sum(axis=1, keepdims=True), 1)
    shares = shares.reshape(len(names), 64, 4).sum(axis=2)  # four levels a bar: pictures that were stretched have gaps
    highest = 1.08 * float(shares.max(initial=0.01))
    average = shares[statistics.faces > 0].mean(axis=0) if (statistics.faces > 0).any() else np.zeros(64)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    brightness = statistics.brightness
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.set_visible(False)
            continue
        axes.fill_between(np.arange(64) * 4 + 2, shares[number], color=COLOURS[0], alpha=0.55, linewidth=0)
        axes.plot(np.arange(64) * 4 + 2, average, color="#333333", linewidth=1)
        mean, spread = brightness[number]
        told = f"mean {mean:.0f}, sd {spread:.0f}" if np.isfinite(mean) else "no faces"
        axes.set_title(wrapped(f"{names[number]}\n{told}", 2.4, 9), fontsize=9)
        axes.set(xlim=(0, 256), xticks=(0, 128, 255), ylim=(0, highest))
        axes.tick_params(labelsize=8)
        _tidy(axes)
    figure.supxlabel("brightness 0..255 (line: average of the classes)", fontsize=9)
    figure.supylabel("share of the pixels", fontsize=9)
    return figure


def plot_agreement(shares: np.ndarray, classes: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """How far the taggers agree: share of a face's votes for its most voted class, over all faces and by that class.

    shares: float (n,), NaN is left out; classes: int (n,), the most voted class of each face.
    """
    known = np.isfinite(shares)
    shares, classes = shares[known], classes[known]
    figure = _figure(9.5, 3.8, title)
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, 11)
    # votes come in tenths, which floating point puts on either side of an edge
    left.hist(np.clip(shares - 1e-9, 0, 1), edges, color=COLOURS[0], rwidth=0.92)
    left.axvline(0.5, color="#333333", linestyle="--", linewidth=1)
    left.set(
        xlabel="share of the votes for the most voted class", ylabel="faces", title="all faces (dashed: majority)", xlim=(0, 1)
    )
    present = [index for index in range(len(names)) if (classes == index).any()]
    groups = [shares[classes == index] for index in present]
    if groups:
        right.boxplot(groups, orientation="horizontal", showfliers=False, widths=0.6, medianprops={"color": COLOURS[3]})
    right.set_yticks(range(1, len(present) + 1), [f"{names[index]} ({(classes == index).sum()})" for index in present])
    right.invert_yaxis()
    right.set(xlabel="share of the votes", title="by most voted class", xlim=(0, 1.02))
    _tidy(left)
    _tidy(right)
    return figure


def plot_second_choices(shares: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """`second_choices` as a heat map, without the classes that are never the most voted."""
    present = [index for index in range(len(names)) if shares[index].sum() > 0]
    width = 0.62 * (len(names) + 1) + longest(names) + 1.2
    figure = _figure(width, 0.45 * len(present) + turned_room([*names, "nothing else"]) + 1.5, title)
    axes = figure.subplots()
    _heat(axes, shares[present], [names[index] for index in present], [*names, "nothing else"])
    axes.set(ylabel="most votes for", xlabel="second most votes for")
    return figure


def plot_dropped(counts: Mapping[str, int], title: str = "") -> Figure:
    """Pictures that cleaning dropped, by reason."""
    figure = _figure(6.5, 0.36 * len(counts) + 1.4, title)
    axes = figure.subplots()
    bars = axes.barh(range(len(counts)), list(counts.values()), color=COLOURS[3], height=0.65)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.set_yticks(range(len(counts)), list(counts))
    axes.invert_yaxis()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="pictures", xlim=(0, 1.15 * max(*counts.values(), 1)))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _heat(axes: Axes, shares: np.ndarray, lines: Sequence[str], columns: Sequence[str]) -> None:
    strongest = max(float(shares.max(initial=0)), 0.3)  # small differences should look small
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=strongest, aspect="auto")
    for line, column in np.ndindex(shares.shape):
        value = shares[line, column]
        ink = "white" if value > 0.6 * strongest else "#222222" if value else "#b5b5b5"
        axes.text(column, line, f"{value:.0%}", ha="center", va="center", fontsize=8, color=ink)
    name_columns(axes, columns)
    axes.set_yticks(range(len(lines)), lines)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _shrunk(face: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return face
    height, width = face.shape[0] // factor, face.shape[1] // factor
    blocks = face[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3)).astype(np.uint8)


def _plain(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="y", **_GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
