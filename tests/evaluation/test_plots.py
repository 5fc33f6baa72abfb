import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_keras.errors import DataError
from fer_keras.evaluation import plots

LABELS = ("neutral", "happiness", "anger")


@pytest.fixture(scope="module")
def scores():
    random = np.random.default_rng(0)
    y_true = np.repeat([0, 1], 30)  # nobody is angry
    probabilities = random.dirichlet(np.ones(3), 60)
    probabilities[np.arange(60), y_true] += 0.5
    return y_true, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "history.csv"
    pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "phase": ["frozen", "frozen", "finetune", "finetune"],
            "loss": [2.0, 1.5, 1.2, 1.0],
            "accuracy": [0.2, 0.4, 0.5, 0.6],
            "val_loss": [1.9, 1.4, 1.3, 1.6],
            "val_accuracy": [0.3, 0.4, 0.55, 0.5],
        }
    ).to_csv(path, index=False)
    return path


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def size_of(figure):
    return Image.open(io.BytesIO(plots.png_bytes(figure))).size


def test_confusion_shows_counts_and_shares_of_each_true_label():
    figure = plots.plot_confusion([[3, 1, 0], [0, 5, 0], [0, 0, 0]], LABELS)
    counts, shares = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert counts == ["3", "1", "0", "0", "5", "0", "0", "0", "0"]
    assert shares == ["0.75", "0.25", "0.00", "0.00", "1.00", "0.00", "0.00", "0.00", "0.00"]


def test_a_dollar_in_a_name_begins_no_formula():
    named = plots.plot_confusion([[1, 2], [3, 4]], ["a$_$", "b$_2$"], "all for $5 and $_$")
    plain = plots.plot_confusion([[1, 2], [3, 4]], ["a", "b2"], "all for 5 and")
    assert plots.png_bytes(named) != plots.png_bytes(plain)


@pytest.mark.parametrize("draw", [plots.plot_roc, plots.plot_precision_recall])
def test_curves_leave_out_a_label_that_no_face_has(draw, scores):
    figure = draw(*scores, LABELS)
    legend = [text.get_text().split()[0] for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["neutral", "happiness"]


def test_reliability_is_drawn_before_and_after_the_temperature(scores):
    y_true, probabilities = scores
    assert len(plots.plot_reliability(probabilities, y_true).axes) == 2
    titles = [axes.get_title() for axes in plots.plot_reliability(probabilities, y_true, 1.7).axes]
    assert any("temperature 1.70" in title for title in titles)


def test_history_marks_the_phases_and_the_lowest_validation_loss(history):
    figure = plots.plot_history(history)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert texts(figure) == ["frozen", "finetune"] * 2
    ring = next(line for line in figure.axes[1].get_lines() if line.get_label() == "lowest validation loss")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (3, 0.55)


def test_history_of_one_metric_and_of_a_single_epoch_can_be_drawn(history):
    assert [axes.get_ylabel() for axes in plots.plot_history(history, metric="loss").axes] == ["loss"]
    pd.read_csv(history).head(1).to_csv(history, index=False)
    assert size_of(plots.plot_history(history))[0] > 500


def test_history_that_starts_again_in_each_phase_is_drawn_in_one_line(history):
    pd.read_csv(history).assign(epoch=[1, 2, 1, 2]).to_csv(history, index=False)
    assert plots.plot_history(history).axes[0].get_lines()[0].get_xdata().tolist() == [1, 2, 3, 4]


def test_history_without_epochs_or_columns_is_refused(history):
    table = pd.read_csv(history)
    table.head(0).to_csv(history, index=False)
    with pytest.raises(DataError, match="no epoch"):
        plots.plot_history(history)
    table.drop(columns="val_loss").to_csv(history, index=False)
    with pytest.raises(DataError, match="val_loss"):
        plots.plot_history(history)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 11])
def test_gallery_shows_every_mistake_with_its_labels(channels, count):
    faces = np.random.default_rng(0).integers(0, 256, (count, 12, 12, channels), dtype=np.uint8)
    figure = plots.plot_mistakes(faces, ["anger"] * count, ["fear"] * count, [0.987] * count, title="mistakes")
    assert texts(figure) == ["mistakes"] + ["true anger\nsaid fear 0.99"] * count
    shown = [image.get_array().reshape(faces[0].shape) for image in figure.axes[0].images]
    assert np.array_equal(shown, faces)


def test_gallery_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one face or more"):
        plots.plot_faces([], [])


def test_bars_and_probabilities_name_every_label():
    per_class = [{"label": label, "precision": 0.5, "recall": 0.4, "f1": 0.3, "support": 9} for label in LABELS]
    figure = plots.plot_per_class(per_class)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [f"{label}\n9" for label in LABELS]
    figure = plots.plot_probabilities(np.zeros((8, 8, 1), np.uint8), np.array([0.1, 0.7, 0.2]), LABELS)
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.10", "0.70", "0.20"]


def test_png_appears_whole_and_leaves_nothing_else(tmp_path, scores):
    path = plots.save_png(plots.plot_roc(*scores, LABELS), tmp_path / "new" / "roc.png")
    assert [entry.name for entry in path.parent.iterdir()] == ["roc.png"]
    with Image.open(path) as picture:
        assert min(picture.size) > 300


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np\n"
        "from fer_keras.evaluation import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.png_bytes(plots.plot_confusion([[1, 0], [0, 1]], ['a', 'b']))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
