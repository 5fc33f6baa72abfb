"""Long names and letters of any script: read off the drawn figures, text by text."""

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from fer_keras.evaluation import dataset_plots, ensemble_plots, fairness_plots, plots, plots_text, variant_plots

LONG = [
    "contempt towards somebody else",
    "Ärger / Wut (sehr stark)",
    "happiness with a broad smile",
    "Überraschung, freudig oder erschrocken",
    "fear",
    "disgust at what was eaten",
    "neutral or without any expression",
    "boredom_in_a_lecture_that_takes_the_whole_afternoon",
    "concentration on a task",
    "pain",
    "embarrassment before strangers",
    "sadness",
]
SHORT = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"]
FACES = np.zeros((12, 16, 16, 1), np.uint8)


def scores(names):
    y_true = np.repeat(np.arange(len(names)), 4)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(y_true))
    return y_true, probabilities


def confusion(names):
    return np.arange(len(names) ** 2).reshape(len(names), -1)


def groups(names):
    rates = {f"{rate} {name}": 0.5 for rate in ("recall", "false_positive_rate") for name in names}
    shown = dict.fromkeys(("accuracy", "adjusted_accuracy", "macro_f1", "ece"), 0.5)
    return {name: {"n": 9, "small": False, "ci95": {}, "confusion": confusion(names), **shown, **rates} for name in names}


def at_levels(names, count=3):
    return dict.fromkeys(names, [{"mean": 0.5, "low": 0.0, "high": 0.9, "by_seed": [0.3]}] * count)


def under_corruptions(names):
    kinds = ((None, None), ("blur", 1), ("blur", 2), ("noise", 1))
    found = {"accuracy": 0.5, "accuracy_ci95": (0.4, 0.6)}
    entries = [{"corruption": kind, "level": level, **found} for kind, level in kinds]
    return dict.fromkeys(names, entries)


def statistics(names):
    count = len(names)
    return dataset_plots.FaceStatistics(np.ones(count), np.zeros((count, 2, 2, 1)), np.ones((count, 256), np.int64))


DRAW = {
    "classes": lambda names: dataset_plots.plot_classes(dict(zip(names, range(1, 99), strict=False))),
    "counts": lambda names: dataset_plots.plot_counts(pd.DataFrame(confusion(names), names, names).iloc[:, :10]),
    "gallery": lambda names: dataset_plots.plot_gallery({name: FACES[:2] for name in names}),
    "intensity": lambda names: dataset_plots.plot_intensity(statistics(names), names),
    "agreement": lambda names: dataset_plots.plot_agreement(np.ones(len(names)), np.arange(len(names)), names),
    "second": lambda names: dataset_plots.plot_second_choices(np.ones((len(names), len(names) + 1)), names),
    "confusion": lambda names: plots.plot_confusion(confusion(names), names),
    "confusions": lambda names: plots.plot_confusions({f"fold {fold}": confusion(names) for fold in (1, 2)}, names),
    "roc": lambda names: plots.plot_roc(*scores(names), names),
    "precision-recall": lambda names: plots.plot_precision_recall(*scores(names), names),
    "per-class": lambda names: plots.plot_per_class(
        [{"label": name, "precision": 0.5, "recall": 0.4, "f1": 0.3, "support": 1234} for name in names]
    ),
    "mistakes": lambda names: plots.plot_mistakes(FACES[: len(names)], names, names[::-1], [0.5] * len(names), "title"),
    "mean-faces": lambda names: plots.plot_faces(FACES[: len(names)], names),
    "probabilities": lambda names: plots.plot_probabilities(FACES[0], scores(names)[1][0], names, " or ".join(names[:3])),
    "corruptions": lambda names: plots.plot_corruptions(under_corruptions(names)),
    "levels": lambda names: variant_plots.plot_levels([0, 0.01, 1], at_levels(names), f"age_group {names[0]}"),
    "figures-by-group": lambda names: fairness_plots.plot_figures_by_group({name: groups(names) for name in names[:2]}),
    "emotions-by-group": lambda names: fairness_plots.plot_emotions_by_group(groups(names), names, 10),
    "confusions-by-group": lambda names: fairness_plots.plot_confusions_by_group(dict(list(groups(names).items())[:2]), names),
    "disagreement": lambda names: ensemble_plots.plot_disagreement(np.eye(len(names)), names),
}


def drawn_texts(figure):
    """Each text that a figure draws, with the corners of the box around it: float (n, 4), left, low, right, high."""
    texts, draw = {}, Text.draw

    def kept(text, renderer):
        if text.get_visible() and text.get_text():
            texts[text] = None
        draw(text, renderer)

    renderer = RendererAgg(*map(int, figure.bbox.size), figure.dpi)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", kept)
        figure.draw(renderer)
    return list(texts), np.array([text.get_window_extent(renderer).extents for text in texts])


def cover(figure, one, other):
    pixels = []
    for text in (one, other):
        renderer = RendererAgg(*map(int, figure.bbox.size), figure.dpi)
        text.draw(renderer)
        pixels.append(np.asarray(renderer.buffer_rgba())[..., 3] > 128)
    return (pixels[0] & pixels[1]).any()


