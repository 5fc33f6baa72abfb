"""Whether a model's confidence can be believed, the one number (temperature) that mends it, and what holding back brings.

Guo et al. 2017, https://arxiv.org/abs/1706.04599: a softmax divided by a temperature before it is normalised keeps every
decision and moves only the confidence. The temperature is fitted on validation faces, never on those that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_keras.errors import DataError

#: Equal-width bins of confidence between 0 and 1.
BINS = 15
#: Thresholds of confidence that `coverage_curve` looks at.
THRESHOLDS = (*(round(0.05 * step, 2) for step in range(20)), 0.99)
#: Temperatures that `fit_temperature` considers; on a validation set without mistakes the best would be 0.
TEMPERATURE_RANGE = (0.05, 20.0)
#: Fewer faces than this tell nothing of a temperature.
FEWEST_FACES = 20


@dataclass(frozen=True)
class ReliabilityCurve:
    """Confidence against accuracy, bin by bin.

    edges: float (bins + 1,), from 0 to 1. count: int (bins,), how many faces fell into each.
    confidence, accuracy: float (bins,), mean of each; NaN where the bin is empty.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_curve(probabilities: np.ndarray, y_true: np.ndarray, bins: int = BINS) -> ReliabilityCurve:
    """Mean confidence and accuracy in equal-width bins of the highest probability; each bin includes its upper edge.

    probabilities: float (n, k), rows sum to 1. y_true: int (n,), 0..k-1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == y_true
    edges = np.linspace(0, 1, bins + 1)
    member = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    count = np.bincount(member, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(member, weights=confidence, minlength=bins) / count
        accuracy = np.bincount(member, weights=correct, minlength=bins) / count
    return ReliabilityCurve(edges, count, mean_confidence, accuracy)


def expected_calibration_error(probabilities: np.ndarray, y_true: np.ndarray, bins: int = BINS) -> float:
    """ECE, 0 (confidence can be believed) to 1: |accuracy - confidence| of each bin, weighted by its faces.

    probabilities: float (n, k), rows sum to 1. y_true: int (n,), 0..k-1.
    """
    curve = reliability_curve(probabilities, y_true, bins)
    filled = curve.count > 0
    gaps = np.abs(curve.accuracy[filled] - curve.confidence[filled])
    return float((gaps * curve.count[filled]).sum() / curve.count.sum())


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log(probabilities) / temperature): float64 (n, k). Above 1 less confident, below 1 more; 1 changes nothing."""
    from scipy.special import softmax

    return softmax(_log(probabilities) / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, y_true: np.ndarray) -> float:
    """The temperature with the lowest mean negative log-likelihood, between 0.05 and 20.

    probabilities: float (n, k), rows sum to 1. y_true: int (n,), 0..k-1. Raises DataError where there is no face.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if len(y_true) == 0:
        raise DataError("a temperature needs labelled validation faces, got none")
    logs = _log(probabilities)
    of_truth = logs[np.arange(len(y_true)), y_true]

    def negative_log_likelihood(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logs * inverse, axis=1) - of_truth * inverse))

    found = minimize_scalar(
        negative_log_likelihood, bounds=tuple(np.log(TEMPERATURE_RANGE)), method="bounded", options={"xatol": 1e-5}
    )
    return float(np.exp(found.x))


def why_no_temperature(probabilities: np.ndarray, y_true: np.ndarray) -> str | None:
    """Why a temperature that is fitted on these faces would mean nothing, in half a sentence; None where it means something.

    probabilities: float (n, k). y_true: int (n,). Without a mistake the best is an end of the range, as it is with mistakes only.
    """
    count, right = len(y_true), int((probabilities.argmax(axis=1) == y_true).sum())
    if count < FEWEST_FACES:
        return f"it takes {FEWEST_FACES} validation faces or more, got {count}"
    if right in (0, count):
        return f"it takes right answers and wrong ones, and all on {count} validation faces are {'right' if right else 'wrong'}"
    return None


def temperature_if_any(probabilities: np.ndarray, y_true: np.ndarray) -> tuple[float, str | None]:
    """A temperature fitted on these faces, and None; or 1 and why none is, as of `why_no_temperature`."""
    why = why_no_temperature(probabilities, y_true)
    return (1.0, why) if why else (fit_temperature(probabilities, y_true), None)


def no_temperature_note(name: str, why: str) -> str:
    """What is told of a model that has no fitted temperature. why: of `why_no_temperature`."""
    return f"{name}: no temperature is fitted, it stays 1: {why}"


def coverage_curve(
    probabilities: np.ndarray, y_true: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> list[dict[str, Any]]:
    """What is gained by calling every answer below a threshold of confidence uncertain, and how many answers remain.

    The risk-coverage curve of Geifman and El-Yaniv 2017, https://arxiv.org/abs/1705.08500, told as accuracy at fixed thresholds.
    probabilities: float (n, k), rows sum to 1, calibrated where the threshold is used on calibrated ones. y_true: int (n,),
    0..k-1, n of 1 or more. One entry a threshold: threshold, n (answers at or above it), coverage (their share of all),
    accuracy and accuracy_ci95 (of those; None where there are none), uncertain_accuracy (of the others; None likewise).
    """
    from fer_keras.evaluation.classification import accuracy_interval

    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true
    curve = []
    for threshold in thresholds:
        sure = confidence >= threshold
        count, right = int(sure.sum()), int(correct[sure].sum())
        curve.append(
            {
                "threshold": threshold,
                "n": count,
                "coverage": count / len(sure),
                "accuracy": right / count if count else None,
                "accuracy_ci95": list(accuracy_interval(right, count)) if count else None,
                "uncertain_accuracy": float(correct[~sure].mean()) if count < len(sure) else None,
            }
        )
    return curve


def _log(probabilities: np.ndarray) -> np.ndarray:
    # The smallest normal float32 is the least that a model can say without saying "never".
    return np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
