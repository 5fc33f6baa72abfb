"""The figures by which a classifier is judged, as one dictionary that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_keras.errors import DataError, ModelError
from fer_keras.evaluation.calibration import apply_temperature, expected_calibration_error


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """95% Wilson score interval of an accuracy: `correct` of `count` right, count of 1 or more."""
    from scipy.stats import binomtest

    interval = binomtest(int(correct), int(count)).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def classification_metrics(
    y_true: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    temperature: float | None = None,
    curves: bool = True,
) -> dict[str, Any]:
    """Judge probabilities against the true labels.

    y_true: int (n,), 0..k-1. probabilities: float (n, k), rows sum to 1. labels: k names. temperature: fitted elsewhere
    (`calibration.fit_temperature`); it changes no decision, only "ece_calibrated". curves: with the areas under
    the curves, which take most of the time.

    Returns, all plain numbers from 0 to 1 unless said:
      n                  how many faces (int)
      accuracy           share whose most probable label is the true one
      accuracy_ci95      [low, high], Wilson score interval
      micro_precision, micro_recall, micro_f1   over all decisions; equal to the accuracy, as each face has one label
      macro_precision, macro_recall, macro_f1   unweighted mean over the labels that occur in y_true
      top2_accuracy      share whose true label is among the two most probable
      log_loss           mean negative log-likelihood in nats
      per_class          [{label, precision, recall, f1, support, roc_auc, average_precision}] in label order; precision,
                         recall and f1 are 0 where they are undefined, the last two (one against the rest) None, as they
                         are without `curves`
      confusion          counts, list of lists: rows true, columns predicted, in label order
      ece                expected calibration error, 15 equal-width bins
      temperature, ece_calibrated   what was given, and the ECE after it; None where none was given

    Raises DataError for no faces, ModelError for probabilities that are not finite, ValueError for shapes that differ.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    y_true, classes = np.asarray(y_true), len(labels)
    if len(y_true) == 0:
        raise DataError("there is no labelled face to judge a model by; choose another split or protocol")
    if probabilities.shape != (len(y_true), classes):
        raise ValueError(f"expected probabilities of shape {(len(y_true), classes)}, got {probabilities.shape}")
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise ModelError(f"the model gives no finite probabilities for {bad} of {len(y_true)} faces; its training has failed")
    probabilities = probabilities.astype(np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    every, present = np.arange(classes), np.unique(y_true)
    correct = int((predicted == y_true).sum())

    def averaged(kind: str, over: np.ndarray) -> dict[str, float]:
        figures = precision_recall_fscore_support(y_true, predicted, labels=over, average=kind, zero_division=0)
        return {f"{kind}_{name}": float(value) for name, value in zip(("precision", "recall", "f1"), figures[:3], strict=True)}

    top_two = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    return {
        "n": len(y_true),
        "accuracy": correct / len(y_true),
        "accuracy_ci95": list(accuracy_interval(correct, len(y_true))),
        **averaged("micro", every),
        **averaged("macro", present),
        "top2_accuracy": float((top_two == y_true[:, None]).any(axis=1).mean()),
        "log_loss": float(log_loss(y_true, probabilities, labels=every)),
        "per_class": _per_class(y_true, predicted, probabilities, labels, curves),
        "confusion": confusion_matrix(y_true, predicted, labels=every).tolist(),
        "ece": expected_calibration_error(probabilities, y_true),
        "temperature": None if temperature is None else float(temperature),
        "ece_calibrated": None
        if temperature is None
        else expected_calibration_error(apply_temperature(probabilities, temperature), y_true),
    }


def _per_class(
    y_true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], curves: bool
) -> list[dict]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    precision, recall, f1, support = precision_recall_fscore_support(
        y_true, predicted, labels=np.arange(len(labels)), average=None, zero_division=0
    )
    lines = []
    for index, label in enumerate(labels):
        positive = y_true == index
        ranked = curves and 0 < positive.sum() < len(positive)
        lines.append(
            {
                "label": label,
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
                "roc_auc": float(roc_auc_score(positive, probabilities[:, index])) if ranked else None,
                "average_precision": float(average_precision_score(positive, probabilities[:, index])) if ranked else None,
            }
        )
    return lines
