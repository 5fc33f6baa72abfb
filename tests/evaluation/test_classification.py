import itertools
import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from fer_keras.errors import DataError, ModelError
from fer_keras.evaluation.calibration import apply_temperature, expected_calibration_error
from fer_keras.evaluation.classification import accuracy_interval, classification_metrics

LABELS = ("neutral", "happiness", "anger", "contempt")


def by_hand():
    """Six faces: right, right, wrong (anger for neutral), right, wrong (contempt for anger), right. No contempt is true."""
    y_true = np.array([0, 0, 0, 1, 2, 2])
    probabilities = np.array(
        [
            [0.7, 0.1, 0.1, 0.1],
            [0.6, 0.2, 0.1, 0.1],
            [0.3, 0.1, 0.5, 0.1],
            [0.1, 0.8, 0.05, 0.05],
            [0.3, 0.1, 0.2, 0.4],
            [0.1, 0.1, 0.7, 0.1],
        ]
    )
    return y_true, probabilities


def random_case(seed=0, count=400, classes=4):
    random = np.random.default_rng(seed)
    y_true = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), y_true] += random.random(count) * 0.6
    return y_true, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_figures_of_six_faces_are_those_counted_by_hand():
    figures = classification_metrics(*by_hand(), LABELS)
    assert figures["n"] == 6
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["confusion"] == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    neutral, happiness, anger, contempt = figures["per_class"]
    assert (neutral["precision"], neutral["recall"], neutral["support"]) == (1.0, pytest.approx(2 / 3), 3)
    assert (happiness["precision"], happiness["recall"], happiness["f1"]) == (1.0, 1.0, 1.0)
    assert (anger["precision"], anger["recall"], anger["f1"]) == (0.5, 0.5, 0.5)
    assert (contempt["precision"], contempt["recall"], contempt["support"], contempt["roc_auc"]) == (0.0, 0.0, 0, None)
    # Only the third face from the end has its label at rank three.
    assert figures["top2_accuracy"] == pytest.approx(5 / 6)
    truth = [0.7, 0.6, 0.3, 0.8, 0.2, 0.7]
    assert figures["log_loss"] == pytest.approx(-sum(map(math.log, truth)) / 6)


def test_macro_figures_are_means_over_the_labels_that_occur():
    figures = classification_metrics(*by_hand(), LABELS)
    assert figures["macro_recall"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert figures["macro_precision"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert figures["macro_f1"] == pytest.approx((0.8 + 1 + 0.5) / 3)


def test_micro_figures_equal_the_accuracy():
    figures = classification_metrics(*random_case(), LABELS)
    for name in ("micro_precision", "micro_recall", "micro_f1"):
        assert figures[name] == pytest.approx(figures["accuracy"])


def test_macro_f1_and_top_two_agree_with_scikit_learn():
    y_true, probabilities = random_case()
    figures = classification_metrics(y_true, probabilities, LABELS)
    assert figures["macro_f1"] == pytest.approx(f1_score(y_true, probabilities.argmax(axis=1), average="macro"))
    assert figures["top2_accuracy"] == pytest.approx(top_k_accuracy_score(y_true, probabilities, k=2))


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    y_true, probabilities = random_case(count=80)
    figures = classification_metrics(y_true, probabilities, LABELS)
    for index, entry in enumerate(figures["per_class"]):
        inside, outside = probabilities[y_true == index, index], probabilities[y_true != index, index]
        ordered = [(a > b) + (a == b) / 2 for a, b in itertools.product(inside, outside)]
        assert entry["roc_auc"] == pytest.approx(np.mean(ordered))


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (10, 10), (850, 1000)])
def test_interval_of_accuracy_is_wilsons(correct, count):
    z, share = 1.959963984540054, correct / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    assert accuracy_interval(correct, count) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_result_is_plain_json():
    figures = classification_metrics(*by_hand(), LABELS, temperature=1.5)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_calibrated_ece_is_that_of_the_tempered_probabilities():
    y_true, probabilities = random_case()
    figures = classification_metrics(y_true, probabilities, LABELS, temperature=0.6)
    assert figures["temperature"] == 0.6
    assert figures["ece_calibrated"] == pytest.approx(expected_calibration_error(apply_temperature(probabilities, 0.6), y_true))
    assert classification_metrics(y_true, probabilities, LABELS)["ece_calibrated"] is None


def test_no_faces_are_refused():
    with pytest.raises(DataError, match="no labelled face"):
        classification_metrics(np.zeros(0, int), np.zeros((0, 4)), LABELS)


def test_probabilities_that_are_not_finite_are_refused():
    y_true, probabilities = by_hand()
    probabilities[2, 1] = np.nan
    with pytest.raises(ModelError, match="1 of 6 faces"):
        classification_metrics(y_true, probabilities, LABELS)


def test_probabilities_of_another_shape_are_refused():
    y_true, probabilities = by_hand()
    with pytest.raises(ValueError, match=r"\(6, 3\)"):
        classification_metrics(y_true, probabilities, LABELS[:3])
