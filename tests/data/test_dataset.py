import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_keras.data.dataset import DatasetWriter, FaceDataset, same_data, same_rows
from fer_keras.errors import DataError


def write(folder, count=4, **kwargs):
    columns = {
        "label": ["anger", "fear"] * (count // 2),
        "split": ["train"] * (count - 1) + ["test"],
        "kept": [True] * (count - 2) + [False, True],
        "reason": [""] * (count - 2) + ["blank", ""],
        "source": [f"{index}.png" for index in range(count)],
        "gender": ["unknown"] * count,
    }
    with DatasetWriter(folder, image_size=4, channels=3, **kwargs) as writer:
        for index in range(count):
            writer.add(np.full((4, 4, 3), index, np.uint8))
        return writer.finish(columns, labels=("anger", "fear"), group_columns=("gender",))


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "d")
    dataset = FaceDataset.load(tmp_path / "d")
    assert dataset.labels == ("anger", "fear")
    assert dataset.rows("train").tolist() == [0, 1]
    assert dataset.rows("test").tolist() == [3]
    assert dataset.rows().tolist() == [0, 1, 3]
    assert dataset.label_indices.tolist() == [0, 1, 0, 1]
    assert isinstance(dataset.faces, np.memmap)
    assert [int(face[0, 0, 0]) for face in dataset.faces] == [0, 1, 2, 3]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), DatasetWriter(tmp_path / "d", image_size=4, channels=1) as writer:
        writer.add(None)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_not_overwritten_by_accident(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(DataError, match="exists already"):
        write(tmp_path / "d")
    write(tmp_path / "d", count=6, overwrite=True)
    assert len(FaceDataset.load(tmp_path / "d").manifest) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_that_is_no_data_set_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(DataError, match="does not exist.*training.prepare"):
        FaceDataset.load(tmp_path / "missing")
    dataset = write(tmp_path / "d")
    (dataset.path / "faces.npy").unlink()
    with pytest.raises(DataError, match="lacks faces.npy"):
        FaceDataset.load(tmp_path / "d")


def test_files_that_disagree_are_refused(tmp_path):
    dataset = write(tmp_path / "d")
    description = json.loads((dataset.path / "dataset.json").read_text())
    (dataset.path / "dataset.json").write_text(json.dumps({**description, "image_size": 5}))
    with pytest.raises(DataError, match="shape"):
        FaceDataset.load(tmp_path / "d")
    (dataset.path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="prepare it again"):
        FaceDataset.load(tmp_path / "d")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="unknown split 'dev'.*train, validation, test"):
        write(tmp_path / "d").rows("dev")


def test_who_is_not_known_is_nobody_whatever_word_the_manifest_has(tmp_path):
    dataset = write(tmp_path / "d")
    dataset.manifest.assign(identity=["unknown", "n/a", "bob", ""]).to_csv(dataset.path / "manifest.csv", index=False)
    assert FaceDataset.load(dataset.path).manifest["identity"].tolist() == ["", "", "bob", ""]


@pytest.mark.parametrize("odd", ["seen\rtwice", "\r", "a\r\nb", 'quoted "\r"'])
def test_a_carriage_return_in_a_cell_comes_back(tmp_path, odd):
    columns = {"label": ["anger"] * 3, "split": ["train"] * 3, "kept": [True, False, True], "reason": ["", "blank", ""]}
    with DatasetWriter(tmp_path / "d", image_size=4, channels=1) as writer:
        for _ in range(3):
            writer.add(None)
        writer.finish(columns | {"comment": ["", odd, "x,y"], "source": [odd, "1.png", "2.png"]}, labels=("anger", "fear"))
    manifest = FaceDataset.load(tmp_path / "d").manifest
    assert manifest["comment"].tolist() == ["", odd, "x,y"]
    assert manifest["source"].tolist() == [odd, "1.png", "2.png"]
    assert manifest["kept"].tolist() == [True, False, True]
    assert manifest["row"].tolist() == [0, 1, 2]


