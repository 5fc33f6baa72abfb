from collections import Counter

import numpy as np
import pytest

from fer_keras.data import splits
from fer_keras.errors import ConfigError, DataError

LABELS = ["a"] * 100 + ["b"] * 40 + ["c"] * 20


def counts(strata, chosen):
    return Counter(zip(strata, chosen.tolist(), strict=True))


def test_each_label_is_divided_in_the_same_proportions():
    found = counts(LABELS, splits.stratified_split(LABELS, (70, 15, 15), seed=3))
    assert [found[name, "train"] for name in "abc"] == [70, 28, 14]
    assert [found[name, "validation"] for name in "abc"] == [15, 6, 3]
    assert [found[name, "test"] for name in "abc"] == [15, 6, 3]


def test_the_same_seed_gives_the_same_split_on_every_machine():
    chosen = splits.stratified_split(["a"] * 10, (50, 30, 20), seed=42)
    # RandomState(42).permutation(10) is 8 1 5 0 7 2 9 4 3 6 since numpy 1.0
    expected = np.empty(10, object)
    expected[[8, 1, 5, 0, 7]], expected[[2, 9, 4]], expected[[3, 6]] = "train", "validation", "test"
    assert chosen.tolist() == expected.tolist()
    assert chosen.tolist() != splits.stratified_split(["a"] * 10, (50, 30, 20), seed=43).tolist()


def test_identities_are_never_on_two_sides_and_proportions_are_still_met():
    random = np.random.default_rng(0)
    people = np.char.add("person", random.integers(0, 300, 2000).astype(str))
    labels = random.choice(["happy", "sad", "angry"], 2000, p=[0.7, 0.25, 0.05])
    chosen = splits.stratified_split(labels, (70, 15, 15), seed=1, groups=people)
    sides = {}
    for person, split in zip(people, chosen, strict=True):
        assert sides.setdefault(person, split) == split
    for label in ("happy", "sad", "angry"):
        of_label = chosen[labels == label]
        assert abs((of_label == "train").mean() - 0.70) < 0.03
        assert abs((of_label == "test").mean() - 0.15) < 0.03


def test_one_person_with_a_third_of_the_faces_does_not_spoil_the_split():
    people = ["bush"] * 300 + [f"person{index}" for index in range(600)]
    chosen = splits.stratified_split(["happy", "sad"] * 450, (70, 15, 15), seed=0, groups=people)
    assert abs((chosen == "train").mean() - 0.70) < 0.01
    assert set(chosen[:300]) == {"train"}


def test_faces_of_nobody_are_split_one_by_one():
    chosen = splits.stratified_split(LABELS, (70, 15, 15), seed=0, groups=[""] * len(LABELS))
    assert counts(LABELS, chosen)["c", "train"] == 14


def test_every_class_has_a_face_in_train():
    labels = ["rare"] * 2 + ["other"] * 50
    for seed in range(20):
        for groups in (None, ["one person"] * 2 + [str(index) for index in range(50)]):
            assert "train" in splits.stratified_split(labels, (10, 45, 45), seed, groups)[:2]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("cells", "faces", "fractions", "expected"),
    [
        (40, 10, (70, 15, 15), (280, 60, 60)),
        (40, 15, (80, 10, 10), (480, 60, 60)),
        (40, 3, (70, 15, 15), (80, 20, 20)),
        (40, 10, (70, 30, 0), (280, 120, 0)),
    ],
)
def test_what_no_stratum_can_divide_evenly_is_even_over_all(cells, faces, fractions, expected, known):
    """Of 1.5 and 1.5 faces a cell one split gets 2: not the same one in each."""
    strata = np.repeat(np.arange(cells), faces).astype(str)
    groups = [f"p{row}" for row in range(len(strata))] if known else None
    for seed in range(3):
        chosen = splits.stratified_split(strata, fractions, seed, groups).tolist()
        assert tuple(chosen.count(split) for split in ("train", "validation", "test")) == expected


@pytest.mark.parametrize(
    ("people", "faces", "classes", "fractions", "expected"),
    [(20, 8, 4, (80, 10, 10), (128, 16, 16)), (20, 4, 2, (70, 15, 15), (56, 12, 12))],
)
def test_people_of_one_class_each_leave_no_split_half_as_large(people, faces, classes, fractions, expected):
    person = np.repeat(np.arange(people), faces)
    for seed in range(3):
        chosen = splits.stratified_split((person % classes).astype(str), fractions, seed, person.astype(str)).tolist()
        assert tuple(chosen.count(split) for split in ("train", "validation", "test")) == expected


def test_a_split_that_got_no_face_is_told_where_it_was_to_have_some():
    (remark,) = splits.left_empty(["train"] * 9 + ["validation"], (80, 15, 5))
    assert remark.startswith("no face is in test (5% wanted): ")
    (remark,) = splits.left_empty(["train"] * 9, (80, 10, 10))
    assert remark.startswith("no face is in validation (10% wanted) and test (10% wanted): ")
    assert splits.left_empty(["train", "validation"], (80, 20, 0)) == []


