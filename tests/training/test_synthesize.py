"""New pictures written out: how many, of what, and what stays as it was."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from tiny_runs import write_lopsided

from fer_keras.data.dataset import FaceDataset
from fer_keras.data.sources.table import Table
from fer_keras.errors import ConfigError
from training import synthesize


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the old data set, the new one), through the command."""
    folder = tmp_path_factory.mktemp("data")
    old = write_lopsided(folder / "old", ((20, 6), (4, 4), (5, 5)))
    assert synthesize.main(["--data", str(old.path), "--by", "label,gender", "--out", str(folder / "new"), "--seed", "7"]) == 0
    return old, FaceDataset.load(folder / "new")


def table(dataset):
    return pd.read_csv(dataset.path / "manifest.csv", keep_default_na=False)


def test_every_cell_of_the_training_faces_is_as_large_as_the_largest(made):
    old, new = (table(dataset).query("split == 'train'") for dataset in made)
    largest = max(Counter(zip(old["label"], old["gender"], strict=True)).values())
    assert set(Counter(zip(new["label"], new["gender"], strict=True)).values()) == {largest}


def test_what_was_there_stays_and_validation_and_test_get_nothing(made):
    old, new = made
    count = len(old.manifest)
    assert np.array_equal(new.faces[:count], old.faces)
    shared = [column for column in old.manifest.columns if column != "identity"]
    pd.testing.assert_frame_equal(table(new).loc[: count - 1, shared], table(old)[shared])
    assert (table(new).loc[count:, "split"] == "train").all()
    assert new.labels == old.labels


def test_a_new_picture_names_its_origin_and_what_was_done_to_it(made):
    old, new = made
    count = len(old.manifest)
    added = table(new).loc[count:]
    assert len(added)
    assert (table(new).loc[: count - 1, "origin"] == -1).all()
    for line in added.itertuples():
        origin = table(old).loc[line.origin]
        assert (line.label, line.gender, origin["split"]) == (origin["label"], origin["gender"], "train")
        assert table(new).loc[line.origin, "identity"] == line.identity != ""
        assert not np.array_equal(new.faces[line.row], old.faces[line.origin])
    changes = [dict(part.split("=") for part in text.split(" ")) for text in added["change"]]
    assert {key for change in changes for key in change} == set(synthesize.CHANGES)
    assert max(abs(float(change["rotate_deg"])) for change in changes) <= 12


def test_the_change_written_down_is_the_change_made(tmp_path):
    """Mirrored only: the picture is its origin read from right to left."""
    old = write_lopsided(tmp_path / "old", ((12, 6), (3, 3), (3, 3)))
    off = ["--rotate", "0", "--shift", "0", "--brightness", "0", "--contrast", "0"]
    assert synthesize.main(["--data", str(old.path), "--by", "gender", "--out", str(tmp_path / "new"), *off]) == 0
    new = FaceDataset.load(tmp_path / "new")
    added = table(new).query("origin >= 0")
    assert len(added) == 6
    assert set(added["change"]) == {"mirror=1"}
    for row, origin in zip(added["row"], added["origin"], strict=True):
        assert np.array_equal(new.faces[row], old.faces[origin][:, ::-1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--by", "sex"], "can't balance by sex; .* has label, gender"),
        (["--by", ","], "--by names no column"),
        (["--by", "gender", "--no-flip", "--rotate", "0", "--shift", "0", "--brightness", "0", "--contrast", "0"], "all off"),
        (["--by", "gender", "--out", "old"], "--out is the data set itself"),
        (["--by", "gender", "--out", "taken"], "taken exists already; choose another --out, or --overwrite"),
        (["--by", "gender", "--data", "nowhere"], "nowhere is not a prepared data set"),
        (["--by", "gender", "--data", "new"], "has new pictures already"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(made, tmp_path, monkeypatch, capsys, words, expected):
    import re

    monkeypatch.chdir(made[0].path.parent)
    (made[0].path.parent / "taken").mkdir(exist_ok=True)
    (made[0].path.parent / "taken" / "file").touch()
    given = [] if "--data" in words else ["--data", "old"]
    given += [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert synthesize.main([*given, *words]) == 2
    error = capsys.readouterr().err
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", synthesize.COLUMNS)
def test_a_group_called_as_what_new_pictures_have_is_refused(tmp_path, capsys, name):
    """Ethnic origin, say: its values would be lost."""
    remedy = f"{name}_group"
    with pytest.raises(ConfigError, match=f"can't make a column '{name}'; choose another name, such as {remedy}"):
        Table("faces.csv", tmp_path, {"image": "file", "label": "emotion", name: "ethnicity"})
    old = write_lopsided(tmp_path / "old", ((9, 3), (2, 2), (2, 2)))
    old.manifest.assign(**{name: "north"}).to_csv(old.path / "manifest.csv", index=False)
    (old.path / "dataset.json").write_text(json.dumps({**old.info, "group_columns": ["gender", name]}))
    assert synthesize.main(["--data", str(old.path), "--by", "gender", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert f"has a column '{name}'" in error and f"--columns {remedy}=COLUMN" in error
    assert not (tmp_path / "new").exists()


def test_a_face_of_nobody_gets_an_identity_whatever_word_says_nobody(tmp_path):
    """Else folds, which take such words for nobody, could part a new picture from its origin."""
    old = write_lopsided(tmp_path / "old", ((9, 3), (2, 2), (2, 2)))
    words = np.array(["", "unknown", "?", "NaN"])[np.arange(len(old.manifest)) % 4]
    old.manifest.assign(identity=words).to_csv(old.path / "manifest.csv", index=False)
    command = ["--data", str(old.path), "--by", "gender", "--out", str(tmp_path / "new")]
    assert synthesize.main(command) == 0
    lines = table(FaceDataset.load(tmp_path / "new"))
    added = lines.query("origin >= 0")
    assert len(added) == 6
    assert added["identity"].tolist() == [f"row{origin}" for origin in added["origin"]]
    assert lines.loc[added["origin"], "identity"].tolist() == added["identity"].tolist()


def test_folds_are_of_real_pictures_only(made, tmp_path):
    """A fold that is tested on a made picture would be tested on what it was made from."""
    from training.config import TrainConfig
    from training.folds import start

    before, after = made
    settings = TrainConfig(data=str(after.path), arch="cnn", layers=[4]).resolved()
    run = start(tmp_path / "folds", settings, after, folds=3, columns=[], use=["train"], protocol="label")
    tested = pd.read_csv(run.path / "folds.csv")["row"]
    assert sorted(tested) == sorted(before.rows("train"))
    assert any("made pictures" in note for note in run.plan["notes"])