def test_without_a_carriage_return_the_manifest_has_no_quotes_so_that_fingerprints_stay(tmp_path):
    text = (write(tmp_path / "d", count=2).path / "manifest.csv").read_text()
    assert text == (
        "row,label,split,kept,reason,source,gender\n0,anger,train,False,blank,0.png,unknown\n1,fear,test,True,,1.png,unknown\n"
    )


def test_what_can_not_be_read_back_takes_the_place_of_nothing(tmp_path):
    columns = {"label": ["anger"], "split": ["train"], "kept": [True], "reason": [""], "source": ["0.png"]}
    good = write(tmp_path / "d").fingerprint
    with DatasetWriter(tmp_path / "d", image_size=4, channels=1, overwrite=True) as writer:
        writer.add(None)
        with pytest.raises(DataError, match=r"written for .*/d can't be read back \(.*\), so what was there stays"):
            writer.finish(columns, labels=("anger", "fear"), info={"image_size": 5})
    assert FaceDataset.load(tmp_path / "d").fingerprint == good
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("rows", [[1, 3], (1, 3), np.array([1, 3], np.int32), np.array([1, 3], np.uint8)])
def test_a_subset_has_the_rows_that_were_named(tmp_path, rows):
    subset = write(tmp_path / "d").subset(rows)
    assert subset.rows.dtype == np.int64
    assert subset.rows.tolist() == [1, 3]


def test_a_mask_means_the_rows_where_it_is_true(tmp_path):
    dataset = write(tmp_path / "d")
    assert dataset.subset(dataset.manifest["label"] == "fear").rows.tolist() == [1, 3]
    assert dataset.subset([True, False, False, False]).rows.tolist() == [0]
    assert len(dataset.subset(np.zeros(4, bool))) == len(dataset.subset([])) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([True, False], r"a mask of .*/d is bool \(4,\), one for each row, got \(2,\)"),
        (np.ones((4, 1), bool), r"one for each row, got \(4, 1\)"),
        ([100, -1], "has no row -1; its 4 rows count from 0 to 3"),
        ([0, 4], "has no row 4"),
        ([0.0, 1.0], r"rows of .*/d are whole numbers \(m,\), got float64 \(2,\)"),
        ([[0, 1]], r"whole numbers \(m,\), got int64 \(1, 2\)"),
        (2, r"got int64 \(\)"),
        (["a"], "got <U1"),
    ],
)
def test_rows_that_the_data_set_does_not_have_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d").subset(rows)


# ---- what would be passed over afterwards


