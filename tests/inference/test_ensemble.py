"""Combining arrays, against sums by hand, searches over all weights, and simulated truths."""

from itertools import product

import numpy as np
import pytest

from fer_keras.errors import ConfigError, DataError
from fer_keras.inference import ensemble

#: Three members, two faces, three labels.
TOLD = np.array(
    [
        [[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]],
        [[0.4, 0.5, 0.1], [0.1, 0.8, 0.1]],
        [[0.6, 0.2, 0.2], [0.3, 0.3, 0.4]],
    ]
)


def simulated(members=3, faces=400, classes=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.6), (members, faces))


def log_loss(weights, told, truth):
    mixed = np.einsum("m,mnk->nk", np.asarray(weights, float) / np.sum(weights), told)
    return -np.log(mixed[np.arange(len(truth)), truth]).mean()


def test_mean_and_weights_are_sums_by_hand():
    np.testing.assert_allclose(ensemble.combine(TOLD, "mean"), [[0.5, 1.1 / 3, 0.4 / 3], [0.2, 1.4 / 3, 1 / 3]])
    np.testing.assert_allclose(ensemble.combine(TOLD, "weighted", [2, 2, 0]), [[0.45, 0.45, 0.1], [0.15, 0.55, 0.3]])
    np.testing.assert_array_equal(
        ensemble.combine(TOLD, "greedy", [1, 0, 3]), ensemble.combine(TOLD, "weighted", [0.25, 0, 0.75])
    )


def test_a_vote_goes_to_the_majority_even_against_the_mean():
    # The second face: two of three say the third label, the mean says the second.
    assert ensemble.combine(TOLD, "mean")[1].argmax() == 1
    voted = ensemble.combine(TOLD, "vote")
    # 0, 1 and 2 votes, and the mean (0.2, 1.4/3, 1/3) as 3/4 of a vote, over 3.75 in all.
    np.testing.assert_allclose(voted[1], np.array([0.15, 1.35, 2.25]) / 3.75)
    assert voted[1].argmax() == 2


def test_a_tied_vote_goes_to_the_higher_mean_probability():
    tied = np.array([[[0.9, 0.1, 0.0]], [[0.4, 0.6, 0.0]]])
    assert ensemble.vote(tied)[0].argmax() == 0  # means 0.65 and 0.35
    np.testing.assert_allclose(ensemble.vote(tied)[0], [(1 + 2 / 3 * 0.65) / (8 / 3), (1 + 2 / 3 * 0.35) / (8 / 3), 0])


def test_the_winner_of_a_vote_is_always_first_by_votes_then_by_mean():
    for members, classes in product((1, 2, 3, 4, 5, 8), (2, 3, 7)):
        told = simulated(members, 200, classes, seed=members * 10 + classes)
        expected = []
        for face in range(200):
            votes = np.bincount(told[:, face].argmax(axis=1), minlength=classes)
            expected.append(max(range(classes), key=lambda label: (votes[label], told[:, face, label].mean())))
        voted = ensemble.vote(told)
        np.testing.assert_array_equal(voted.argmax(axis=1), expected)
        np.testing.assert_allclose(voted.sum(axis=1), 1)
        assert (voted > 0).all()


def test_fitted_weights_have_the_lowest_loss_of_all_on_a_grid():
    told = simulated()
    truth = np.random.default_rng(1).integers(0, 4, 400)
    fitted = ensemble.fit_weights(told, truth)
    steps = np.linspace(0, 1, 41)
    grid = [(a, b, 1 - a - b) for a, b in product(steps, steps) if a + b <= 1]
    best = min(grid, key=lambda weights: log_loss(weights, told, truth))
    assert log_loss(fitted, told, truth) <= log_loss(best, told, truth) + 1e-6
    np.testing.assert_allclose(fitted, best, atol=0.03)
    assert (fitted >= 0).all() and fitted.sum() == pytest.approx(1)


def test_weights_by_which_the_truth_was_drawn_are_found_again():
    told = simulated(faces=20_000, seed=3)
    mixed = np.einsum("m,mnk->nk", [0.6, 0.0, 0.4], told)
    random = np.random.default_rng(4)
    truth = (random.random(len(mixed))[:, None] > mixed.cumsum(axis=1)).sum(axis=1)
    np.testing.assert_allclose(ensemble.fit_weights(told, truth), [0.6, 0, 0.4], atol=0.03)


def test_a_member_that_adds_nothing_gets_no_weight_at_all():
    told = simulated(faces=3000, seed=5)
    truth = told[1].argmax(axis=1)
    np.testing.assert_array_equal(ensemble.fit_weights(told, truth), [0, 1, 0])
    np.testing.assert_array_equal(ensemble.select_greedily(told, truth), [0, 1, 0])


def test_greedy_selection_takes_the_steps_that_a_plain_search_takes():
    told, truth = simulated(4, 300, 3, seed=6), np.random.default_rng(7).integers(0, 3, 300)
    chosen, path = [], []
    for _ in range(12):
        chosen = min(([*chosen, member] for member in range(4)), key=lambda some: log_loss(np.ones(len(some)), told[some], truth))
        path.append((log_loss(np.ones(len(chosen)), told[chosen], truth), chosen))
    _, best = min(path, key=lambda step: step[0])
    np.testing.assert_allclose(ensemble.select_greedily(told, truth, rounds=12), np.bincount(best, minlength=4) / len(best))


def test_greedy_selection_is_never_worse_than_the_best_member_on_its_own_faces():
    told, truth = simulated(5, 250, 4, seed=8), np.random.default_rng(9).integers(0, 4, 250)
    single = min(log_loss(np.eye(5)[member], told, truth) for member in range(5))
    assert log_loss(ensemble.select_greedily(told, truth), told, truth) <= single


def test_accuracy_weights_are_log_odds_against_chance():
    # log(0.8 / 0.2) + log 2 and log(0.5 / 0.5) + log 2: 3 to 1
    np.testing.assert_allclose(ensemble.accuracy_weights([0.8, 0.5, 1 / 3], 3), [0.75, 0.25, 0], atol=1e-12)
    with pytest.raises(ConfigError, match="no model is better than chance"):
        ensemble.accuracy_weights([0.2, 0.1], 3)


def test_a_model_with_one_answer_for_all_has_learned_nothing():
    assert ensemble.learned_nothing(np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0]]))
    assert not ensemble.learned_nothing(TOLD[0])


def test_disagreement_is_counted_by_pairs():
    # Labels given: (0, 2), (1, 1), (0, 2)
    np.testing.assert_array_equal(ensemble.disagreement(TOLD), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("how", "weights", "message"),
    [
        ("median", None, "unknown combination 'median'; choose from mean, vote, weighted, greedy"),
        ("weighted", None, r"3 models by weighted needs 3 weights of 0 or more, got \[\]"),
        ("weighted", [1, 2], "needs 3 weights"),
        ("weighted", [1, -1, 1], "0 or more"),
        ("greedy", [0, 0, 0], "0 or more"),
        ("vote", [1, 1, 1], "takes no weights; use weighted"),
    ],
)
def test_a_combination_that_does_not_fit_is_refused(how, weights, message):
    with pytest.raises(ConfigError, match=message):
        ensemble.combine(TOLD, how, weights)


def test_nothing_is_fitted_on_no_faces():
    for fit in (ensemble.fit_weights, ensemble.select_greedily):
        with pytest.raises(DataError, match="got none; combine by mean or vote"):
            fit(TOLD[:, :0], np.empty(0, int))
