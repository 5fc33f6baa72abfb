"""Combining what several models say of the same faces; on arrays, whatever the models are.

    mean       average of the probabilities
    vote       each member has one vote for its most probable label; see `vote`
    weighted   convex weights with the lowest log loss on validation faces; see `fit_weights`
    greedy     members chosen one after the other on validation faces, with replacement; see `select_greedily`

`probabilities` is float (m, n, k) everywhere: m members, n faces, k labels in one order. Whatever is fitted is fitted on
faces that no member was trained on, and scored on others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer_keras.errors import ConfigError, DataError
from fer_keras.models.ensemble import COMBINATIONS, mean_share

#: How often `select_greedily` adds a member.
GREEDY_ROUNDS = 50
#: Weights below this share are taken for 0: they change no third digit, and their members need not be computed.
LEAST_WEIGHT = 1e-3
_TINY = float(np.finfo(np.float32).tiny)


def combine(probabilities: np.ndarray, how: str = "mean", weights: Sequence[float] | None = None) -> np.ndarray:
    """One answer from those of all members: float64 (n, k), rows sum to 1.

    how: one of COMBINATIONS. weights: (m,), 0 or more, of any sum; needed by "weighted" and "greedy", not taken by the others.
    Raises ConfigError where they do not fit.
    """
    if how not in COMBINATIONS:
        raise ConfigError(f"unknown combination {how!r}; choose from {', '.join(COMBINATIONS)}")
    members = len(probabilities)
    if how in ("mean", "vote"):
        if weights is not None:
            raise ConfigError(f"combining by {how} counts every model alike and takes no weights; use weighted")
        return probabilities.mean(axis=0, dtype=np.float64) if how == "mean" else vote(probabilities)
    shares = np.asarray([] if weights is None else weights, np.float64)
    if shares.shape != (members,) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise ConfigError(f"combining {members} models by {how} needs {members} weights of 0 or more, got {shares.tolist()}")
    return np.tensordot(shares / shares.sum(), probabilities.astype(np.float64), axes=1)


def vote(probabilities: np.ndarray) -> np.ndarray:
    """Majority vote, softened: float64 (n, k), rows sum to 1.

    Each member votes for its most probable label (half a vote each where two are equal). The mean probability is added as
    m/(m+1) of a vote, then all is divided by its sum: too little to turn over a majority of one vote, so it decides ties
    alone, and no label is said to be impossible only because nobody voted for it.
    """
    highest = probabilities == probabilities.max(axis=-1, keepdims=True)
    votes = (highest / highest.sum(axis=-1, keepdims=True)).mean(axis=0)
    share = mean_share(len(probabilities))
    return (votes + share * probabilities.mean(axis=0, dtype=np.float64)) / (1 + share)


def fit_weights(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Convex weights with the lowest log loss: float64 (m,), 0 or more, sum 1.

    truth: int (n,), 0..k-1. The loss is convex in the weights, so that its minimum is found (SLSQP; Kraft 1988).
    Raises DataError where there is no face to fit on.
    """
    from scipy.optimize import minimize

    of_truth = _of_truth(probabilities, truth)
    members = len(of_truth)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ of_truth, _TINY)
        return float(-np.log(mixed).mean()), -(of_truth / mixed).mean(axis=1)

    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(members)},
        options={"maxiter": 500, "ftol": 1e-10},
    )
    return _without_trifles(np.clip(found.x, 0, None))


def select_greedily(probabilities: np.ndarray, truth: np.ndarray, rounds: int = GREEDY_ROUNDS) -> np.ndarray:
    """Ensemble selection (Caruana et al. 2004, https://doi.org/10.1145/1015330.1015432): float64 (m,), sum 1.

    Starts with nothing and adds, with replacement, the member that makes the log loss of the mean lowest, `rounds` times;
    kept is the selection that was best on the way (the first of equals). A weight is how often a member was chosen in it.
    truth: int (n,), 0..k-1. Raises DataError where there is no face to select on.
    """
    of_truth = _of_truth(probabilities, truth)
    total, counts = np.zeros(of_truth.shape[1]), np.zeros(len(of_truth))
    best, lowest = counts, np.inf
    for chosen in range(1, rounds + 1):
        losses = -np.log(np.maximum((total + of_truth) / chosen, _TINY)).mean(axis=1)
        member = int(losses.argmin())
        total, counts = total + of_truth[member], counts + np.eye(len(counts))[member]
        if losses[member] < lowest - 1e-12:
            best, lowest = counts, losses[member]
    return best / best.sum()


def fit(probabilities: np.ndarray, truth: np.ndarray, how: str) -> np.ndarray | None:
    """The weights that a combination needs, fitted on labelled faces; None for mean and vote, which need none."""
    if how == "weighted":
        return fit_weights(probabilities, truth)
    return select_greedily(probabilities, truth) if how == "greedy" else None


def accuracy_weights(accuracies: Sequence[float], classes: int) -> np.ndarray:
    """Weights from how often each model is right, where there are no faces to fit them on: float64 (m,), sum 1.

    log(a / (1 - a)) + log(k - 1), the weight of a voter in SAMME (Zhu et al. 2009, https://doi.org/10.4310/SII.2009.v2.n3.a8);
    0 for one that is no better than chance. Raises ConfigError where all are.
    """
    right = np.clip(np.asarray(accuracies, np.float64), 1e-3, 1 - 1e-3)
    weights = np.maximum(np.log(right / (1 - right)) + np.log(classes - 1), 0)
    if not weights.sum() > 0:
        raise ConfigError(f"no model is better than chance (accuracies {list(accuracies)}); give weights, or combine by mean")
    return weights / weights.sum()


def learned_nothing(probabilities: np.ndarray) -> bool:
    """Whether a model gives all faces the same label. probabilities: float (n, k)."""
    return len(np.unique(probabilities.argmax(axis=1))) < 2


def disagreement(probabilities: np.ndarray) -> np.ndarray:
    """Share of the faces to which two members give different labels: float64 (m, m), symmetric, 0 on the diagonal."""
    answers = probabilities.argmax(axis=-1)
    return (answers[:, None] != answers[None]).mean(axis=-1)


def _of_truth(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What each member gives the true label of each face: float64 (m, n)."""
    if len(truth) == 0:
        raise DataError("weights need labelled validation faces, got none; combine by mean or vote")
    return probabilities[:, np.arange(len(truth)), truth].astype(np.float64)


def _without_trifles(weights: np.ndarray) -> np.ndarray:
    kept = np.where(weights / weights.sum() < LEAST_WEIGHT, 0.0, weights)
    return kept / kept.sum()
