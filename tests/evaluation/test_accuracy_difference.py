"""The interval of a difference of accuracies on the same faces."""

import numpy as np
import pytest

from fer_keras.evaluation.classification import accuracy_difference_interval


def test_the_interval_is_newcombes_worked_out_by_hand():
    # 20 faces: both right 9, only the first 1, only the second 6, neither 4.
    first = np.array([1] * 9 + [1] + [0] * 6 + [0] * 4, bool)
    second = np.array([1] * 9 + [0] + [1] * 6 + [0] * 4, bool)
    z, n = 1.959964, 20

    def wilson(p):
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    (low1, high1), (low2, high2) = wilson(0.5), wilson(0.75)
    phi = (9 * 4 - 1 * 6 - n / 2) / np.sqrt(10 * 10 * 15 * 5)
    down, up = (0.75 - low2, high1 - 0.5), (high2 - 0.75, 0.5 - low1)
    expected = [
        0.25 - np.sqrt(down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2),
        0.25 + np.sqrt(up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2),
    ]
    assert accuracy_difference_interval(first, second) == pytest.approx(expected, abs=1e-6)
    low, high = accuracy_difference_interval(second, first)
    assert [-high, -low] == pytest.approx(expected, abs=1e-6)


def test_it_covers_the_true_difference_in_about_95_of_100_draws():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        cells = random.choice(4, 150, p=[0.6, 0.08, 0.14, 0.18])  # both, only first, only second, neither
        low, high = accuracy_difference_interval(cells <= 1, (cells == 0) | (cells == 2))
        hits += low <= 0.06 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_models_that_are_never_apart_have_an_interval_around_zero_that_shrinks_with_more_faces():
    few, many = (accuracy_difference_interval(np.arange(n) % 3 > 0, np.arange(n) % 3 > 0) for n in (30, 3000))
    assert few[0] < many[0] < 0 < many[1] < few[1]
