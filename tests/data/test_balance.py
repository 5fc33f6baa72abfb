"""Balancing: what each way makes of the cells, counted another way."""

from collections import Counter

import numpy as np
import pytest

from fer_keras.data.balance import CHANGES, NO_CELL, augmented_cells, balanced_weights, cells, levelled_cells
from fer_keras.data.dataset import DatasetWriter
from fer_keras.data.pipeline import Augmentation, alter, face_loader
from fer_keras.errors import ConfigError, DataError

SIZE = 16
OFF = {"flip": False, "rotate_deg": 0.0, "shift": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0, "erase": 0.0}
#: 12 of a, 5 of b, 2 of c, mixed, and three faces of nobody.
CELLS = np.array([*"aabacaabab", NO_CELL, *"aababaac", NO_CELL, "a", NO_CELL])
SIZES = Counter(cell for cell in CELLS.tolist() if cell)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path_factory.mktemp("data") / "d", image_size=SIZE, channels=3) as writer:
        for _ in range(8):
            writer.add(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        columns = {
            "label": ["anger", "fear"] * 4,
            "split": ["train"] * 8,
            "kept": [True] * 8,
            "reason": [""] * 8,
            "source": [""] * 8,
            "gender": ["female", "male", "unknown", "female"] * 2,
            "age_group": ["unknown"] * 8,
        }
        return writer.finish(columns, labels=("anger", "fear"), group_columns=("gender", "age_group"))


def test_a_face_whose_group_is_unknown_is_in_no_cell(dataset):
    made = cells(dataset, np.arange(4), ["label", "gender"])
    assert made.tolist() == ["anger x female", "fear x male", NO_CELL, "fear x female"]
    with pytest.raises(DataError, match="no face here has a known age_group"):
        cells(dataset, np.arange(4), ["age_group"])
    with pytest.raises(ConfigError, match="can't balance by sex; .* has label, gender, age_group"):
        cells(dataset, np.arange(4), ["sex"])


def test_weights_give_each_cell_the_same_total_and_leave_the_unknown_alone():
    weights = balanced_weights(CELLS)
    totals = {name: weights[name == CELLS].sum() for name in SIZES}
    assert list(totals.values()) == pytest.approx([19 / 3] * 3)
    assert weights[CELLS == NO_CELL].tolist() == [1, 1, 1]


def sizes(plan):
    return Counter(CELLS[plan.positions].tolist())


def test_augment_brings_every_cell_up_to_the_largest():
    plan = augmented_cells(CELLS, Augmentation(), seed=3)
    assert SIZES == {"a": 12, "b": 5, "c": 2}
    assert sizes(plan) == {"a": 12, "b": 12, "c": 12, NO_CELL: 3}
    assert plan.positions[: len(CELLS)].tolist() == list(range(len(CELLS)))
    assert not plan.made[: len(CELLS)].any()
    assert plan.made[len(CELLS) :].all()


@pytest.mark.parametrize(("target", "expected"), [(4, {"a": 12, "b": 5, "c": 4}), (20, {"a": 20, "b": 20, "c": 20})])
def test_augment_takes_a_target_and_never_drops_a_face(target, expected):
    assert sizes(augmented_cells(CELLS, Augmentation(), target=target)) == {**expected, NO_CELL: 3}


def test_balance_power_stops_on_the_way():
    """Half way is the geometric mean of the size and the target: sqrt(12 * 5) = 7.7, sqrt(12 * 2) = 4.9."""
    assert sizes(augmented_cells(CELLS, Augmentation(), power=0.5)) == {"a": 12, "b": 8, "c": 5, NO_CELL: 3}
    assert sizes(augmented_cells(CELLS, Augmentation(), power=0)) == {**SIZES, NO_CELL: 3}


def test_new_pictures_use_the_faces_of_a_cell_evenly_and_mirror_every_other():
    plan = augmented_cells(CELLS, Augmentation(), seed=1)
    made = plan.positions[plan.made]
    for name, least in (("b", 1), ("c", 5)):
        uses = Counter(made[CELLS[made] == name].tolist())
        assert set(uses) == set(np.flatnonzero(name == CELLS).tolist())
        assert min(uses.values()) >= least
        assert max(uses.values()) - min(uses.values()) <= 1
    mirrored = plan.changes[plan.made][:, CHANGES.index("mirror")]
    of_c = CELLS[made] == "c"
    assert mirrored[of_c].tolist().count(1) == 6  # each of the two: plain original, then mirrored, not, mirrored, ...


def test_strengths_bound_the_changes_and_a_seed_gives_them_again():
    strengths = Augmentation(rotate_deg=5, shift=0.05, brightness=0.1, contrast=0.3)
    plan, again, other = (augmented_cells(CELLS, strengths, target=200, seed=seed) for seed in (1, 1, 2))
    largest = np.abs(plan.changes).max(axis=0)
    assert np.all(largest <= np.float32([1, 5, 0.05, 0.05, 0.1, 0.3]))
    assert np.all(largest > np.float32([0.9, 4.8, 0.048, 0.048, 0.095, 0.29]))
    assert np.array_equal(plan.changes, again.changes)
    assert not np.array_equal(plan.changes, other.changes)


def test_with_the_mirror_alone_every_new_picture_is_mirrored_and_with_nothing_it_is_refused():
    plan = augmented_cells(CELLS, Augmentation(**{**OFF, "flip": True}))
    assert plan.made[len(CELLS) :].all()
    with pytest.raises(ConfigError, match="all off; set one"):
        augmented_cells(CELLS, Augmentation(**OFF))


def test_mean_flip_cuts_and_mirrors_to_the_mean():
    """The mean of 12, 5 and 2 is 6.3: six of each, those of a without repeat, b with one mirrored copy more, c as it comes."""
    plan = levelled_cells(CELLS, seed=5)
    assert sizes(plan) == {"a": 6, "b": 6, "c": 6, NO_CELL: 3}
    of_a = plan.positions[CELLS[plan.positions] == "a"]
    assert len(set(of_a.tolist())) == 6
    rows = Counter(zip(plan.positions.tolist(), plan.changes[:, 0].tolist(), strict=True))
    first, second = np.flatnonzero(CELLS == "c").tolist()
    assert [rows[first, 0], rows[first, 1], rows[second, 0], rows[second, 1]] == [2, 1, 2, 1]
    assert sum(rows[row, 1] for row in np.flatnonzero(CELLS == "b").tolist()) == 1
    assert not plan.changes[:, 1:].any()


# The pictures


def changed(faces, **changes):
    import tensorflow as tf

    line = [changes.get(name, 0) for name in CHANGES]
    return alter(tf.constant(faces, tf.float32), tf.constant([line] * len(faces), tf.float32)).numpy()


@pytest.mark.parametrize(
    ("changes", "by_hand"),
    [
        ({}, lambda faces: faces),
        ({"mirror": 1}, lambda faces: faces[:, :, ::-1]),
        ({"rotate_deg": 180}, lambda faces: faces[:, ::-1, ::-1]),
        ({"shift_x": 0.25}, lambda faces: np.concatenate([faces[:, :, 4:], faces[:, :, [-1] * 4]], axis=2)),
        ({"brightness": 0.2}, lambda faces: np.minimum(faces + 51.0, 255)),
    ],
)
def test_each_change_is_the_one_it_is_called(dataset, changes, by_hand):
    faces = dataset.faces[:4].astype(np.float32)
    assert np.abs(changed(faces, **changes) - by_hand(faces)).max() <= 1  # arithmetic in float32, rounded


def test_contrast_stretches_about_the_mean_and_stays_in_range(dataset):
    faces = dataset.faces[:4].astype(np.float32)
    mean = faces.mean(axis=(1, 2, 3), keepdims=True)
    expected = np.clip(np.round(mean + 1.5 * (faces - mean)), 0, 255)
    assert np.abs(changed(faces, contrast=0.5) - expected).max() <= 1


def test_a_loader_gives_a_repeated_row_as_it_was_and_changed(dataset):
    import tensorflow as tf

    rows = np.array([5, 2, 5])
    changes = np.zeros((3, len(CHANGES)), np.float32)
    changes[2, 0] = 1
    load = face_loader(dataset, rows, changes=changes)
    loaded = load(tf.range(3, dtype=tf.int64), tf.constant([0, 0], tf.int64)).numpy()
    assert np.array_equal(loaded[:2], dataset.faces[[5, 2]])
    assert np.array_equal(loaded[2], dataset.faces[5][:, ::-1])