def faults(figure):
    """Texts that are not wholly in the figure, and pairs that are drawn over each other."""
    plots.png_bytes(figure)
    texts, boxes = drawn_texts(figure)
    outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > figure.bbox.size).any(axis=1)
    found = [text.get_text() for text, out in zip(texts, outside, strict=True) if out]
    meet = (boxes[:, None, :2] + 1 < boxes[None, :, 2:]).all(axis=2)
    for first, second in np.argwhere(np.triu(meet & meet.T, 1)):
        one, other = texts[first], texts[second]
        # Boxes around turned texts reach into each other without harm.
        turned = one.get_rotation() % 90 or other.get_rotation() % 90
        if not turned or cover(figure, one, other):
            found.append((one.get_text(), other.get_text()))
    return found


#: Of these, twelve names make hundreds of texts, which take seconds to draw.
CELLS = ("confusion", "confusions", "second", "disagreement", "emotions-by-group", "confusions-by-group")
CASES = [(kind, count) for kind in DRAW for count in (2, 6 if kind in CELLS else 12)]
CASES += [(kind, 8) for kind in ("classes", "per-class", "levels")]


@pytest.mark.parametrize(("kind", "count"), CASES)
def test_long_names_are_whole_and_not_over_each_other(kind, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that found no room
        assert faults(DRAW[kind](LONG[:count])) == []


@pytest.mark.parametrize("count", [3, 4])
def test_confusions_of_several_groups_beside_each_other_are_whole(count):
    rates = [{"n": 12345, "small": True, "confusion": confusion(SHORT)}] * count
    assert (
        faults(fairness_plots.plot_confusions_by_group(dict(zip(("0-2", "3-9", "10-19", "20-29"), rates, strict=False)), SHORT))
        == []
    )


def test_the_legend_of_reliability_is_outside_of_its_axes():
    figure = plots.plot_reliability(*scores(SHORT)[::-1], 1.5)
    plots.png_bytes(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ideal", "mean confidence", "accuracy"]
    assert legend.get_window_extent().y1 < min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert faults(figure) == []


@pytest.mark.parametrize("kind", ["classes", "per-class"])
def test_short_names_stay_upright(kind):
    labels = DRAW[kind](SHORT).axes[0].get_xticklabels()
    assert [label.get_text().split("\n")[0] for label in labels] == SHORT
    assert {label.get_rotation() for label in labels} == {0}


@pytest.mark.parametrize("kind", ["roc", "precision-recall", "levels", "corruptions"])
def test_lines_of_twelve_names_differ(kind):
    figure = DRAW[kind](LONG)
    handles = figure.axes[0].get_legend_handles_labels()[0]
    lines = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]  # with error bars it is several
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 12


@pytest.mark.parametrize(
    "text", ["a name of several words that is long", "einenureinzigeslangeswort" * 3, "two\nlines", "", "x"], ids=len
)
def test_wrapped_text_keeps_its_letters_within_the_width(text):
    lines = plots_text.wrapped(text, 1.0, 9)
    assert "".join(lines.split()) == "".join(text.split())
    figure = Figure()
    width = Text(0, 0, lines, fontsize=9, figure=figure).get_window_extent().width / figure.dpi
    assert width <= 1.0


def test_levels_near_each_other_have_ticks_of_their_own():
    labels = variant_plots.plot_levels([0, 0.005, 0.01, 1], at_levels(SHORT, 4), "x").axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["0%", "0.5%", "1%", "100%"]


# letters that DejaVu Sans lacks; STIXGeneral, which comes with matplotlib as well, has Ⓣ


@pytest.fixture
def stix(monkeypatch):
    monkeypatch.setattr(plots_text, "_OTHER_FONTS", ("STIX",))
    forget()
    yield monkeypatch
    forget()


def forget():
    plots_text._fonts_with.cache_clear()
    plots_text._told.clear()


def with_title(title):
    figure = Figure((3, 1))
    figure.suptitle(title)
    return figure


def test_letters_come_from_another_font_where_needed(stix):
    with pytest.warns(UserWarning, match="Glyph"):
        with_title("Ⓣ").savefig(io.BytesIO())
    figure = with_title("Ⓣ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.png_bytes(figure)
        figure.savefig(io.BytesIO())
        assert plots_text.text_width("ⓉⓉ") == pytest.approx(2 * plots_text.text_width("Ⓣ"))
    assert plots_text._fonts_for("Ärger")[0] == ["DejaVu Sans"]


def test_a_font_that_was_installed_later_is_found(stix):
    known = font_manager.fontManager.ttflist
    path = next(entry.fname for entry in known if entry.name == "STIXGeneral" and Path(entry.fname).stem == "STIXGeneral")
    stix.setattr(font_manager.fontManager, "ttflist", [entry for entry in known if not entry.name.startswith("STIX")])
    stix.setattr(font_manager, "findSystemFonts", lambda: [path])
    assert plots_text._fonts_for("Ⓣ") == (["DejaVu Sans", "STIXGeneral"], "")


def test_letters_that_no_font_has_are_told_of_once(stix):
    stix.setattr(plots_text, "_OTHER_FONTS", ())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plots.png_bytes(plots.plot_per_class([{"label": "怒り", "precision": 1, "recall": 1, "f1": 1, "support": 9}]))
        plots.png_bytes(dataset_plots.plot_classes({"怒り": 3, "り": 4}))
    assert [("怒り" in str(entry.message), str(entry.message).count("\n")) for entry in told] == [(True, 0)]
