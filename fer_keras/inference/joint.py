"""Several recognizers as one: what `serving` uses where it is given more than one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.errors import ConfigError
from fer_keras.inference.ensemble import accuracy_weights, combine
from fer_keras.models.ensemble import common_labels, label_order

if TYPE_CHECKING:
    from fer_keras.inference.recognizer import Recognizer

#: The ways of combining that need no validation faces.
WAYS = ("mean", "vote", "weighted")


class JointRecognizer:
    """Several models of the same labels that look at the same faces, each in its own size, colour and crop.

    Each model's probabilities are calibrated by its own temperature before they are combined. With one model it is that
    model. labels: those of the first model, in its order. weights: of each model, sum 1; None where all count alike.
    uncertain_below: the average of the models' thresholds.
    """

    def __init__(self, recognizers: Sequence[Recognizer], how: str = "mean", weights: Sequence[float] | None = None) -> None:
        """weights: one for each model, for "weighted" only; None takes them from the accuracies in the models' metadata.

        Raises ModelError where labels differ, ConfigError where weights do not fit or can't be known.
        """
        if how not in WAYS:
            raise ConfigError(f"unknown combination {how!r}; choose from {', '.join(WAYS)}")
        self.recognizers = list(recognizers)
        self.how = how
        self.labels = common_labels({each.name: each.labels for each in self.recognizers})
        self.name = " + ".join(each.name for each in self.recognizers)
        self.uncertain_below = float(np.mean([each.uncertain_below for each in self.recognizers]))
        self._orders = [label_order(self.labels, each.labels) for each in self.recognizers]
        if weights is not None and how != "weighted":
            raise ConfigError(f"combining by {how} counts every model alike and takes no weights; use weighted")
        if how == "weighted" and weights is None:
            weights = weights_by_accuracy(self.recognizers)
        if weights is not None:
            given = np.asarray(weights, np.float64)
            if len(given) != len(self.recognizers) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
                raise ConfigError(f"{len(self.recognizers)} models need as many weights, 0 or more, got {list(weights)}")
            weights = given / given.sum()
        self.weights = weights

    def crops(self, image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Sequence[float]]) -> list[np.ndarray]:
        """The faces of a picture for each model: uint8 (n, size, size, c). image_rgb: uint8 (h, w, 3)."""
        return [each.crops(image_rgb, boxes_xyxy_px) for each in self.recognizers]

    def answers(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """What each model says: float32 (m, n, k), in the order of `labels`; one call of each model for all faces.

        crops: for each model uint8 (n, size, size, c), n of 0 or more.
        """
        told = [each.predict(faces) for each, faces in zip(self.recognizers, crops, strict=True)]
        return np.stack([one if order is None else one[:, order] for one, order in zip(told, self._orders, strict=True)])

    def joined(self, answers: np.ndarray) -> np.ndarray:
        """The answers of all models as one: float32 (n, k)."""
        return combine(answers, self.how, self.weights).astype(np.float32) if len(answers) > 1 else answers[0]

    def predict(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities of faces cut by `crops`: float32 (n, k)."""
        return self.joined(self.answers(crops))

    def recognize(self, image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Sequence[float]]) -> np.ndarray:
        """Probabilities of the faces in these boxes: float32 (n, k)."""
        return self.predict(self.crops(image_rgb, boxes_xyxy_px))


def weights_by_accuracy(recognizers: Sequence[Recognizer]) -> np.ndarray:
    """Weights from the accuracies that the models were exported with: float64 (m,), sum 1.

    Raises ConfigError where the models were not measured on the same faces, whose accuracies say nothing about each other.
    """
    measured = []
    for each in recognizers:
        figures = {
            tuple(figure.get(key) for key in ("dataset", "split", "protocol", "n")): figure.get("accuracy")
            for figure in each.metadata.get("figures") or []
        }
        measured.append({key: value for key, value in figures.items() if value is not None})
    shared = [key for key in measured[0] if all(key in one for one in measured[1:])]
    if not shared:
        raise ConfigError(
            "the models were not measured on the same faces, so their accuracies give no weights; name them with --weights, "
            "combine by mean or vote, or fit weights on your own faces with python -m training.ensemble --join"
        )
    return accuracy_weights([one[shared[0]] for one in measured], len(recognizers[0].labels))
