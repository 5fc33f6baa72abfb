"""Two models, or one before and after a change, on the same faces: by how much they differ, and whether chance explains it.

Faces of one person go together: who is named right once is so again, and a hundred pictures of ten people tell little more than
ten. So where persons are known and some have several faces, whole persons are drawn and exchanged, not faces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_keras.evaluation import resampling
from fer_keras.evaluation.classification import accuracy_interval

_DRAWS = 2000
_EXCHANGES = 9999


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray, people: np.ndarray | None = None) -> dict[str, Any]:
    """Exact McNemar test of two models on the same faces: bool (n,) each, whether a face was named right.

    people: str (n,), who is on each face, "" where not known. Where somebody has several faces, the answers of the two models
    are exchanged for whole persons, at random, 9,999 times (for persons with a face each that would be McNemar's test).

    Returns {"only_first", "only_second", "p"}: how many faces one alone named right, and the two-sided p-value of so uneven
    a division, 1.0 where they are never apart.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    units = resampling.person_units(people)
    if units is not None:
        p = _exchange_p(units.sums(second[:, None].astype(float) - first[:, None])[:, 0])
    else:
        p = float(binomtest(only_first, only_first + only_second, 0.5).pvalue) if only_first + only_second else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def accuracy_difference_interval(
    first_correct: np.ndarray, second_correct: np.ndarray, people: np.ndarray | None = None
) -> tuple[float, float]:
    """95% interval of accuracy(second) - accuracy(first) of two models on the same faces.

    bool (n,) each, whether a face was named right, n of 1 or more. Newcombe 1998, method 10
    (https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C): the Wilson intervals of both,
    joined with regard to how far the two are right on the same faces. people: str (n,), who is on each face, "" where not known;
    where somebody has several, a bootstrap over persons instead.
    """
    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    units = resampling.person_units(people)
    if units is None:
        return _newcombe(first, second)
    rng = np.random.default_rng(0)
    sums = resampling.bootstrap_sums(units.sums(np.column_stack([np.ones(len(first)), first, second])), units, _DRAWS, rng)[:, 0]
    drawn = (sums[:, 2] - sums[:, 1]) / sums[:, 0]
    if not np.ptp(drawn):
        drawn = resampling.agreement_draws(len(units.group), _DRAWS, rng)
    low, high = np.quantile(drawn - drawn.mean(), (0.025, 0.975)) + second.mean() - first.mean()
    return float(max(low, -1)), float(min(high, 1))


def persons_note(people: np.ndarray | None) -> list[str]:
    """What a reader should know of `people`, as above, in a list; empty where faces are drawn."""
    units = resampling.person_units(people)
    if units is None:
        return []
    if alone := one_person_note(people):
        return alone
    return [
        f"these {len(people)} faces are of {len(units.group)} persons, whose faces go together: intervals of differences draw "
        "whole persons (bootstrap), and tests exchange the answers of whole persons"
    ]


def one_person_note(people: np.ndarray | None) -> list[str]:
    """What a reader should know where all faces are of one person, in a list; empty otherwise. people: as above."""
    units = resampling.person_units(people)
    if units is None or len(units.group) > 1:
        return []
    return [f"these {len(people)} faces are all of one person: no interval or test of them says anything about other people"]


def _exchange_p(gained: np.ndarray) -> float:
    """p value of the sum of what was gained, float (u,), if each could as well have been lost."""
    apart = gained[gained != 0].astype(np.float32)
    if not len(apart):
        return 1.0
    signs = np.random.default_rng(0).integers(0, 2, (_EXCHANGES, len(apart)), dtype=np.int8)
    return resampling.permutation_p(abs(apart.sum()), np.abs((2 * signs - 1) @ apart))


def _newcombe(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    count = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    margins = float((both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither))
    together = both * neither - only_first * only_second
    # Newcombe's continuity correction, for agreement only.
    together = max(together - count / 2, 0.0) if together > 0 else float(together)
    phi = together / np.sqrt(margins) if margins else 0.0
    p1, p2 = first.mean(), second.mean()
    (low1, high1), (low2, high2) = accuracy_interval(first.sum(), count), accuracy_interval(second.sum(), count)

    def joined(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    return float(p2 - p1 - joined(p2 - low2, high1 - p1)), float(p2 - p1 + joined(high2 - p2, p1 - low1))
