"""Figures of a bias report. Each function returns a matplotlib Figure; `plots.save_png` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.evaluation.plots import COLOURS, GRID, new_figure
from fer_keras.evaluation.plots_text import legend_below, longest, name_columns, turned_room, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "accuracy": "accuracy",
    "adjusted_accuracy": "accuracy at the same mix of emotions",
    "macro_f1": "macro F1",
    "ece": "calibration error (ECE)",
}


def plot_figures_by_group(
    models: Mapping[str, Mapping[str, Mapping[str, Any]]], overall: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Accuracy (as it is, and at one mix of emotions), macro F1 and calibration error by group, with 95% intervals.

    models: {model: {group: figures}}, as `fairness.audit` gives them. Groups under the minimum are drawn hollow and grey.
    overall: accuracy of each model over all groups, drawn as a line.
    """
    names = list(next(iter(models.values())))
    figure = new_figure(13, max(2.6, 0.32 * len(names) * max(len(models), 1.4) + 1.5), title)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (figure_name, heading) in zip(panels, _PANELS.items(), strict=True):
        for number, (model, groups) in enumerate(models.items()):
            offset = (number - (len(models) - 1) / 2) * 0.7 / len(models)
            colour = COLOURS[number % len(COLOURS)]
            if figure_name == "accuracy" and overall is not None:
                axes.axvline(overall[model], color=colour, linestyle=":", linewidth=1)
            for place, name in enumerate(names):
                _point(axes, groups[name], figure_name, place + offset, colour)
        axes.set_title(heading, fontsize=10)
        _tidy(axes, "x")
    panels[0].sharex(panels[1])
    panels[0].autoscale(axis="x")
    first = next(iter(models.values()))
    panels[0].set_yticks(range(len(names)), [f"{name} ({first[name]['n']})" for name in names])
    panels[0].set_ylim(len(names) - 0.45, -0.55)
    if len(models) > 1:
        from matplotlib.lines import Line2D

        colours = [COLOURS[number % len(COLOURS)] for number in range(len(models))]
        legend_below(figure, [Line2D([], [], color=colour, marker="o", markersize=5) for colour in colours], list(models))
    return figure


def _point(axes: Axes, group: Mapping[str, Any], figure: str, place: float, colour: str) -> None:
    value = group[figure]
    if value is None:
        return
    colour = "#9aa1ab" if group["small"] else colour
    if figure in group["ci95"]:
        axes.plot(group["ci95"][figure], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(value, place, "o", color=colour, markersize=5.5, markerfacecolor="white" if group["small"] else colour)


def plot_emotions_by_group(
    groups: Mapping[str, Mapping[str, Any]], labels: Sequence[str], min_cell: int, title: str = ""
) -> Figure:
    """Recall (left) and false positive rate (right) of each emotion in each group, as heatmaps.

    groups: {group: figures} as `fairness.audit` gives them. Recalls over fewer than `min_cell` faces are grey, with that number;
    they are not compared.
    """
    names = list(groups)
    confusions = np.array([groups[name]["confusion"] for name in names])
    # A label that no face has and no face is called tells nothing.
    used = (confusions.sum(axis=(0, 1)) + confusions.sum(axis=(0, 2))) > 0
    counts, labels = confusions.sum(axis=2)[:, used], [label for label, there in zip(labels, used, strict=True) if there]
    lines, wide, room = [f"{name} ({groups[name]['n']})" for name in names], max(2.0, 0.72 * len(labels)), turned_room(labels)
    figure = new_figure(2 * wide + longest(lines) + room + 1.6, 0.46 * len(names) + 1.5 + room, title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, figure_name, heading, colours in zip(
        panels,
        ("recall", "false_positive_rate"),
        ("recall: share of an emotion that is recognised", "false positives: share of the others called so"),
        ("Blues", "Oranges"),
        strict=True,
    ):
        found = [[groups[name][f"{figure_name} {label}"] for label in labels] for name in names]
        values = np.array([[np.nan if value is None else value for value in line] for line in found])
        few = counts < min_cell if figure_name == "recall" else np.zeros(counts.shape, bool)
        shown = np.where(few, np.nan, values)
        top = 1.0 if figure_name == "recall" else max(float(np.nanmax(shown, initial=0.0)), 0.05)
        axes.set_facecolor("#e8eaed")
        axes.imshow(shown, cmap=colours, vmin=0, vmax=top, aspect="auto")
        for row, column in np.ndindex(values.shape):
            if few[row, column]:
                text, ink = f"n={counts[row, column]}", "#6b7280"
            elif np.isnan(values[row, column]):
                text, ink = "-", "#6b7280"
            else:
                text = f"{values[row, column]:.2f}"
                ink = "white" if values[row, column] > 0.6 * top else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=ink)
        name_columns(axes, labels)
        axes.set_title(wrapped(heading, wide, 10), fontsize=10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_yticks(range(len(names)), lines)
    return figure


def plot_confusions_by_group(groups: Mapping[str, Mapping[str, Any]], labels: Sequence[str], title: str = "") -> Figure:
    """The confusion matrix of each group, as shares of each true label (with how many faces have it).

    groups: {group: figures} as `fairness.audit` gives them.
    """
    columns = min(4, len(groups))
    lines = -(-len(groups) // columns)
    side = 0.36 * len(labels)
    most = max(int(np.sum(group["confusion"], axis=1).max()) for group in groups.values())
    # Narrow rather than low: axes with sides of one length that have room beside them cut the names around them off.
    wide, high = side + longest([f"{label} {most}" for label in labels], 7.5) + 0.6, side + turned_room(labels, 7.5) + 1.15
    figure = new_figure(columns * wide, lines * high + 0.3, title)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, (name, group) in zip(grid.flat, groups.items(), strict=False):
        counts = np.array(group["confusion"], float)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
        axes.set_facecolor("#e8eaed")
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(shares.shape):
            if shares[row, column] >= 0.005:
                ink = "white" if shares[row, column] > 0.55 else "#222222"
                text = f"{shares[row, column]:.2f}".lstrip("0")
                axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)
        name_columns(axes, labels, fontsize=7.5)
        lines_of = [f"{label} {int(total)}" for label, total in zip(labels, totals[:, 0], strict=True)]
        axes.set_yticks(range(len(labels)), lines_of, fontsize=7.5)
        heading = f"{name} ({group['n']}{', too few' if group['small'] else ''})"
        axes.set_title(wrapped(heading, 0.36 * len(labels) + 0.6, 9.5), fontsize=9.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def plot_shares_by_group(groups: Mapping[str, Mapping[str, float]], xlabel: str, title: str = "") -> Figure:
    """A share by group with its interval. groups: {name: {n, accuracy, low, high}}, as `fairness.compare_shares` gives them."""
    figure = new_figure(7.5, 0.36 * len(groups) + 1.2, title)
    axes = figure.subplots()
    for place, group in enumerate(groups.values()):
        axes.plot([group["low"], group["high"]], [place, place], color=COLOURS[0], linewidth=1.6, solid_capstyle="butt")
        axes.plot(group["accuracy"], place, "o", color=COLOURS[0], markersize=5.5)
    axes.set_yticks(range(len(groups)), [f"{name} ({group['n']})" for name, group in groups.items()])
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.set(xlabel=xlabel)
    axes.set_xlim(left=0)
    _tidy(axes, "x")
    return figure


def _tidy(axes: Axes, grid: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis=grid, **GRID)
    axes.spines[["top", "right"]].set_visible(False)
