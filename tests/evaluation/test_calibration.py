import numpy as np
import pytest

from fer_keras.errors import DataError
from fer_keras.evaluation.calibration import (
    apply_temperature,
    coverage_curve,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
    why_no_temperature,
)


def drawn(sharpness, count=4000, classes=5, seed=0):
    """Labels drawn from softmax(logits), and softmax(sharpness * logits): a model too sure of itself by a known factor."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.normal(size=(count, classes))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y_true = (honest.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    said = np.exp(sharpness * logits)
    return (said / said.sum(axis=1, keepdims=True)).astype(np.float32), y_true


def test_ece_of_four_faces_is_that_computed_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.65, 0.35], [0.35, 0.65]])
    y_true = np.array([0, 1, 0, 1])
    # Bin around 0.9: half right, gap 0.4. Bin around 0.65: both right, gap 0.35. Each holds half of the faces.
    assert expected_calibration_error(probabilities, y_true) == pytest.approx(0.5 * 0.4 + 0.5 * 0.35)


def test_each_bin_includes_its_upper_edge_and_full_confidence_is_in_the_last():
    probabilities = np.array([[0.5, 0.5], [0.51, 0.49], [1.0, 0.0]])
    curve = reliability_curve(probabilities, np.zeros(3, int), bins=4)
    assert curve.count.tolist() == [0, 1, 1, 1]
    assert np.isnan(curve.accuracy[0])
    assert curve.confidence[1:].tolist() == pytest.approx([0.5, 0.51, 1.0])


def test_sure_and_always_right_has_no_calibration_error():
    assert expected_calibration_error(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])) == 0


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_fitted_temperature_undoes_a_known_sharpness(sharpness):
    probabilities, y_true = drawn(sharpness)
    assert fit_temperature(probabilities, y_true) == pytest.approx(sharpness, rel=0.06)


def test_fitted_temperature_has_the_lowest_loss_of_a_grid():
    probabilities, y_true = drawn(2.0, count=300)
    fitted = fit_temperature(probabilities, y_true)

    def loss(temperature):
        powers = probabilities.astype(np.float64) ** (1 / temperature)
        return -np.log((powers / powers.sum(axis=1, keepdims=True))[np.arange(len(y_true)), y_true]).mean()

    grid = np.linspace(0.2, 6, 300)
    assert loss(fitted) <= min(map(loss, grid)) + 1e-9


def test_fitted_temperature_lowers_the_calibration_error():
    probabilities, y_true = drawn(3.0)
    tempered = apply_temperature(probabilities, fit_temperature(probabilities, y_true))
    assert expected_calibration_error(tempered, y_true) < 0.3 * expected_calibration_error(probabilities, y_true)


def test_temperature_of_one_changes_nothing_and_none_changes_a_decision():
    probabilities, _ = drawn(1.0, count=50)
    assert apply_temperature(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-6)
    for temperature in (0.1, 7.0):
        tempered = apply_temperature(probabilities, temperature)
        assert (tempered.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        assert tempered.sum(axis=1) == pytest.approx(1.0)


def test_probabilities_of_zero_stay_finite():
    tempered = apply_temperature(np.array([[1.0, 0.0]]), 2.0)
    assert np.isfinite(tempered).all()
    assert np.isfinite(fit_temperature(np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), np.array([0, 1])))


def test_temperature_without_faces_is_refused():
    with pytest.raises(DataError, match="validation faces"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))


def test_few_faces_and_faces_that_are_all_right_or_all_wrong_tell_no_temperature():
    said = np.tile([0.9, 0.1], (20, 1))
    mixed = np.array([0] * 19 + [1])
    assert why_no_temperature(said, mixed) is None
    assert "20 validation faces or more, got 19" in why_no_temperature(said[1:], mixed[1:])
    for truth, how in ((np.zeros(20, int), "right"), (np.ones(20, int), "wrong")):
        assert f"all on 20 validation faces are {how}" in why_no_temperature(said, truth)


def test_coverage_of_five_faces_is_that_counted_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5]])
    y_true = np.array([0, 1, 1, 0, 0])  # right, wrong, right, wrong, right
    curve = coverage_curve(probabilities, y_true, (0.0, 0.6, 0.85, 0.95))
    assert [entry["n"] for entry in curve] == [5, 4, 1, 0]
    assert [entry["coverage"] for entry in curve] == [1.0, 0.8, 0.2, 0.0]
    assert [entry["accuracy"] for entry in curve] == [0.6, 0.5, 1.0, None]
    assert [entry["uncertain_accuracy"] for entry in curve] == [None, 1.0, 0.5, 0.6]
    # Wilson's interval of 1 of 1: from 1 / (1 + z^2) to 1.
    assert curve[2]["accuracy_ci95"] == pytest.approx([1 / (1 + 1.959964**2), 1.0], abs=1e-5)
    assert curve[3]["accuracy_ci95"] is None


def test_holding_back_raises_the_accuracy_of_an_honest_model_to_its_threshold_and_more():
    probabilities, y_true = drawn(1.0)
    curve = coverage_curve(probabilities, y_true)
    assert [entry["threshold"] for entry in curve] == sorted(entry["threshold"] for entry in curve)
    assert curve[0]["coverage"] == 1.0
    for entry in curve:
        assert entry["n"] == 0 or entry["accuracy_ci95"][1] > entry["threshold"]
        if entry["uncertain_accuracy"] is not None and entry["coverage"] < 0.9:
            assert entry["uncertain_accuracy"] < entry["threshold"] + 0.03