def finish(folder, labels=("anger", "fear"), **columns):
    """A data set of three faces, the second of them dropped, with other columns or labels."""
    plain = {"label": ["anger", "fear", "fear"], "split": ["train"] * 3, "kept": [True, False, True], "reason": ["", "blank", ""]}
    with DatasetWriter(folder, image_size=4, channels=1) as writer:
        for _ in range(3):
            writer.add(None)
        return writer.finish({**plain, "source": [""] * 3, **columns}, labels=labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [0, 1, 0]}, "row 0: unknown label 0; expected one of anger, fear"),
        ({"label": [0, 1, 0], "labels": (0, 1)}, "a label of a data set is a name, got 0; write numbers as text"),
        ({"label": ["anger", "fear", "Fear"]}, "row 2: unknown label 'Fear'"),
        ({"label": ["anger", "fear", None]}, "row 2: unknown label (None|nan)"),
        ({"labels": ("anger", "fear", "anger")}, "the label 'anger' is there 2 times; name each label once"),
        ({"labels": ("anger", "fear", "")}, "a label of a data set is a name, got ''"),
        ({"split": ["Train"] * 3}, "row 0: unknown split 'Train'; expected one of train, validation, test"),
        ({"split": ["train", "train", "val"]}, "row 2: unknown split 'val'"),
        ({"kept": ["yes"] * 3}, "row 0: kept is True or False, got 'yes'"),
        ({"kept": [True, None, True]}, "row 1: kept is True or False, got None"),
        ({"kept": [1, 0, 1]}, "row 0: kept is True or False, got 1"),
    ],
)
def test_what_would_be_passed_over_is_refused_before_it_is_written(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        finish(tmp_path / "d", **changes)
    assert list(tmp_path.iterdir()) == []


def test_dropped_rows_may_say_what_the_source_had_and_kept_ones_may_have_nothing(tmp_path):
    dataset = finish(tmp_path / "d", label=["anger", "smirk", ""], split=["", "dev", "test"], kept=np.array([True, False, True]))
    assert dataset.manifest["label"].tolist() == ["anger", "smirk", ""]
    assert dataset.rows().tolist() == [0, 2]
    assert dataset.label_indices.tolist() == [0, -1, -1]


# ---- fingerprints


def one_face(folder, value=7, size=4, channels=1, label="fear", **more):
    columns = {"label": [label], "split": ["train"], "kept": [True], "reason": [""], "source": ["0.png"]}
    with DatasetWriter(folder, image_size=size, channels=channels) as writer:
        writer.add(np.full((size, size, channels), value, np.uint8))
        return writer.finish(columns, labels=("anger", "fear"), **more)


def test_the_fingerprint_changes_with_pixels_size_and_colour(tmp_path):
    first, again = one_face(tmp_path / "a"), one_face(tmp_path / "b")
    assert first.fingerprint == again.fingerprint
    others = [one_face(tmp_path / "pixels", value=8), one_face(tmp_path / "size", size=8), one_face(tmp_path / "rgb", channels=3)]
    assert len({dataset.fingerprint for dataset in (first, *others)}) == 4
    for other in others:
        assert not same_data(first.fingerprint, other.fingerprint)
        assert same_rows(first.fingerprint, other.fingerprint)
    relabelled = one_face(tmp_path / "label", label="anger")
    assert not same_data(first.fingerprint, relabelled.fingerprint)
    assert not same_rows(first.fingerprint, relabelled.fingerprint)


def test_a_hash_of_other_faces_is_not_taken_over(tmp_path):
    first = one_face(tmp_path / "a")
    assert one_face(tmp_path / "b", value=8, info=first.info).info["faces_hash"] != first.info["faces_hash"]


def test_data_sets_of_before_keep_their_fingerprint(tmp_path):
    new = one_face(tmp_path / "a")
    description = json.loads((new.path / "dataset.json").read_text())
    (new.path / "dataset.json").write_text(json.dumps({key: description[key] for key in description if key != "faces_hash"}))
    old = FaceDataset.load(new.path).fingerprint
    assert old == hashlib.sha256((new.path / "manifest.csv").read_bytes()).hexdigest()[:16]
    assert same_data(old, old)
    assert same_data(old, new.fingerprint)  # a run of before goes on where its data was prepared again
    assert not same_data(old[::-1], new.fingerprint)
    assert not same_rows(None, new.fingerprint)


# ---- encodings


def test_class_names_are_read_as_they_were_written_whatever_the_locale(tmp_path):
    columns = {"label": ["glücklich"], "split": ["train"], "kept": [True], "reason": [""], "source": ["0.png"]}
    with DatasetWriter(tmp_path / "d", image_size=4, channels=1) as writer:
        writer.add(None)
        writer.finish(columns, labels=("glücklich", "müde"))
    code = "import sys; from fer_keras.data.dataset import FaceDataset; print(ascii(FaceDataset.load(sys.argv[1]).labels))"
    root = str(Path(__file__).resolve().parents[2])
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "d"], cwd=root, env=plain, capture_output=True, text=True)
    assert done.stdout.strip() == r"('gl\xfccklich', 'm\xfcde')", done.stderr[-500:]
