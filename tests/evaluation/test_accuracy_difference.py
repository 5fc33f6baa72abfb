"""Two models on the same faces: the interval of their difference, and the test of it."""

import itertools

import numpy as np
import pytest

from fer_keras.evaluation.paired import accuracy_difference_interval, mcnemar, persons_note


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


def people_of(persons, faces):
    return np.repeat([f"person {number}" for number in range(persons)], faces)


def test_persons_with_a_face_each_change_nothing():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 50)) < 0.7
    for people in (people_of(50, 1), np.full(50, "")):
        assert mcnemar(first, second, people) == mcnemar(first, second)
        assert accuracy_difference_interval(first, second, people) == accuracy_difference_interval(first, second)
        assert persons_note(people) == []


def test_whole_persons_are_exchanged():
    # What the second model gains in each of six persons of five faces.
    gains = [3, -1, 2, 2, 0, 1]
    first = np.concatenate([np.arange(5) < 1 for _ in gains])
    second = np.concatenate([np.arange(5) < 1 + gain for gain in gains])
    sums = np.array([np.dot(signs, gains) for signs in itertools.product((-1, 1), repeat=6)])
    found = mcnemar(first, second, people_of(6, 5))
    assert (found["only_first"], found["only_second"]) == (1, 8)
    assert found["p"] == pytest.approx((abs(sums) >= 7).mean(), abs=0.02)
    assert found["p"] > 4 * mcnemar(first, second)["p"]
    assert "30 faces are of 6 persons" in persons_note(people_of(6, 5))[0]


def test_faces_of_one_person_that_go_together_are_not_called_progress():
    """Two models that are equally good, each with persons that it finds hard."""
    rng, people, false_alarms, held, naive = np.random.default_rng(0), people_of(80, 8), 0, 0, 0
    for _ in range(200):
        first, second = rng.random((2, 640)) < np.repeat(1 / (1 + np.exp(-1 - 1.5 * rng.standard_normal((2, 80)))), 8, axis=1)
        false_alarms += mcnemar(first, second, people)["p"] < 0.05
        naive += mcnemar(first, second)["p"] < 0.05
        low, high = accuracy_difference_interval(first, second, people)
        held += low <= 0 <= high
    assert false_alarms / 200 < 0.1 and held / 200 > 0.9
    assert naive / 200 > 0.15


def test_persons_on_whom_models_are_never_apart_leave_a_doubt_that_shrinks_with_more_persons():
    few, many = (
        accuracy_difference_interval(same, same, people_of(n, 4)) for n in (10, 1000) for same in [np.arange(4 * n) % 3 > 0]
    )
    assert few[0] < many[0] < 0 < many[1] < few[1]
    assert mcnemar(np.ones(40), np.ones(40), people_of(10, 4))["p"] == 1
