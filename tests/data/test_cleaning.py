import tracemalloc

import numpy as np
import pandas as pd
import pytest
from layouts import photograph, pictures, votes_for
from PIL import Image, ImageFilter

from fer_keras.data import cleaning
from fer_keras.data.dataset import VOTE_COLUMNS
from fer_keras.data.images import resize
from fer_keras.errors import ConfigError


def judged(
    faces, labels=None, splits=None, votes=None, protected=(), keep=(), drop=(), reasons=None, faceless=(), label_map=None
):
    """Reasons and notes for pictures given one by one, as lists."""
    count = len(faces)
    rows = pd.DataFrame({"label": labels or ["happy"] * count, "split": splits or ["train"] * count})
    if votes is not None:
        rows[list(VOTE_COLUMNS)] = votes
    dropped = cleaning.dropped_reasons(keep, drop)
    features = cleaning.Features()
    for face in faces:
        features.add(None if face is None else face[:, :, None])
    reasons, notes = list(reasons or [""] * count), [""] * count
    marks = np.isin(np.arange(count), list(protected)), np.isin(np.arange(count), list(faceless))
    stored = np.stack([np.zeros((48, 48), np.uint8) if face is None else resize(face[:, :, None], 48)[:, :, 0] for face in faces])
    cleaning.judge(
        rows,
        features,
        reasons,
        notes,
        dropped=dropped,
        protected=marks[0],
        faceless=marks[1],
        hashes=cleaning.perceptual_hashes(stored[..., None], np.arange(count)),
        label_map=label_map,
    )
    return reasons, notes


@pytest.fixture
def abc():
    return list(pictures(3))


def test_distinct_pictures_are_all_kept(abc):
    assert judged(abc) == (["", "", ""], ["", "", ""])


def test_of_exact_duplicates_the_first_stays_and_the_note_names_it(abc):
    a, b, _ = abc
    assert judged([b, a, a, b, a]) == (
        ["", "", "duplicate", "duplicate", "duplicate"],
        ["", "", "same as row 1", "same as row 0", "same as row 1"],
    )


def test_duplicates_with_different_labels_all_go(abc):
    a, b, c = abc
    reasons, _ = judged([a, b, a, c, a], labels=["happy", "happy", "sad", "sad", "happy"])
    assert reasons == ["conflicting_labels", "", "conflicting_labels", "", "conflicting_labels"]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "test"], ["leakage", ""]),
        (["test", "train"], ["", "leakage"]),
        (["validation", "train"], ["", "leakage"]),
        (["validation", "test"], ["leakage", ""]),
        (["train", "validation", "test", "train"], ["leakage", "leakage", "", "leakage"]),
    ],
)
def test_of_copies_in_several_splits_the_one_nearest_to_the_test_stays(abc, splits, expected):
    assert judged([abc[0]] * len(splits), splits=splits)[0] == expected


def test_protected_rows_are_noted_and_kept_while_their_copies_in_train_go(abc):
    a, _, _ = abc
    blank = np.full((48, 48), 7, np.uint8)
    reasons, notes = judged(
        [a, a, a, blank, blank], splits=["train", "validation", "validation", "validation", "train"], protected=[1, 2, 3]
    )
    assert reasons == ["leakage", "", "", "", "blank"]
    assert notes == ["same as row 1", "", "duplicate same as row 1", "blank", ""]


def test_a_dropped_copy_does_not_drop_the_one_that_is_left(abc):
    a, b, _ = abc
    reasons, _ = judged([a, a, b], reasons=["label_dropped", "", ""], labels=["", "happy", "sad"])
    assert reasons == ["label_dropped", "", ""]


def test_blank_and_nearly_constant_pictures_go(abc):
    speck = np.full((48, 48), 200, np.uint8)
    speck[0, 0] = 0  # standard deviation 4.16
    faint = 100 + np.arange(48 * 48).reshape(48, 48) % 12  # 0..11: standard deviation 3.45
    reasons, _ = judged([np.zeros((48, 48), np.uint8), faint.astype(np.uint8), speck, abc[0]])
    assert reasons == ["blank", "blank", "", ""]


def test_votes_for_no_face_go_and_ambiguous_ones_only_when_asked_for(abc):
    votes = [votes_for(NF=6, neutral=4), votes_for(anger=4, fear=4, sadness=2), votes_for(happiness=9, NF=1)]
    assert judged(abc, votes=votes)[0] == ["no_face", "", ""]
    assert judged(abc, votes=votes, drop=["ambiguous"])[0] == ["no_face", "ambiguous", ""]
    assert judged(abc, votes=votes, keep=["no_face"])[0] == ["", "", ""]


def test_votes_for_merged_emotions_count_together(abc):
    votes = [votes_for(happiness=4, anger=3, disgust=3), votes_for(NF=4, anger=3, disgust=3), votes_for(NF=4, anger=3, fear=3)]
    assert judged(abc, votes=votes, drop=["ambiguous"])[0] == ["ambiguous", "no_face", "no_face"]
    merged = {"disgust": "anger"}  # 6 of 10 for anger, 6 of 10 for anger, 4 of 10 for no face
    assert judged(abc, votes=votes, drop=["ambiguous"], label_map=merged)[0] == ["", "", "no_face"]


