import numpy as np
import pytest
from scipy.stats import hypergeom

from fer_keras.evaluation import resampling


def people(seed=0):
    """180 faces of 60 people, each person in one of three groups, with labels 0..3 and an outcome."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(60), 3)
    group = rng.integers(0, 3, 60)[person]
    return group, rng.integers(0, 4, 180), person.astype(str), rng.random(180) < 0.7


def test_units_keep_the_faces_of_a_person_together_and_add_them_up():
    group, truth, person, outcome = people()
    units = resampling.make_units(group, truth, person)
    assert units.identities and units.name == "identities" and len(units.group) == 60
    for unit in range(60):
        faces = units.of_row == unit
        assert len(set(person[faces])) == 1 and set(group[faces]) == {units.group[unit]}
    sums = units.sums(outcome[:, None].astype(float))[:, 0]
    assert sums.tolist() == [outcome[units.of_row == unit].sum() for unit in range(60)]


def test_faces_of_unknown_people_are_units_of_their_own():
    units = resampling.make_units(np.zeros(5, int), None, np.array(["a", "a", "", "unknown", "unknown"]))
    assert len(units.group) == 4


def test_a_person_in_two_groups_is_a_unit_in_each():
    units = resampling.make_units(np.array([0, 0, 1]), None, np.array(["a", "a", "a"]))
    assert sorted(units.group.tolist()) == [0, 1]


def test_sums_of_single_faces_stay_in_the_order_of_their_units():
    group, truth, _, outcome = people()
    units = resampling.make_units(group, truth)
    sums = units.sums(np.stack([outcome, group], axis=1).astype(float))
    assert np.array_equal(sums[units.of_row, 0], outcome) and np.array_equal(sums[:, 1], units.group)


def test_a_bootstrap_draws_each_group_with_as_many_units_as_it_has():
    group, truth, person, outcome = people()
    units = resampling.make_units(group, truth, person)
    values = units.sums(np.stack([np.ones(180), outcome], axis=1))
    draws = resampling.bootstrap_sums(values, units, 4000, np.random.default_rng(0))
    assert (draws[..., 0] == np.bincount(group)).all()  # everybody has three faces
    for index in range(3):
        each = values[units.group == index, 1]
        assert draws[:, index, 1].mean() == pytest.approx(each.sum(), rel=0.02)
        assert draws[:, index, 1].std() == pytest.approx(each.std() * np.sqrt(len(each)), rel=0.06)


def test_permutations_exchange_groups_within_a_label_only():
    group, truth, _, _ = people()
    units = resampling.make_units(group, truth)
    values = units.sums(np.eye(4)[truth])
    expected = [[((group == index) & (truth == label)).sum() for label in range(4)] for index in range(3)]
    for sums in resampling.permutation_sums(values, units, 300, np.random.default_rng(0)):
        assert (sums == np.array(expected)).all()  # how many faces of a label a group has never changes


def test_p_value_is_that_of_the_exact_test():
    group = np.repeat([0, 1], [30, 20])
    outcome = np.zeros(50)
    outcome[:24], outcome[30:40] = 1, 1  # 24 of 30 against 10 of 20
    units = resampling.make_units(group)
    values = units.sums(np.stack([np.ones(50), outcome], axis=1))
    observed = abs(24 / 30 - 10 / 20)
    drawn = [
        np.abs(sums[:, 0, 1] / 30 - sums[:, 1, 1] / 20)
        for sums in resampling.permutation_sums(values, units, 20000, np.random.default_rng(0))
    ]
    hits = np.arange(14, 31)  # of the 34 hits, how many fall into the first group
    apart = np.abs(hits / 30 - (34 - hits) / 20)
    exact = hypergeom(50, 34, 30).pmf(hits)[apart >= observed - 1e-9].sum()
    assert resampling.permutation_p(observed, np.concatenate(drawn)) == pytest.approx(exact, abs=0.005)


def test_adjusted_difference_of_two_groups_is_that_of_mantel_and_haenszel():
    count = np.array([[50.0, 10, 5, 3], [20.0, 30, 0, 9]])
    total = np.array([[45.0, 5, 1, 2], [15.0, 12, 0, 4]])
    means = resampling.adjusted_means(count, total)
    weights, differences = [], []
    for label in (0, 1, 3):  # the second group lacks label 2
        one, two = count[:, label]
        weights.append(one * two / (one + two))
        differences.append(total[0, label] / one - total[1, label] / two)
    assert means[0] - means[1] == pytest.approx(np.average(differences, weights=weights))
    assert np.average(means, weights=count.sum(axis=1)) == pytest.approx(total.sum() / count.sum())


def test_adjusted_means_find_what_groups_add_whatever_their_labels():
    easy, added = np.array([0.9, 0.5, 0.3]), np.array([0.0, -0.1, 0.05])
    count = np.array([[80.0, 10, 10], [10.0, 50, 40], [5.0, 5, 60]])
    means = resampling.adjusted_means(count, count * (easy + added[:, None]))
    assert means - means[0] == pytest.approx(added)
    several = resampling.adjusted_means(np.stack([count, count]), np.stack([count * 0.5, count * easy]))
    assert several == pytest.approx(np.stack([np.full(3, 0.5), several[1]])) and np.ptp(several[1]) < 1e-6


def test_groups_without_a_common_label_are_not_comparable():
    assert resampling.pair_scale(np.array([[5.0, 0], [0.0, 5]])) is None
    scale = resampling.pair_scale(np.array([[50.0], [200.0]]))
    assert scale[0, 1] == pytest.approx(np.sqrt(1 / 50 + 1 / 200))


def test_intervals_of_many_gaps_are_wider_than_that_of_one():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 0.02, (20000, 6))
    two = resampling.gap_interval(np.full(2, 0.5), draws[:, :2])[0, 1]
    assert two == pytest.approx(1.96 * 0.02 * np.sqrt(2), rel=0.03)
    # Tukey's studentized range: 4.03 standard deviations hold all pairs of six normal means at 95%.
    assert resampling.gap_interval(np.full(6, 0.5), draws)[0, 1] == pytest.approx(4.03 * 0.02, rel=0.03)


def test_a_share_of_all_gets_an_interval_though_resampling_can_not_vary_it():
    draws = resampling.share_draws(np.ones((4000, 1)), np.array([40.0]), np.array([40.0]), np.random.default_rng(0))
    low, high = resampling.interval(np.ones(1), draws)
    assert high[0] == 1 and low[0] == pytest.approx(0.939, abs=0.01)  # Jeffreys: beta.ppf(0.025, 40.5, 0.5)


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less():
    assert resampling.holm(np.array([0.03, 0.005, 0.5, 0.02])) == pytest.approx([0.06, 0.02, 0.5, 0.06])
    assert resampling.holm(np.array([0.6, 0.7])) == pytest.approx([1, 1])
    assert resampling.holm([0.04]) == pytest.approx([0.04])
    assert len(resampling.holm(np.array([]))) == 0
