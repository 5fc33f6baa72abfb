"""Figures of reports that compare trainings. Each function returns a matplotlib Figure; `plots.save_png` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_keras.evaluation.plots import COLOURS, GRID, line_look, new_figure
from fer_keras.evaluation.plots_text import legend_below, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_accuracy_against_gap(variants: Mapping[str, Mapping[str, Any]], title: str = "") -> Figure:
    """Accuracy against the gap between groups, with 95% intervals; single seeds as small marks.

    variants: {name: figures} as `Repeated.describe` gives them; the first is "before" and drawn as a square.
    """
    figure = new_figure(7.6, 4.8, title)
    axes = figure.subplots()
    for number, (name, found) in enumerate(variants.items()):
        colour, mark = COLOURS[number % len(COLOURS)], "s" if number == 0 else "o"
        gap, accuracy = found["gap"], found["accuracy"]
        axes.plot(gap["by_seed"], accuracy["by_seed"], ".", color=colour, alpha=0.45, markersize=6)
        axes.plot([gap["low"], gap["high"]], [accuracy["mean"]] * 2, color=colour, linewidth=1.2, alpha=0.7)
        axes.plot([gap["mean"]] * 2, [accuracy["low"], accuracy["high"]], color=colour, linewidth=1.2, alpha=0.7)
        axes.plot(gap["mean"], accuracy["mean"], mark, color=colour, markersize=8, label=name)
    axes.axvline(0, color="#999999", linewidth=1, linestyle="--")
    axes.set(xlabel="gap: highest minus lowest accuracy of a group", ylabel="accuracy over all groups")
    _tidy(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def plot_levels(
    levels: Sequence[float], groups: Mapping[str, Sequence[Mapping[str, Any]]], removed: str, title: str = ""
) -> Figure:
    """Accuracy of each group against the share of `removed` that was taken from the training faces, with 95% intervals.

    Levels stand at equal distances, however near their shares are. groups: {name: one {mean, low, high, by_seed} a level}.
    """
    figure = new_figure(7.2, 4.4, title)
    axes = figure.subplots()
    for number, (name, found) in enumerate(groups.items()):
        look = line_look(number)
        # Side by side, so that intervals of groups do not hide each other.
        places = [place + (number - (len(groups) - 1) / 2) * 0.6 / max(len(groups), 10) for place in range(len(levels))]
        axes.plot(places, [each["mean"] for each in found], **look, marker="o", linewidth=1.6, markersize=6, label=name)
        for place, each in zip(places, found, strict=True):
            axes.plot([place, place], [each["low"], each["high"]], color=look["color"], linewidth=1.4)
            axes.plot([place] * len(each["by_seed"]), each["by_seed"], "_", color=look["color"], alpha=0.6, markersize=7)
    axes.set_xticks(range(len(levels)), [f"{100 * level:.12g}%" for level in levels])
    label = f"share of {removed} removed from the training faces, others in their place"
    axes.set(xlabel=wrapped(label, 6.0), ylabel="test accuracy")
    _tidy(axes)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def plot_differences(differences: Mapping[str, Mapping[str, Any]], base: str, title: str = "") -> Figure:
    """Difference in accuracy of each variant from `base`, with its 95% interval, one line a variant.

    differences: {name: {difference, low, high}} as `Repeated.differences` gives them.
    """
    figure = new_figure(7.2, 1.2 + 0.42 * len(differences), title)
    axes = figure.subplots()
    for place, found in enumerate(differences.values()):
        axes.plot([found["low"], found["high"]], [place, place], color=COLOURS[0], linewidth=1.8)
        axes.plot(found["difference"], place, "o", color=COLOURS[0], markersize=7)
    axes.axvline(0, color="#999999", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel(f"accuracy: difference from {base}")
    _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(**GRID)
    axes.spines[["top", "right"]].set_visible(False)