def test_a_class_of_one_face_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match=r"class 'contempt' has only 1 face .*--map contempt="):
        splits.check_classes(["happy", "happy", "contempt"])


def test_what_became_of_the_other_faces_of_a_class_stands_in_its_error():
    with pytest.raises(DataError, match=r"class 'contempt' has only 1 face \(dropped: blank 3\) and can't be split"):
        splits.check_classes(["happy", "happy", "contempt"], dropped={"contempt": "blank 3", "happy": "blank 1"})


def test_classes_without_a_face_to_measure_by_are_told_for_each_split_that_has_faces():
    labels = ["a", "a", "a", "b", "b", "b", "c"]
    sides = ["train", "validation", "test", "train", "train", "test", "train"]
    assert splits.unmeasurable(labels, sides) == [
        "no validation face of b (3 elsewhere), c (1 elsewhere), so figures on validation say nothing about such faces",
        "no test face of c (1 elsewhere), so figures on test say nothing about such faces",
    ]
    assert splits.unmeasurable(["a", "b"], ["train", "train"]) == []
    assert splits.unmeasurable(["a", "b"], ["test", "test"]) == []


def test_classes_that_a_fold_tests_and_can_not_learn_are_told_with_their_folds():
    labels = ["a", "a", "b", "b", "c", "c"]
    first = np.array([True, False, False, False, True, True])
    told = splits.unlearnable_in_folds(labels, [(~first, first), (first, ~first)])
    assert [line.partition(",")[0] for line in told] == [
        "no training face of c in fold 1 (tests 2)",
        "no training face of b in fold 2 (tests 2)",
    ]
    half = np.arange(6) % 2 == 0
    assert splits.unlearnable_in_folds(labels, [(~half, half), (half, ~half)]) == []


def test_small_classes_are_told():
    heard = []
    splits.check_classes(["happy"] * 50 + ["sad"] * 3, heard.append)
    assert "sad (3)" in heard[0]


def test_cells_of_few_faces_are_split_by_label_alone_and_told():
    heard = []
    strata = splits.strata_of(["a", "a", "a", "b", "b"], [["m", "m", "f", "m", "m"]], 2, heard.append)
    assert strata.tolist() == ["a / m", "a / m", "a", "b / m", "b / m"]
    assert "a / f (1)" in heard[0]


@pytest.mark.parametrize("fractions", [(1, 1), (0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), ()])
def test_fractions_that_make_no_sense_are_refused(fractions):
    with pytest.raises(ConfigError, match="70,15,15"):
        splits.check_fractions(fractions)


def test_fractions_may_be_percents_and_a_split_may_be_empty():
    assert splits.check_fractions((70, 15, 15)) == pytest.approx((0.7, 0.15, 0.15))
    for groups in (None, [str(row) for row in range(160)]):
        assert set(splits.stratified_split(LABELS, (80, 20, 0), 0, groups)) == {"train", "validation"}


def test_folds_hold_every_row_once_and_are_stratified():
    folds = splits.k_folds(LABELS, 5, seed=1)
    assert sorted(np.concatenate(folds).tolist()) == list(range(160))
    for test in folds:
        assert Counter(np.array(LABELS)[test]) == {"a": 20, "b": 8, "c": 4}
    assert all(np.array_equal(*pair) for pair in zip(folds, splits.k_folds(LABELS, 5, seed=1), strict=True))


def test_folds_never_share_an_identity():
    people = np.random.default_rng(0).integers(0, 30, 160).astype(str)
    of_fold = [set(people[test]) for test in splits.k_folds(LABELS, 5, seed=1, groups=people)]
    assert sum(len(each) for each in of_fold) == len(set().union(*of_fold))


@pytest.mark.parametrize("folds", [1, 0, 161])
def test_more_folds_than_faces_or_fewer_than_two_are_refused(folds):
    with pytest.raises(ConfigError, match=f"got {folds}"):
        splits.k_folds(LABELS, folds)


def test_more_folds_than_identities_are_refused():
    with pytest.raises(ConfigError, match="2 to 3 folds for 3 identities, got 4"):
        splits.k_folds(["a"] * 9, 4, groups=["x", "y", "z"] * 3)


def test_a_class_with_fewer_faces_than_folds_is_told():
    heard = []
    folds = splits.k_folds(["a"] * 20 + ["b"] * 3, 5, tell=heard.append)
    assert "b (3)" in heard[0]
    assert sum(map(len, folds)) == 23


def test_what_is_left_of_a_class_does_not_count_as_the_class():
    """Six faces of b, of which the one woman is a stratum of its own: b is in every fold."""
    heard = []
    labels = ["a"] * 20 + ["b"] * 6
    folds = splits.k_folds(["a"] * 20 + ["b / m"] * 5 + ["b"], 5, tell=heard.append, labels=labels)
    assert heard == []
    assert all("b" in np.array(labels)[test] for test in folds)
    splits.k_folds(["a / m"] * 20 + ["b"] * 3, 5, tell=heard.append, labels=["a"] * 20 + ["b"] * 3)
    assert heard == ["fewer faces than folds, so absent from some folds: b (3)"]
