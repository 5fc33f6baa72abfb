import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom, t

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


def test_persons_in_several_groups_are_drawn_whole():
    """Twelve persons with a face in each of two groups, a third of them in a third: all bring as many times what is theirs."""
    person, group = np.tile(np.arange(12), 3)[:28], np.repeat([0, 1, 2], 12)[:28]
    units = resampling.make_units(group, None, person.astype(str))
    values, persons = units.sums(np.eye(12)[person]), np.empty(28, int)
    persons[units.of_row] = person
    draws = resampling.bootstrap_sums(values, units, 3000, np.random.default_rng(0), persons)
    assert (draws[:, 0] == draws[:, 1]).all() and (draws[:, 0].sum(axis=1) == 12).all()
    assert draws[:, 0].var(axis=0).mean() == pytest.approx(11 / 12, rel=0.05)
    # The third group has nobody in (2/3)^12 of repeats, and then what it has in another.
    assert draws[:, 2].sum(axis=1).min() >= 1
    alike = (draws[:, 0, :4] == draws[:, 2, :4]).all(axis=1)
    assert 0 < (~alike).sum() < 3 * 3000 * (2 / 3) ** 12


def test_persons_who_are_in_one_group_each_change_no_draw():
    group, truth, person, outcome = people()
    units = resampling.make_units(group, truth, person)
    values = units.sums(outcome[:, None].astype(float))
    drawn = [resampling.bootstrap_sums(values, units, 200, np.random.default_rng(0), *whose) for whose in ((), (np.arange(60),))]
    assert np.array_equal(*drawn)


def test_permutations_exchange_groups_within_a_label_only():
    group, truth, _, _ = people()
    units = resampling.make_units(group, truth)
    values = units.sums(np.eye(4)[truth])
    expected = [[((group == index) & (truth == label)).sum() for label in range(4)] for index in range(3)]
    for sums in resampling.permutation_sums(values, units, 300, np.random.default_rng(0)):
        assert (sums == np.array(expected)).all()  # how many faces of a label a group has never changes


def test_faces_are_given_up_only_where_groups_have_too_few_people_of_like_numbers():
    rng = np.random.default_rng(0)

    def kept(sizes):
        """Faces that are kept of each person, of {group: numbers of faces}."""
        faces = [count for each in sizes for count in each]
        person = np.repeat(np.arange(len(faces)), faces)
        group = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])[person]
        truth = np.zeros(len(group), int)
        units = resampling.make_units(group, truth, person.astype(str))
        return np.bincount(person[resampling.comparable_faces(units, truth, rng)]).tolist()

    assert kept([[4, 6, 1], [5, 1, 1]]) == [4, 6, 1, 5, 1, 1]
    assert kept([[100, 1, 1, 1] * 9, [1] * 30]) == [1] * 66  # nearly all faces of the one group are of people like nobody else
    assert kept([[20, 1], [6, 1]]) == [7, 1, 6, 1]  # those with 20 are brought down to those with 4 to 7, and no further
    assert kept([[9, 9], [2, 3], [1, 1]]) == [1] * 6


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


def test_each_exchange_is_judged_by_its_own_uncertainty():
    """For two groups by what is more than expected of each label, and the root of the weights of Mantel and Haenszel."""
    count = np.array([[[50.0, 10], [20.0, 30]], [[46.0, 13], [24.0, 27]]])  # exchanged persons bring other numbers of faces
    total = np.array([[[40.0, 6], [15.0, 9]], [[35.0, 8], [20.0, 7]]])
    labels, expected = count.sum(axis=1), []
    for faces, hits, of_label in zip(count, total, labels, strict=True):
        excess = (hits[0] - faces[0] * hits.sum(axis=0) / of_label).sum()
        expected.append(abs(excess) / np.sqrt((faces[0] * faces[1] / of_label).sum()))
    assert resampling.largest_difference(count, total) == pytest.approx(expected)
    # A third group whose faces are of labels that no other has says nothing.
    alone = [np.pad(values, ((0, 0), (0, 1), (0, 1))) for values in (count, total)]
    alone[0][:, 2, 2], alone[1][:, 2, 2] = 20, 1
    assert resampling.largest_difference(*alone) == pytest.approx(expected)


