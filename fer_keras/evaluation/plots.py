"""Figures of an evaluation. Each function returns a matplotlib Figure; `save_png` writes it.

matplotlib.pyplot is never touched: it keeps global state and looks for a screen.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import DataError
from fer_keras.evaluation.calibration import apply_temperature, expected_calibration_error, reliability_curve
from fer_keras.evaluation.plots_text import (
    legend_below,
    longest,
    name_columns,
    quiet_fonts,
    set_fonts,
    text_width,
    turned_room,
    wrapped,
)
from fer_keras.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that people with any colour vision can tell apart (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c7a00", "#555555", "#7a3db8", "#a0522d")
#: How grid lines look.
GRID = {"color": "#d9d9d9", "linewidth": 0.6}


def png_bytes(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG. Names of classes and groups are shown as they are: a $ begins no formula.

    Letters that DejaVu Sans lacks come from other fonts, where some are installed; where none has them, a warning says so.
    """
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math("mathdefault" in text.get_text())  # which is what matplotlib itself writes, for 10 to a power
    set_fonts(texts)
    buffer = io.BytesIO()
    with quiet_fonts():
        if (layout := figure.get_layout_engine()) is not None:
            # Laid out once, here: with an engine in place savefig draws everything twice.
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a figure as PNG, whole or not at all, and return its path."""
    return write_whole(path, png_bytes(figure))


def line_look(number: int) -> dict[str, str]:
    """Colour and dashes of a line: those after the tenth have the same colours, and other dashes."""
    dashes = ("-", "--", ":", "-.")
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes[number // len(COLOURS) % len(dashes)]}


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix as counts (left) and as shares of each true label (right).

    confusion: counts (k, k), rows true, columns predicted.
    """
    counts = np.asarray(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side, room = max(3.2, 0.62 * len(labels)), longest(labels)
    figure = new_figure(2 * (side + 0.6 + room), side + 1.0 + turned_room(labels), title)
    left, right = figure.subplots(1, 2)
    # Counts are coloured by their share of the largest cell: the classes of real data differ in size by a factor of 100.
    _heat(left, counts, counts / max(counts.max(), 1), labels, "{:d}", "counts")
    _heat(right, shares, shares, labels, "{:.2f}", "share of the true label")
    return figure


def plot_confusions(confusions: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str], title: str = "") -> Figure:
    """Several confusion matrices of the same labels on one page: counts, coloured by the share of the true label.

    confusions: what each is called -> counts (k, k), rows true, columns predicted.
    """
    columns = min(5, len(confusions)) if len(confusions) != 6 else 3
    lines = -(-len(confusions) // columns)
    side = 0.34 * len(labels)
    room = turned_room(labels, 8)
    wide = side + max(0.35, room)
    figure = new_figure(wide * columns + 0.6 + longest(labels, 8) - room, (side + 0.4) * lines + 0.9 + room, title)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, confusion) in zip(grid.ravel(), confusions.items(), strict=False):
        counts = np.asarray(confusion)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        _cells(axes, counts, shares, "{:d}", fontsize=6.5, zeros=False)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
    for axes in grid.ravel()[len(confusions) :]:
        axes.set_axis_off()
    # Axes are shared, and only the lowest ones get names: these, and their layout, are most of what such a page costs to draw.
    for column in range(columns):
        lowest = grid[(len(confusions) - 1 - column) // columns, column]
        lowest.tick_params(labelbottom=True)
        _name_ticks(lowest, labels, fontsize=8)
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel("true", fontsize=10)
    return figure


def _heat(axes: Axes, values: np.ndarray, strength: np.ndarray, labels: Sequence[str], form: str, title: str) -> None:
    _cells(axes, values, strength, form)
    _name_ticks(axes, labels)
    axes.set(xlabel="predicted", ylabel="true", title=title)


def _cells(axes: Axes, values: np.ndarray, strength: np.ndarray, form: str, fontsize: float = 8.5, zeros: bool = True) -> None:
    axes.imshow(strength, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if not value and not zeros:
            continue
        ink = "white" if strength[row, column] > 0.55 else ("#222222" if value else "#b5b5b5")
        axes.text(column, row, form.format(value), ha="center", va="center", fontsize=fontsize, color=ink, in_layout=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _name_ticks(axes: Axes, labels: Sequence[str], fontsize: float = 10) -> None:
    name_columns(axes, labels, fontsize=fontsize)
    axes.set_yticks(range(len(labels)), labels, fontsize=fontsize)


def plot_roc(y_true: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """ROC curve of each label against the rest, with its area.

    y_true: int (n,), probabilities: float (n, k). A label that no face or every face has is left out.
    """
    from sklearn.metrics import auc, roc_curve

    figure, axes = _square(labels, title)
    for index, label, positive in _ranked(y_true, labels):
        false_rate, true_rate, _ = roc_curve(positive, probabilities[:, index])
        text = _entry(label, auc(false_rate, true_rate))
        axes.plot(false_rate, true_rate, **line_look(index), linewidth=1.6, label=text)
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    _legend(axes, "area under the curve")
    return figure


def plot_precision_recall(y_true: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Precision-recall curve of each label against the rest, with its average precision.

    y_true: int (n,), probabilities: float (n, k). A label that no face or every face has is left out.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _square(labels, title)
    for index, label, positive in _ranked(y_true, labels):
        precision, recall, _ = precision_recall_curve(positive, probabilities[:, index])
        text = _entry(label, average_precision_score(positive, probabilities[:, index]))
        axes.step(recall, precision, where="post", **line_look(index), linewidth=1.6, label=text)
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    _legend(axes, "average precision")
    return figure


def plot_reliability(probabilities: np.ndarray, y_true: np.ndarray, temperature: float | None = None, title: str = "") -> Figure:
    """Accuracy against confidence in 15 bins, before and (where there is a temperature) after it, with faces per bin."""
    versions = [("as the model says", probabilities)]
    if temperature is not None:
        versions.append((f"with temperature {temperature:.2f}", apply_temperature(probabilities, temperature)))
    figure = new_figure(4.6 * len(versions), 5.2, title)
    grid = figure.subplots(2, len(versions), squeeze=False, sharex=True, height_ratios=(4, 1))
    for column, (name, values) in enumerate(versions):
        curve = reliability_curve(values, y_true)
        middles, width = (curve.edges[:-1] + curve.edges[1:]) / 2, curve.edges[1]
        filled = curve.count > 0
        upper, lower = grid[:, column]
        upper.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1, label="ideal", zorder=3)
        upper.bar(middles[filled], curve.accuracy[filled], width * 0.92, color=COLOURS[0], label="accuracy")
        upper.plot(curve.confidence[filled], curve.accuracy[filled], "o", color=COLOURS[3], markersize=4, label="mean confidence")
        upper.set(title=f"{name}: ECE {expected_calibration_error(values, y_true):.3f}", ylim=(0, 1.02), xlim=(0, 1))
        upper.set_axisbelow(True)
        upper.grid(**GRID)
        lower.bar(middles, curve.count, width * 0.92, color="#8a94a3")
        lower.set(xlabel="confidence")
        if column == 0:
            upper.set_ylabel("accuracy")
            lower.set_ylabel("faces")
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, *grid[0, 0].get_legend_handles_labels())  # anywhere inside it may lie over bars
    return figure


def plot_coverage(curve: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Accuracy of the answers that remain, with its 95% interval, against the share of faces that get one.

    curve: entries of `calibration.coverage_curve`; some thresholds are written beside their points.
    """
    figure = new_figure(6.6, 4.2, title)
    axes = figure.subplots()
    there = [entry for entry in curve if entry["n"]]
    coverage = [entry["coverage"] for entry in there]
    low, high = np.array([entry["accuracy_ci95"] for entry in there]).T
    axes.fill_between(coverage, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="95% interval")
    axes.plot(coverage, [entry["accuracy"] for entry in there], "o-", color=COLOURS[0], markersize=3.5, label="accuracy")
    named: list[float] = []
    for entry in there:
        # Points that lie close together would write over each other.
        if round(entry["threshold"] * 100) % 10 == 0 and all(abs(entry["coverage"] - other) > 0.05 for other in named):
            named.append(entry["coverage"])
            place = (entry["coverage"], entry["accuracy"])
            axes.annotate(f"{entry['threshold']:.1f}", place, (0, -13), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="share of faces with an answer at or above the threshold (beside the points)", ylabel="accuracy of those")
    axes.set_xlim(right=1.03)
    axes.grid(**GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    return figure


def plot_corruptions(models: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> Figure:
    """Accuracy with its 95% interval against the level of each corruption, one panel a kind, one line a model.

    models: name -> entries with corruption, level, accuracy and accuracy_ci95 (or accuracy_ci95_identities, which is
    drawn where it is there), the first of the untouched faces (level None).
    """
    kinds = list(
        dict.fromkeys(entry["corruption"] for entries in models.values() for entry in entries if entry["level"] is not None)
    )
    columns = max(1, min(5, len(kinds)))
    lines = max(1, -(-len(kinds) // columns))
    figure = new_figure(2.3 * columns + 1.6, 2.4 * lines + 0.5, title)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, kind in zip(grid.flat, kinds, strict=False):
        for offset, (name, entries) in enumerate(models.items()):
            shown = [entries[0], *(entry for entry in entries if entry["corruption"] == kind)]
            accuracy = np.array([entry["accuracy"] for entry in shown])
            low, high = np.array([entry.get("accuracy_ci95_identities", entry["accuracy_ci95"]) for entry in shown]).T
            places = np.arange(len(shown)) + 0.12 * (offset - (len(models) - 1) / 2)
            spread = (accuracy - low, high - accuracy)
            look = {**line_look(offset), "marker": "o", "markersize": 3.5, "linewidth": 1.2, "capsize": 2}
            axes.errorbar(places, accuracy, spread, **look, label=name)
        axes.set_xticks(range(len(shown)), ["as is", *(f"{entry['level']:g}" for entry in shown[1:])])
        axes.set_title(kind, fontsize=10)
        axes.grid(axis="y", **GRID)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    if len(models) > 1:
        legend_below(figure, *grid[0, 0].get_legend_handles_labels())
    return figure


def plot_per_class(per_class: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Precision, recall and F1 of each label as bars, with how many faces have it.

    per_class: entries with label, precision, recall, f1 and support, as `classification_metrics` gives them.
    """
    names = [f"{entry['label']}\n{entry['support']}" for entry in per_class]
    places, room = np.arange(len(per_class)), 1.0
    below = turned_room(names, room=room)
    figure = new_figure(max(6.0, 1.05 * len(names) + 1.5), 3.8 + below, title)
    axes = figure.subplots()
    for offset, (name, colour) in enumerate(zip(("precision", "recall", "f1"), COLOURS, strict=False)):
        axes.bar(places + (offset - 1) * 0.27, [entry[name] for entry in per_class], 0.25, color=colour, label=name)
    name_columns(axes, names, room)
    axes.set(ylim=(0, 1), xlim=(-0.6, len(per_class) - 0.4), xlabel="label, and how many faces have it")
    axes.set_axisbelow(True)
    axes.grid(axis="y", **GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def plot_history(history_csv: str | os.PathLike, metric: str | None = None, title: str = "") -> Figure:
    """Loss and accuracy by epoch, for training and validation, each phase marked, the lowest validation loss ringed.

    history_csv: columns epoch, phase, loss, accuracy, val_loss, val_accuracy. metric: "loss" or "accuracy" alone; None draws
    both. Raises DataError where the file holds no epoch.
    """
    history = _read_history(history_csv)
    names = (metric,) if metric else ("loss", "accuracy")
    figure = new_figure(1 + 4.6 * len(names), 3.8, title)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_history(axes, history, name)
        axes.set(xlabel="epoch", ylabel=name, title=name)
        axes.legend(fontsize=8, frameon=False)
    return figure


def plot_histories(history_csvs: Mapping[str, str | os.PathLike], metric: str = "loss", title: str = "") -> Figure:
    """The loss or accuracy of several trainings by epoch, one small plot each, all on the same scale.

    history_csvs: what each plot is called -> its history. Raises DataError where one holds no epoch, or there is none.
    """
    if not history_csvs:
        raise DataError("there is no training history to draw")
    columns = min(5, len(history_csvs)) if len(history_csvs) != 6 else 3
    lines = -(-len(history_csvs) // columns)
    figure = new_figure(2.9 * columns + 0.6, 2.5 * lines + 0.8, title)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (name, path) in zip(grid, history_csvs.items(), strict=False):
        _draw_history(axes, _read_history(path), metric)
        axes.set_title(name, fontsize=10)
    for axes in grid[len(history_csvs) :]:
        axes.set_axis_off()
    for axes in grid[len(history_csvs) - columns : len(history_csvs)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel(metric, fontsize=10)
    handles, texts = grid[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def _read_history(history_csv: str | os.PathLike) -> pd.DataFrame:
    import pandas as pd

    history = pd.read_csv(history_csv)
    wanted = {"epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy"}
    if missing := sorted(wanted - set(history.columns)):
        raise DataError(f"{history_csv} lacks the column {', '.join(missing)}; it is no training history")
    if history.empty:
        raise DataError(f"{history_csv} holds no epoch yet; train for one at least")
    epochs = history["epoch"].to_numpy(float)
    if (np.diff(epochs) <= 0).any():  # phases that each count from their own start
        epochs = np.arange(1, len(history) + 1, dtype=float)
    return history.assign(epoch=epochs)


def _draw_history(axes: Axes, history: pd.DataFrame, name: str) -> None:
    epochs = history["epoch"].to_numpy(float)
    marker = "o" if len(history) < 40 else None
    for column, text, colour in ((name, "training", COLOURS[0]), (f"val_{name}", "validation", COLOURS[3])):
        axes.plot(epochs, history[column], color=colour, marker=marker, markersize=3, linewidth=1.5, label=text)
    _mark_phases(axes, epochs, history["phase"].astype(str).to_numpy())
    if history["val_loss"].notna().any():
        best = int(history["val_loss"].argmin())
        ring = {"markersize": 10, "markerfacecolor": "none", "color": COLOURS[3], "linestyle": "none"}
        axes.plot(epochs[best], history[f"val_{name}"][best], marker="o", label="lowest validation loss", **ring)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_axisbelow(True)
    axes.grid(**GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_phases(axes: Axes, epochs: np.ndarray, phases: np.ndarray) -> None:
    starts = [0, *(np.flatnonzero(phases[1:] != phases[:-1]) + 1)]
    if len(starts) < 2:
        return
    edges = [epochs[0] - 0.5, *((epochs[start - 1] + epochs[start]) / 2 for start in starts[1:]), epochs[-1] + 0.5]
    for number, start in enumerate(starts):
        axes.axvspan(edges[number], edges[number + 1], color="#f1f3f6" if number % 2 else "white", zorder=-2)
        middle = (edges[number] + edges[number + 1]) / 2
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        axes.annotate(phases[start], (middle, 0.01), fontsize=8, color="#666666", **place)
    for edge in edges[1:-1]:
        axes.axvline(edge, color="#999999", linestyle=":", linewidth=1)


def plot_faces(
    faces: Sequence[np.ndarray], captions: Sequence[str], colours: Sequence[str] | None = None, columns: int = 8, title: str = ""
) -> Figure:
    """A gallery of faces, each with a caption below.

    faces: uint8 (h, w, c), 1 (grey) or 3 (RGB) channels. captions: short text, line breaks allowed. colours: one a caption.
    Raises ValueError for no faces.
    """
    from matplotlib.figure import Figure

    if not len(faces):
        raise ValueError("expected one face or more, got none")
    columns = min(columns, len(faces))
    lines = -(-len(faces) // columns)
    side, gap, size = 1.25, 0.1, 7.5  # inches, and points
    captions = [wrapped(caption, side, size) for caption in captions]
    pitch = side + gap + 0.16 * max(caption.count("\n") + 1 for caption in captions)
    top = 0.4 if title else gap
    width, height = max(columns * (side + gap) + gap, text_width(title, 11) + 2 * gap), lines * pitch + top
    figure = Figure(figsize=(width, height))
    # One pair of axes for all, in inches: one for each face takes matplotlib seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if title:
        axes.text(width / 2, 0.1, title, ha="center", va="top", fontsize=11)
    for number, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        line, column = divmod(number, columns)
        left, upper = gap + column * (side + gap), top + line * pitch
        _show(axes, face, extent=(left, left + side, upper + side, upper))
        ink = colours[number] if colours is not None else "#222222"
        axes.text(left + side / 2, upper + side + 0.04, caption, ha="center", va="top", fontsize=size, color=ink)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return figure


def plot_mistakes(
    faces: Sequence[np.ndarray], true: Sequence[str], predicted: Sequence[str], confidence: Sequence[float], title: str = ""
) -> Figure:
    """A gallery of mistakes: each face with its true label, the label the model gave, and how sure it was (0..1)."""
    captions = [f"true {truth}\nsaid {said} {sure:.2f}" for truth, said, sure in zip(true, predicted, confidence, strict=True)]
    return plot_faces(faces, captions, title=title)


def plot_probabilities(face: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """One face beside the probability of each label. face: uint8 (h, w, c); probabilities: float (k,)."""
    figure = new_figure(6.2 + longest(labels), max(2.8, 0.32 * len(labels) + 0.6), title)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    _show(left, face)
    colours = [COLOURS[0] if index == int(np.argmax(probabilities)) else "#a9b8c9" for index in range(len(labels))]
    right.barh(range(len(labels)), probabilities, color=colours)
    for index, value in enumerate(probabilities):
        right.text(min(value, 0.86) + 0.015, index, f"{value:.2f}", va="center", fontsize=8.5)
    right.set_yticks(range(len(labels)), labels)
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="probability")
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _show(axes: Axes, face: np.ndarray, extent: tuple[float, float, float, float] | None = None) -> None:
    picture = face[..., 0] if face.shape[-1] == 1 else face
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.set_axis_off()


def _ranked(y_true: np.ndarray, labels: Sequence[str]) -> list[tuple[int, str, np.ndarray]]:
    masks = [(index, label, y_true == index) for index, label in enumerate(labels)]
    return [entry for entry in masks if 0 < entry[2].sum() < len(y_true)]


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure of so many inches, laid out so that nothing overlaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(wrapped(title, width - 0.2, 12), fontsize=12)
    return figure


def _square(labels: Sequence[str], title: str) -> tuple[Figure, Axes]:
    entries = [_entry(label, 0.5) for label in labels]
    lines = sum(entry.count("\n") + 1 for entry in entries)
    # Wide enough for the axes and the legend: axes with sides of one length don't give way to it.
    figure = new_figure(4.8 + max(1.6, longest(entries, 8.5) + 0.6), max(4.6, 0.17 * lines + 1), title)
    axes = figure.subplots()
    axes.set_aspect("equal", anchor="W")
    axes.set_axisbelow(True)
    axes.grid(**GRID)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _entry(label: str, value: float) -> str:
    return wrapped(f"{label} {value:.3f}", 3.2, 8.5)


def _legend(axes: Axes, title: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5, title_fontsize=8.5, frameon=False)
