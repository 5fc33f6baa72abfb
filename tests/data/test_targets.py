"""Expected values worked out by hand from the rules in the FER+ paper and its official reader."""

import json
from pathlib import Path

import numpy as np
import pytest

from fer_keras.data.dataset import VOTE_COLUMNS, DatasetWriter
from fer_keras.data.targets import distribution, majority, plurality, select, training_targets
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import EMOTIONS

#       neutral happy surprise sad anger disgust fear contempt unknown NF
VOTES = np.array(
    [
        [10, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # all agree
        [5, 0, 0, 5, 0, 0, 0, 0, 0, 0],  # half is not a majority, and a tie is no plurality
        [4, 1, 0, 3, 1, 1, 0, 0, 0, 0],  # single votes are outliers: 4 of 7 is a majority
        [4, 0, 0, 3, 2, 1, 0, 0, 0, 0],  # 4 of 9 is a plurality only
        [2, 0, 0, 0, 0, 0, 0, 0, 8, 0],  # the majority does not know
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 10],  # no face
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # nothing but outliers
        [0, 0, 0, 0, 3, 3, 0, 0, 4, 0],  # merged, anger and disgust are 6 of 10
    ]
)


def make_dataset(folder, labels=EMOTIONS, label_map=None, **columns):
    count = len(VOTES)
    with DatasetWriter(folder, image_size=8, channels=1) as writer:
        for _ in range(count):
            writer.add(np.zeros((8, 8, 1), np.uint8))
        manifest = {
            "label": [labels[0]] * count,
            "split": ["train"] * count,
            "kept": [True] * count,
            "reason": [""] * count,
            "source": [""] * count,
            **{name: VOTES[:, column] for column, name in enumerate(VOTE_COLUMNS)},
            **columns,
        }
        return writer.finish(manifest, labels=labels, info={"label_map": label_map or {}})


def test_majority_needs_more_than_half_of_what_remains_and_an_emotion():
    assert majority(VOTES).tolist() == [0, -1, 0, -1, -1, -1, -1, -1]


def test_plurality_needs_strictly_most_votes_and_an_emotion():
    assert plurality(VOTES).tolist() == [0, -1, 0, 0, -1, -1, -1, -1]


def test_soft_targets_are_shares_of_the_votes_for_emotions():
    soft = distribution(VOTES)
    assert soft[1].tolist() == [0.5, 0, 0, 0.5, 0, 0, 0, 0]
    assert soft[2] == pytest.approx([4 / 7, 0, 0, 3 / 7, 0, 0, 0, 0])
    assert soft[4].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert soft[5].sum() == 0
    assert soft[6] == pytest.approx([1 / 8] * 8)


def test_votes_follow_the_label_map(tmp_path):
    labels = tuple(name for name in EMOTIONS if name not in ("disgust", "contempt"))
    dataset = make_dataset(tmp_path / "d", labels, {"disgust": "anger", "contempt": None})
    rows, chosen = select(dataset, np.arange(len(VOTES)), "majority")
    assert dict(zip(rows.tolist(), chosen.tolist(), strict=True)) == {
        0: 0,
        7: labels.index("anger"),
    }  # face 2: 4 of 9, now that anger and disgust are 2
    rows, targets = training_targets(dataset, np.arange(len(VOTES)), "soft")
    assert 5 not in rows
    assert np.allclose(targets.sum(axis=1), 1)


def test_auto_targets_are_soft_where_there_are_votes_and_hard_elsewhere(tmp_path):
    with_votes = make_dataset(tmp_path / "a")
    assert training_targets(with_votes, np.array([1]), "auto")[1].tolist() == [[0.5, 0, 0, 0.5, 0, 0, 0, 0]]
    with DatasetWriter(tmp_path / "b", image_size=8, channels=1) as writer:
        writer.add(np.zeros((8, 8, 1), np.uint8))
        columns = {"label": ["fear"], "split": ["train"], "kept": [True], "reason": [""], "source": [""]}
        without = writer.finish(columns, labels=("anger", "fear"))
    assert training_targets(without, np.array([0]), "auto")[1].tolist() == [[0, 1]]


def test_what_the_data_lacks_is_said(tmp_path):
    with DatasetWriter(tmp_path / "b", image_size=8, channels=1) as writer:
        writer.add(np.zeros((8, 8, 1), np.uint8))
        columns = {"label": ["fear"], "split": ["train"], "kept": [True], "reason": [""], "source": [""]}
        dataset = writer.finish(columns, labels=("anger", "fear"))
    with pytest.raises(DataError, match="no FER\\+ votes.*--votes"):
        select(dataset, np.array([0]), "majority")
    with pytest.raises(DataError, match="no FER2013 labels"):
        select(dataset, np.array([0]), "fer2013")
    with pytest.raises(ConfigError, match="unknown protocol 'best'.*majority"):
        select(dataset, np.array([0]), "best")


def official_reader(votes):
    """FER+'s own rule as its repository states it, one face at a time; an index, or None."""
    counts = [0 if count <= 1 else count for count in votes]
    most = max(counts)
    if most > 0.5 * sum(counts) and counts.index(most) < 8:
        return counts.index(most)
    return None


@pytest.mark.shared
def test_the_official_filter_keeps_the_published_number_of_faces(shared_dir):
    import pandas as pd

    table = pd.read_csv(shared_dir / "data/fer2013/train_valid.csv")
    votes = table[[name.removeprefix("votes_") for name in VOTE_COLUMNS]].to_numpy()
    kept = majority(votes)
    assert [None if index < 0 else index for index in kept] == [official_reader(row) for row in votes.tolist()]
    assert (kept[table["usage"] == "Training"] >= 0).sum() == 25057
    assert (kept[table["usage"] == "PublicTest"] >= 0).sum() == 3199


def test_dataset_files_are_what_the_contract_says(tmp_path):
    dataset = make_dataset(tmp_path / "d")
    assert sorted(path.name for path in Path(dataset.path).iterdir()) == ["dataset.json", "faces.npy", "manifest.csv"]
    assert json.loads((dataset.path / "dataset.json").read_text())["labels"] == list(EMOTIONS)
    assert np.load(dataset.path / "faces.npy").shape == (len(VOTES), 8, 8, 1)