def test_a_part_of_an_event_less_is_as_if_it_had_fallen_on_the_other_group():
    count, total = np.array([[50.0, 10], [20.0, 30]]), np.array([[40.0, 6], [5.0, 9]])
    for label in (0, 1):
        moved = total.copy()
        moved[:, label] += (-0.25, 0.25)
        found = resampling.largest_difference(count, total, 0.25)
        assert found == pytest.approx(resampling.largest_difference(count, moved))


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


def test_a_share_that_is_the_same_in_each_unit_is_no_point():
    rng = np.random.default_rng(0)
    draws = resampling.share_draws(np.full((4000, 1), 0.25), np.array([20.0]), np.array([80.0]), rng)
    low, high = resampling.interval(np.array([0.25]), draws)
    assert low[0] < 0.19 and high[0] > 0.31  # 20 of 80: +- 0.095


def wilson(hits, count):
    found = binomtest(hits, count).proportion_ci(method="wilson")
    return found.low, found.high


def test_persons_who_differ_by_chance_alone_are_worth_all_their_faces_but_for_student():
    """400 persons with two faces each: both right of 100, one of 200, none of 100, as coins would fall."""
    hits = np.repeat([2.0, 1.0, 0.0], [100, 200, 100])
    assert resampling.share_interval(hits, np.full(400, 2.0)) == pytest.approx(wilson(400, 800), abs=5e-4)


def test_faces_that_go_with_their_person_are_worth_one_each():
    """60 persons of whom all five faces are right or all wrong: the interval is that of 60 faces, or a little wider."""
    hits = np.repeat([5.0, 0.0], [24, 36])
    low, high = resampling.share_interval(hits, np.full(60, 5.0))
    assert (low, high) == pytest.approx(wilson(24, 60), abs=1e-3)
    assert resampling.share_interval(np.full(10, 3.0), np.full(10, 3.0)) == pytest.approx(wilson(10, 10))


@pytest.mark.parametrize("faces", [[4] * 10, [2, 2], [1, 30], [7, 1, 1, 40]])
def test_an_interval_over_persons_holds_that_over_faces_and_is_wider_the_fewer_they_are(faces):
    faces = np.array(faces, float)
    for share in (0, 0.5, 1):
        hits = np.ceil(faces * share)
        low, high = resampling.share_interval(hits, faces)
        inner = wilson(int(hits.sum()), int(faces.sum()))
        assert 0 <= low <= inner[0] + 1e-12 and inner[1] - 1e-12 <= high <= 1
    # Ten persons, two of four right each: 40 faces tell as much as 40 (z / t)^2 independent ones, of nine degrees of freedom.
    low, high = resampling.share_interval(np.full(10, 2.0), np.full(10, 4.0))
    worth = 40 * (1.959964 / t.ppf(0.975, 9)) ** 2
    assert (high - low) / 2 == pytest.approx(0.5 * 1.959964 / np.sqrt(worth + 1.959964**2), rel=1e-6)
    assert resampling.share_interval(np.full(2, 2.0), np.full(2, 4.0)) == pytest.approx(wilson(1, 2))


def test_intervals_over_persons_hold_the_truth_as_often_as_they_say():
    """Persons of ten faces whose own shares differ (intraclass correlation 0.2) around 0.7."""
    rng = np.random.default_rng(0)
    for persons in (3, 10, 40):
        hits = rng.binomial(10, rng.beta(2.8, 1.2, (500, persons)))
        found = [resampling.share_interval(one.astype(float), np.full(persons, 10.0)) for one in hits]
        assert np.mean([low <= 0.7 <= high for low, high in found]) > 0.92


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less():
    assert resampling.holm(np.array([0.03, 0.005, 0.5, 0.02])) == pytest.approx([0.06, 0.02, 0.5, 0.06])
    assert resampling.holm(np.array([0.6, 0.7])) == pytest.approx([1, 1])
    assert resampling.holm([0.04]) == pytest.approx([0.04])
    assert len(resampling.holm(np.array([]))) == 0
