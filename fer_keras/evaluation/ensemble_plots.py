"""Figures of an ensemble report. Each function returns a matplotlib Figure; `plots.save_png` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.evaluation.plots import COLOURS
from fer_keras.evaluation.plots_text import name_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_scores(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    kinds: Sequence[int],
    *,
    xlabel: str,
    zero: bool = False,
    title: str = "",
) -> Figure:
    """Numbers with their intervals, one line each, from top to bottom.

    kinds: a colour for each, as a position in plots.COLOURS. zero: draw the line at 0, for differences.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.34 * len(names) + 1.4), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12)
    axes = figure.subplots()
    if zero:
        axes.axvline(0, color="#777777", linewidth=1)
    for place, (value, (low, high), kind) in enumerate(zip(values, intervals, kinds, strict=True)):
        colour = COLOURS[kind]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, markersize=5.5)
        axes.annotate(
            f"{value:+.3f}" if zero else f"{value:.3f}",
            (high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set(xlabel=xlabel)
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_disagreement(shares: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """How often each two members give different labels. shares: float (m, m), 0 to 1."""
    from matplotlib.figure import Figure

    side = max(3.6, 0.52 * len(names) + 2.0)
    figure = Figure(figsize=(side + 0.4, side), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12)
    axes = figure.subplots()
    highest = max(float(np.max(shares)), 0.3)  # small differences should look small
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=highest)
    for row, column in np.ndindex(shares.shape):
        if row != column:
            ink = "white" if shares[row, column] > 0.6 * highest else "#222222"
            axes.text(column, row, f"{shares[row, column]:.2f}", ha="center", va="center", fontsize=8.5, color=ink)
    name_columns(axes, names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
