"""Trainings repeated with several seeds: figures by hand, intervals against theory, and noise that stays noise."""

import numpy as np
import pytest

from fer_keras.errors import ConfigError, DataError
from fer_keras.evaluation.fairness import bootstrap_gap
from fer_keras.evaluation.repeated import NOISE, judge_repeated


def answers(rates, seeds, n, rng):
    """(correct bool (v, s, 2n), groups): rates[v] = (accuracy of a, of b); every training has chance of its own."""
    groups = np.repeat(["a", "b"], n)
    drawn = rng.uniform(size=(len(rates), seeds, 2 * n))
    return drawn < np.repeat(np.array(rates), n, axis=1).reshape(len(rates), 1, 2 * n), groups


def test_figures_are_those_worked_out_by_hand():
    groups = np.array(["b", "a", "a", "b", "a", "a", "c"])
    correct = np.array([[[1, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 1, 0]]], bool)
    found = judge_repeated(correct, groups, min_n=2, repeats=200)
    assert found.groups == ("a", "b", "c")
    assert found.compared.tolist() == [True, True, False]
    assert found.means.tolist() == [[7 / 8, 1 / 4, 1 / 2]]
    figures = found.describe(0)
    assert figures["accuracy"]["mean"] == pytest.approx(9 / 14)
    assert figures["accuracy"]["by_seed"] == pytest.approx([5 / 7, 4 / 7])
    assert figures["accuracy"]["std"] == pytest.approx(np.std([5 / 7, 4 / 7], ddof=1))
    assert figures["gap"]["mean"] == pytest.approx(7 / 8 - 1 / 4)
    assert figures["gap"]["by_seed"] == pytest.approx([3 / 4 - 1 / 2, 1.0])
    assert (figures["gap"]["worst_group"], figures["gap"]["best_group"]) == ("b", "a")
    assert figures["worst"]["mean"] == pytest.approx(1 / 4)
    assert {name: group["n"] for name, group in figures["groups"].items()} == {"a": 4, "b": 2, "c": 1}


def test_what_is_plain_is_shown_however_many_differences_are_asked_for():
    correct, groups = answers([(0.1, 0.1), *[(0.95, 0.95)] * 30], 1, 60, np.random.default_rng(0))
    found = judge_repeated(correct, groups, repeats=100, comparisons=90)
    lines = found.differences(0, range(1, 31), ("accuracy", "a", "b"))
    assert all(entry["shown"] and entry["p_holm"] < 0.05 for line in lines for entry in line)
    with pytest.raises(ConfigError, match="100 repeats or more, got 99"):
        judge_repeated(correct, groups, repeats=99)