def test_faces_that_the_detector_did_not_find_go(abc):
    assert judged(abc, faceless=[1])[0] == ["", "no_face", ""]
    assert judged(abc, faceless=[1], keep=["no_face"])[0] == ["", "", ""]
    assert judged(abc, faceless=[1], protected=[1]) == (["", "", ""], ["", "no_face by the detector", ""])


@pytest.mark.parametrize("reason", ["blank", "duplicate", "conflicting_labels", "leakage"])
def test_every_reason_can_be_switched_off(abc, reason):
    a, b, c = abc
    blank = np.zeros((48, 48), np.uint8)
    faces = [blank, a, a, b, b, c, c]
    labels = ["happy", "happy", "happy", "happy", "sad", "happy", "happy"]
    splits = ["train"] * 5 + ["train", "test"]
    assert reason in judged(faces, labels, splits)[0]
    assert reason not in judged(faces, labels, splits, keep=[reason])[0]


def test_copies_with_another_label_are_no_duplicates_where_both_are_to_stay(abc):
    a, b, _ = abc
    faces, labels = [a, a, a, b, a, a], ["happy", "sad", "happy", "sad", "sad", "sad"]
    splits = ["train", "train", "train", "train", "train", "test"]
    reasons, notes = judged(faces, labels, splits, keep=["conflicting_labels", "leakage"])
    assert reasons == ["", "", "duplicate", "", "duplicate", ""]
    assert (notes[2], notes[4]) == ("same as row 0", "same as row 1")
    assert judged(faces[:4], labels[:4], keep=["conflicting_labels"], drop=["near_duplicate"])[0] == ["", "", "duplicate", ""]
    assert judged(faces, labels, splits, keep=["conflicting_labels"])[0] == ["leakage"] * 3 + [""] + ["leakage", ""]


def test_near_duplicates_are_found_under_light_blur_and_noise_only_when_asked_for():
    originals = [photograph(seed) for seed in range(40)]
    noise = np.random.default_rng(0).normal(0, 2, (48, 48))
    changed = [
        np.array(Image.fromarray(originals[0]).filter(ImageFilter.GaussianBlur(0.7))),
        np.clip(originals[1] * 0.8 + 20, 0, 255).astype(np.uint8),
        np.clip(originals[2] + noise, 0, 255).astype(np.uint8),
    ]
    assert set(judged(originals + changed)[0]) == {""}
    reasons, notes = judged(originals + changed, drop=["near_duplicate"])
    assert reasons == [""] * 40 + ["near_duplicate"] * 3
    assert notes[40:] == ["same as row 0", "same as row 1", "same as row 2"]


def test_near_duplicates_across_splits_are_leakage_when_asked_for():
    original = photograph(1)
    brighter = np.clip(original * 0.8 + 20, 0, 255).astype(np.uint8)
    faces, splits = [original, photograph(2), brighter], ["train", "train", "test"]
    assert judged(faces, splits=splits)[0] == ["", "", ""]
    assert judged(faces, splits=splits, drop=["near_duplicate"])[0] == ["leakage", "", ""]


def test_mirrored_copies_are_near_duplicates_and_shifted_ones_are_not():
    originals = [photograph(seed) for seed in range(40)]
    mirrored = np.clip(originals[0][:, ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    reasons, notes = judged([*originals, mirrored, np.roll(originals[1], 5, axis=1)], drop=["near_duplicate"])
    assert reasons == [""] * 40 + ["near_duplicate", ""]
    assert notes[40] == "same as row 0"


def test_near_duplicates_with_different_labels_all_go_as_equal_ones_do(abc):
    """Row 0 and its brighter copies, two equal ones with two labels, and one without a part in it."""
    original, other = photograph(1), photograph(2)
    brighter, darker = (np.clip(original * 0.8 + more, 0, 255).astype(np.uint8) for more in (20, 0))
    faces, labels = [original, other, darker, brighter, brighter], ["happy", "happy", "happy", "sad", "happy"]
    reasons, notes = judged(faces, labels, drop=["near_duplicate"])
    assert reasons == ["conflicting_labels", "", *["conflicting_labels"] * 3]
    assert notes == ["nearly the same as row 3", "", "nearly the same as row 3", "", ""]
    splits = ["train", "train", "train", "test", "train"]
    reasons, notes = judged(faces[:4], labels[:4], splits[:4], protected=[3], drop=["near_duplicate"])
    assert reasons == ["conflicting_labels", "", "conflicting_labels", ""]
    assert notes[3] == "conflicting_labels nearly the same as row 0"
    assert judged(faces[:4], labels[:4], keep=["conflicting_labels"], drop=["near_duplicate"])[0] == [
        "",
        "",
        "near_duplicate",
        "",
    ]


def test_the_hashes_say_which_areas_are_brighter_than_those_beside_and_above():
    """Of 72 x 72 pixels an area is one of 8 x 9, worked out by hand; of a mirror image, of the picture seen mirrored."""
    face = np.random.default_rng(0).integers(0, 256, (3, 72, 72, 1), np.uint8)
    face[1] = 100  # as bright everywhere: no area is brighter
    found = cleaning.perceptual_hashes(face, np.array([0, 1, 2]))
    for row, picture in enumerate(face[..., 0].astype(float)):
        expected = []
        for seen in (picture, picture[:, ::-1]):
            across = np.rint(seen.reshape(8, 9, 9, 8).mean(axis=(1, 3)))
            down = np.rint(seen.reshape(9, 8, 8, 9).mean(axis=(1, 3)))
            for bits in (across[:, 1:] > across[:, :-1], down[1:] > down[:-1]):
                expected.append(int("".join("01"[bit] for bit in bits.ravel().astype(int)), 2))
        assert found[row].tolist() == expected
    assert not found[1].any()
    colour = np.repeat(face, 3, axis=3)
    assert (cleaning.perceptual_hashes(colour, np.array([2, 0])) == found[[2, 0]]).all()


def test_rows_are_told_whose_near_copies_are_on_sides_that_equal_ones_are_not():
    near = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
    equal = np.array([0, 0, 1, 2, 2, 3, 4, 5, 6])
    sides = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1])
    across = cleaning.near_copies_across(near, equal, sides, np.array([True] * 8 + [False]))
    # Equal rows 0 and 1 are on both sides themselves; 2 is near to 0. The last pair has one row that does not count.
    assert np.flatnonzero(across).tolist() == [2]


@pytest.mark.parametrize("distance", [0, 1, 4, 8, 9])
def test_near_pairs_are_those_of_comparing_all_with_all(distance):
    random = np.random.default_rng(distance)
    centres = random.integers(0, 2**63, (12, 2), dtype=np.uint64)
    hashes = centres[random.integers(0, 12, 150)]
    for _ in range(3):
        hashes = hashes ^ np.uint64(1) << random.integers(0, 64, hashes.shape, dtype=np.uint64)
    expected = [
        (one, other)
        for one in range(150)
        for other in range(one + 1, 150)
        if all((int(hashes[one, half]) ^ int(hashes[other, half])).bit_count() <= distance for half in (0, 1))
    ]
    assert [tuple(pair) for pair in cleaning.near_pairs(hashes, distance).tolist()] == expected


@pytest.mark.parametrize("distance", [0, 2, 4])
def test_links_connect_the_rows_that_pairs_of_all_with_all_connect(distance):
    random = np.random.default_rng(distance)
    centres = random.integers(0, 2**63, (8, 2), dtype=np.uint64)
    hashes = centres[random.integers(0, 8, 120)]  # many are equal
    for half in (0, 1):
        some = np.flatnonzero(random.random(120) < 0.4)
        hashes[some, half] ^= np.uint64(1) << random.integers(0, 64, len(some), dtype=np.uint64)
    hashes = np.concatenate([hashes, hashes[random.permutation(120)]], axis=1)  # as if each were another one's mirror image
    expected = list(range(120))  # the first row that each one is connected with
    for one in range(120):
        for other in range(one):
            if any(
                all((int(hashes[one, side + half]) ^ int(hashes[other, seen + half])).bit_count() <= most for half in (0, 1))
                for side, seen, most in ((0, 0, distance), (0, 2, distance), (2, 0, distance), (2, 2, 0))
            ):
                low, high = sorted((expected[one], expected[other]))
                expected = [low if number == high else number for number in expected]
    groups = cleaning.connected(120, cleaning.near_links(hashes, distance))
    assert [int(np.argmax(groups == group)) for group in groups] == expected
    assert len(set(expected)) < 120


def test_many_equal_pictures_cost_little():
    face = pictures(1, size=8)[0]
    judged([face] * 2, drop=["near_duplicate"])  # imports would count
    tracemalloc.start()
    reasons, _ = judged([face] * 2000, drop=["near_duplicate"])  # 2 million pairs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons == ["", *["duplicate"] * 1999]
    assert peak < 20e6


def test_rows_connected_over_others_are_one_group():
    groups = cleaning.connected(6, np.array([[0, 2], [2, 5], [3, 4]]))
    assert groups[0] == groups[2] == groups[5]
    assert groups[3] == groups[4]
    assert len(set(groups.tolist())) == 3


def test_wrong_reasons_are_refused_with_the_choices():
    with pytest.raises(ConfigError, match="unknown cleaning reason 'ugly'; choose from unreadable"):
        cleaning.dropped_reasons(drop=["ugly"])
    with pytest.raises(ConfigError, match="unreadable can't be kept"):
        cleaning.dropped_reasons(keep=["unreadable"])
    with pytest.raises(ConfigError, match="both --keep and --drop"):
        cleaning.dropped_reasons(keep=["blank"], drop=["blank"])


def test_no_rows_at_all_are_no_trouble():
    assert judged([None, None], reasons=["unreadable", "unreadable"])[0] == ["unreadable", "unreadable"]