def test_one_training_has_the_interval_of_theory_and_the_gap_of_the_bias_report():
    correct, groups = answers([(0.8, 0.6)], 1, 400, np.random.default_rng(0))
    figures = judge_repeated(correct, groups, repeats=4000).describe(0)
    rate = correct[0, 0, :400].mean()
    error = np.sqrt(rate * (1 - rate) / 400)
    a = figures["groups"]["a"]
    assert (a["high"] - a["low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert a["std"] is None
    other = bootstrap_gap(correct[0, 0], groups, repeats=4000, seed=1)
    assert figures["gap"]["mean"] == pytest.approx(other["gap"])
    assert (figures["gap"]["low"], figures["gap"]["high"]) == pytest.approx((other["low"], other["high"]), abs=0.01)


def test_the_chance_of_seeds_widens_the_interval_to_that_of_theory():
    """Faces that all are right or all wrong in a training: what varies is the training alone, s / sqrt(seeds)."""
    rng = np.random.default_rng(2)
    rates = rng.uniform(0.4, 0.9, 12)
    correct = np.arange(1000)[None, :] < (rates * 1000)[:, None]
    correct = np.stack([np.concatenate([line, line]) for line in correct])[None]
    groups = np.repeat(["a", "b"], 1000)
    found = judge_repeated(correct, groups, repeats=4000).describe(0)["accuracy"]
    of_faces = (correct[0].mean(axis=0).std() ** 2 / 2000) ** 0.5
    of_seeds = found["std"] / np.sqrt(12)
    assert of_seeds > 3 * of_faces
    # Nearly all is of the seeds, whose spread is known from 12 of them: Student's t with 11 degrees of freedom.
    assert (found["high"] - found["low"]) / 2 == pytest.approx(2.2 * np.hypot(of_faces, of_seeds), rel=0.12)


def test_a_difference_is_found_and_paired_differences_are_narrower_than_their_parts():
    rng = np.random.default_rng(3)
    hard = rng.uniform(size=600)  # the same faces are hard for all
    groups = np.repeat(["a", "b"], 300)
    before = hard < np.where(groups == "a", 0.85, 0.55) + rng.normal(0, 0.01, (3, 1))
    after = hard < np.where(groups == "a", 0.80, 0.72) + rng.normal(0, 0.01, (3, 1))
    found = judge_repeated(np.stack([before, after]), groups)
    (line,) = found.differences(0, [1], ["gap", "worst", "b", "accuracy"])
    entries = {entry["figure"]: entry for entry in line}
    assert entries["gap"]["verdict"] == "gap is lower"
    assert entries["worst"]["verdict"] == "worst is higher"
    assert entries["gap"]["difference"] == pytest.approx(found.gap(found.means)[1] - found.gap(found.means)[0])
    assert entries["b"]["low"] < entries["b"]["difference"] < entries["b"]["high"]
    b = found.describe(0)["groups"]["b"]
    assert entries["b"]["high"] - entries["b"]["low"] < b["high"] - b["low"]
    assert all(entry["p_holm"] >= entry["p"] for entry in line)


def test_trainings_that_do_not_differ_are_called_noise():
    """Three variants of one accuracy each: nothing is shown in at least 19 of 20 draws."""
    quiet = 0
    for seed in range(20):
        correct, groups = answers([(0.7, 0.7)] * 3, 3, 200, np.random.default_rng(seed))
        lines = judge_repeated(correct, groups, repeats=1000, seed=seed).differences(0, [1, 2], ["accuracy", "gap"])
        quiet += all(entry["verdict"] == NOISE for line in lines for entry in line)
    assert quiet >= 19


@pytest.mark.parametrize(("variants", "seeds"), [(2, 2), (2, 3), (6, 3)])
def test_few_seeds_that_vary_much_are_not_called_a_difference(variants, seeds):
    """All have the same accuracy but for what each seed does (0.06): 5% of 100 tries is 5, and 11 are past chance (p < 0.02)."""
    rng, groups, alarms, held = np.random.default_rng(4), np.repeat(["a", "b"], 360), 0, 0
    for _ in range(100):
        hard = rng.uniform(size=720)  # the same faces are hard for all
        correct = hard + rng.normal(0, 0.1, (variants, seeds, 720)) < rng.normal(0.7, 0.06, (variants, seeds, 1))
        found = judge_repeated(correct, groups, repeats=400)
        ((entry,),) = found.differences(0, [1], ["accuracy"])
        alarms += entry["shown"]
        figures = found.describe(0)["accuracy"]
        held += figures["low"] <= 0.7 <= figures["high"]
    assert alarms <= 10
    assert held >= 89


def test_what_three_seeds_tell_is_shown_where_it_is_far_above_their_spread():
    rng, groups, told = np.random.default_rng(5), np.repeat(["a", "b"], 360), 0
    for _ in range(20):
        middle = np.array([0.5, 0.7, 0.7, 0.7])[:, None, None]
        correct = rng.uniform(size=720) < rng.normal(middle, 0.03, (4, 3, 1))
        (line,) = judge_repeated(correct, groups, comparisons=9).differences(0, [1], ["accuracy"])
        told += line[0]["shown"]
    assert told >= 19


def persons_in_every_group(persons, groups, rng):
    """(correct bool (2, 1, n), groups, persons) of two equally good variants, each with persons that it finds hard."""
    hard = rng.normal(0, 1.5, (2, persons, 1))
    correct = rng.uniform(size=(2, persons, groups)) < 1 / (1 + np.exp(-0.8 - hard))
    names = np.tile([f"group {index}" for index in range(groups)], persons)
    return correct.reshape(2, 1, -1), names, np.repeat([f"person {index}" for index in range(persons)], groups)


@pytest.mark.parametrize("compared", [True, False])
def test_persons_with_a_face_in_each_group_are_not_taken_for_as_many_persons_as_faces(compared):
    """5% of 100 tries is 5, and 11 are past chance (p < 0.02); as single faces they gave 25."""
    rng, alarms, held, of_gap = np.random.default_rng(6), 0, 0, 0
    chances = 1 / (1 + np.exp(-0.8 - np.random.default_rng(7).normal(0, 1.5, 10**5)))
    for _ in range(100):
        correct, groups, persons = persons_in_every_group(40, 8, rng)
        found = judge_repeated(correct, groups if compared else None, clusters=persons, min_n=1, repeats=400)
        assert found.units == "identities"
        alarms += found.differences(0, [1], ["accuracy"])[0][0]["shown"]
        of_gap += compared and found.differences(0, [1], ["gap"])[0][0]["shown"]
        figures = found.describe(0)["accuracy"]
        held += figures["low"] <= chances.mean() <= figures["high"]
    assert alarms <= 10 and of_gap <= 10
    assert held >= 89


def test_variants_that_agree_on_every_face_agree_on_as_many_persons_as_there_are():
    same, groups, persons = persons_in_every_group(40, 8, np.random.default_rng(0))
    whole = judge_repeated(same[[0, 0]], groups, clusters=persons, min_n=1)
    single = judge_repeated(np.arange(40).reshape(1, 1, 40).repeat(2, axis=0) > 9, None)
    highs = [found.differences(0, [1], ["accuracy"])[0][0]["high"] for found in (whole, single)]
    assert highs[0] == pytest.approx(highs[1], rel=0.2)


def judged_twice(rates, gains, n):
    """bool (2, s, n): seeds right on these shares of faces, and the same trainings judged in a way that is right on more."""
    hard = (np.arange(n) + 0.5) / n
    return np.stack([hard < np.array(each)[:, None] for each in (rates, np.add(rates, gains))])


def test_the_same_trainings_judged_in_two_ways_differ_by_seed_as_far_as_their_difference_does():
    """Student's t over five differences; seeds by themselves vary by 0.06, which moves both alike."""
    gains = np.array([0.02, 0.03, 0.01, 0.025, 0.015])
    correct = judged_twice([0.66, 0.70, 0.74, 0.78, 0.82], gains, 40_000)
    ((entry,),) = judge_repeated(correct, None, trainings=[4, 4], repeats=8000).differences(0, [1], ["accuracy"])
    of_faces = np.sqrt((correct[1].mean(axis=0) - correct[0].mean(axis=0)).var() / 40_000)
    expected = np.hypot(1.96 * of_faces, 2.776 * gains.std(ddof=1) / np.sqrt(5))
    assert entry["difference"] == pytest.approx(0.02)
    assert (entry["high"] - entry["low"]) / 2 == pytest.approx(expected, rel=0.1)
    assert entry["shown"] and entry["p"] < 0.02


def test_trainings_that_are_judged_twice_count_once():
    rng, rates = np.random.default_rng(0), [0.5, 0.6, 0.8]
    others = rng.uniform(size=(2, 3, 900)) < 0.7
    once = np.concatenate([judged_twice(rates, 0, 900)[:1], others])
    twice = np.concatenate([once, judged_twice(rates, 0.01, 900)[1:]])
    expected = judge_repeated(once, None)
    found = judge_repeated(twice, None, trainings=[0, 1, 2, 0])
    assert [found.describe(variant) for variant in range(3)] == [expected.describe(variant) for variant in range(3)]
    assert found.differences(0, [1, 2], ["accuracy"]) == expected.differences(0, [1, 2], ["accuracy"])


def test_the_same_trainings_judged_in_two_ways_are_seldom_called_different_where_they_are_not():
    """Each way does to each training what it does (0.01), nothing in the mean: 5% of 100 is 5, 11 are past chance."""
    rng, alarms = np.random.default_rng(8), 0
    for _ in range(100):
        hard, middle = rng.uniform(size=900), rng.normal(0.75, 0.03, 3)
        rates = np.stack([middle, middle + rng.normal(0, 0.01, 3)])[..., None]
        correct = hard + rng.normal(0, 0.05, (1, 3, 900)) + rng.normal(0, 0.03, (2, 3, 900)) < rates
        found = judge_repeated(correct, None, trainings=[0, 0], repeats=400)
        alarms += found.differences(0, [1], ["accuracy"])[0][0]["shown"]
    assert alarms <= 10


def test_faces_that_are_not_compared_by_group_have_an_accuracy_and_no_gap():
    correct, _ = answers([(0.7, 0.6), (0.7, 0.7)], 2, 60, np.random.default_rng(0))
    found = judge_repeated(correct, None, repeats=200)
    assert list(found.describe(0)) == ["accuracy"]
    assert found.describe(0)["accuracy"]["by_seed"] == pytest.approx(correct[0].mean(axis=1).tolist())


def shown(figure, before, after, n, tries):
    """In how many of `tries` a difference is shown between trainings of these true accuracies by group, n faces each."""
    groups = np.repeat([f"group {index}" for index in range(len(before))], n)
    rates, rng = np.repeat([before, after], n, axis=1)[:, None], np.random.default_rng(1)
    drawn = (rng.uniform(size=rates.shape) < rates for _ in range(tries))
    judged = (judge_repeated(correct, groups, repeats=200).differences(0, [1], [figure]) for correct in drawn)
    return sum(line[0]["shown"] for (line,) in judged)


def test_variants_without_a_gap_are_not_told_apart_by_the_gap_that_chance_gives_them():
    """The range of nine shares varies, and is larger, where accuracy is nearer a half; 5% of 60 is 3."""
    assert shown("gap", [0.95] * 9, [0.6] * 9, 100, 60) <= 3
    assert shown("gap", [0.8] * 9, [0.8] * 9, 100, 60) <= 3
    assert shown("gap", [0.95] * 4, [0.6] * 4, 100, 60) <= 3
    assert shown("gap", [0.9] * 2, [0.6] * 2, 200, 60) <= 3


def test_a_large_difference_in_gap_is_shown():
    assert shown("gap", [0.85, 0.55], [0.7, 0.7], 200, 20) >= 18
    assert shown("gap", [0.85] * 8 + [0.55], [0.85] * 9, 100, 20) >= 14


def test_the_lowest_of_nine_level_groups_is_not_called_worse_than_one_low_group():
    """The worst group of both is right on 80%, but the lowest of nine such shares is lower by chance; 5% of 60 is 3."""
    assert shown("worst", [0.8] * 9, [0.8] + [0.95] * 8, 100, 60) <= 3
    assert shown("worst", [0.8] * 9, [0.5] + [0.8] * 8, 100, 20) >= 14


def test_intervals_hold_their_own_estimate():
    """Nine groups of equal figures in both variants: gaps of 0 that differ by 0. And one that is always right."""
    groups = np.repeat([f"group {index}" for index in range(9)], 100)
    correct = np.stack([np.tile(np.arange(100) < right, 9) for right in (95, 60, 100)])[:, None]
    lines = judge_repeated(correct, groups).differences(0, [1, 2], ["accuracy", "gap", "worst", "group 0"])
    assert all(entry["low"] <= entry["difference"] <= entry["high"] for line in lines for entry in line)
    assert [line[1]["difference"] for line in lines] == [0, 0]
    assert [line[1]["verdict"] for line in lines] == [NOISE, NOISE]
    assert lines[0][2]["verdict"] == "worst is lower"


def test_a_group_that_is_always_named_right_has_an_interval_all_the_same():
    """Three in a hundred is about what none in a hundred leaves open (the rule of three)."""
    correct = np.ones((1, 2, 200), bool)
    correct[:, :, :60] = False
    figures = judge_repeated(correct, np.repeat(["a", "b"], 100)).describe(0)["groups"]
    assert (figures["b"]["mean"], figures["b"]["high"]) == (1, 1)
    assert 0.95 < figures["b"]["low"] < 0.99


def test_one_group_or_groups_too_small_are_refused():
    correct = np.ones((1, 1, 40), bool)
    with pytest.raises(DataError, match="two groups of 30 test faces or more, got a 35, b 5; add test faces, or lower --min-n"):
        judge_repeated(correct, np.array(["a"] * 35 + ["b"] * 5))


def test_groups_that_happen_to_be_level_have_the_uncertain_gap_of_groups_that_are_nearly_so():
    groups = np.repeat(["f", "m"], 30)
    level, nearly = (np.concatenate([np.arange(30) < 24, np.arange(30) < 24 + more]) for more in (0, 1))
    found = judge_repeated(np.array([[level], [nearly]]), groups)
    tied, other = (found.describe(variant)["gap"] for variant in range(2))
    assert tied["mean"] == 0
    assert tied["high"] == pytest.approx(-tied["low"])
    assert tied["high"] == pytest.approx(other["high"] - other["mean"], rel=0.15)
    assert bootstrap_gap(level, groups)["high"] == pytest.approx(tied["high"], rel=0.15)


def test_the_gap_of_level_groups_is_as_uncertain_as_that_of_the_smallest_of_them():
    groups = np.repeat(["a", "b", "c"], [400, 400, 20])
    level = np.arange(820) % 5 > 0
    widths = [bootstrap_gap(level[groups != left_out], groups[groups != left_out])["high"] for left_out in "ac"]
    assert bootstrap_gap(level, groups)["high"] > 0.9 * widths[0] > 2 * widths[1] > 0


@pytest.mark.parametrize("few", [1, 2, 3])
def test_variants_that_differ_on_a_face_or_two_are_not_called_different(few):
    """Even where all of three are in one direction: of coins that happens one time in four."""
    for seed in range(20):
        correct = np.tile(np.arange(200) % 10 < 7, (2, 1, 1))
        correct[1, 0, 10 * np.arange(few)] = False
        found = judge_repeated(correct, np.repeat(["a", "b"], 100), repeats=400, seed=seed)
        ((entry,),) = found.differences(0, [1], ["accuracy"])
        assert entry["difference"] == pytest.approx(-few / 200)
        assert not entry["shown"] and entry["high"] > 0


@pytest.mark.parametrize("figure", ["accuracy", "a"])
def test_variants_that_agree_on_every_face_may_differ_on_others_the_less_the_more_faces_there_are(figure):
    high = []
    for n in (15, 150):
        same, groups = answers([(0.7, 0.6)], 1, n, np.random.default_rng(0))
        found = judge_repeated(np.concatenate([same, same]), groups, min_n=10)
        ((entry,),) = found.differences(0, [1], [figure])
        assert (entry["difference"], entry["shown"], entry["verdict"]) == (0, False, NOISE)
        assert entry["p"] > 0.9
        assert entry["low"] == pytest.approx(-entry["high"], rel=0.35)
        high.append(entry["high"])
    faces = 2 if figure == "accuracy" else 1
    assert 1 / (15 * faces) < high[0] < 8 / (15 * faces)  # none of n: up to about 3 of n at 95%
    assert high[1] < high[0] / 5


def test_where_variants_agree_on_one_group_only_the_accuracy_over_all_is_what_the_others_say():
    rng = np.random.default_rng(0)
    first, groups = answers([(0.7, 0.6)], 1, 60, rng)
    second = first.copy()
    second[..., :60] = rng.permuted(second[..., :60], axis=-1)
    found = judge_repeated(np.concatenate([first, second]), groups)
    (a, b, both) = found.differences(0, [1], ["a", "b", "accuracy"])[0]
    assert b["low"] < 0 == b["difference"] < b["high"] < a["high"] - a["difference"]
    assert both["high"] - both["difference"] == pytest.approx((a["high"] - a["difference"]) / 2, rel=0.1)


@pytest.mark.parametrize(("persons", "faces"), [(3, 20), (5, 12), (10, 6)])
def test_figures_of_a_few_persons_hold_the_truth_as_often_as_they_say(persons, faces):
    """Two equal groups, persons' shares vary by 1.5 in the logit: 95 of 100, and 89 are past chance; of 3 it was 69."""
    rng, held, level, alarms = np.random.default_rng(0), 0, 0, 0
    truth = (1 / (1 + np.exp(-1.8 - rng.normal(0, 1.5, 10**5)))).mean()
    person = np.concatenate([np.repeat(np.arange(150), 2), np.repeat(150 + np.arange(persons), faces)])
    groups = np.where(person < 150, "many", "few")
    for _ in range(100):
        chances = 1 / (1 + np.exp(-1.8 - rng.normal(0, 1.5, (2, 1, 150 + persons))))
        correct = rng.random((2, 3, len(person))) < chances[..., person]
        found = judge_repeated(correct, groups, clusters=person.astype(str), repeats=200, comparisons=1)
        figures = found.describe(0)
        held += figures["groups"]["few"]["low"] <= truth <= figures["groups"]["few"]["high"]
        level += figures["gap"]["low"] <= 0
        alarms += found.differences(0, [1], ["few"])[0][0]["shown"]
    assert held >= 89 and level >= 89 and alarms <= 10


def test_how_many_persons_are_behind_a_figure_is_told():
    groups = np.repeat(["a", "b", "c"], [60, 60, 60])
    person = np.concatenate([np.arange(60), np.repeat([100, 101, 102], 20), np.repeat([200, *range(201, 231)], [30] + [1] * 30)])
    correct = np.arange(180)[None, None] % 5 > 0
    found = judge_repeated(correct, groups, clusters=person.astype(str), repeats=100)
    told = {name: (entry["identities"], entry["most_of_one"]) for name, entry in found.describe(0)["groups"].items()}
    assert told == {"a": (60, 1), "b": (3, 20), "c": (31, 30)}
    (note,) = found.few_people()
    assert "b (3 people, one with 20 of 60 faces), c (31 people, one with 30 of 60 faces)" in note and "a (" not in note
    unknown = judge_repeated(correct, groups, clusters=np.full(180, ""), repeats=100)
    assert unknown.few_people() == [] and unknown.describe(0)["groups"]["a"]["identities"] is None


def test_groups_are_listed_by_the_numbers_in_their_names():
    ages = np.repeat(["10-19", "20-29", "3-9"], 40)
    found = judge_repeated(np.arange(120)[None, None] % 4 > 0, ages, repeats=100)
    assert list(found.describe(0)["groups"]) == ["3-9", "10-19", "20-29"]
    with pytest.raises(DataError, match="got 3-9 40, 10-19 40, 20-29 40; add"):
        judge_repeated(np.ones((1, 1, 120), bool), ages, min_n=50)
