import csv
import lzma
import os
import subprocess
import sys
from pathlib import Path

import commandline
import numpy as np
import pandas as pd
import pytest
from layouts import VOTES_HEADER, class_folders, kaggle_csv, pictures, pixel_text, votes_csv, votes_for, write_rows
from PIL import Image

from fer_keras.data.dataset import VOTE_COLUMNS
from fer_keras.data.sources import base
from fer_keras.data.sources.ferplus import FerPlusFolders
from fer_keras.data.sources.folders import ClassFolders
from fer_keras.data.sources.kaggle_csv import KaggleCsv, parse_pixels
from fer_keras.data.sources.synthetic import DrawnFaces
from fer_keras.data.sources.table import Table
from fer_keras.data.synthetic import draw_faces
from fer_keras.errors import ConfigError, DataError

USAGE = ["Training", "Training", "PublicTest", "PrivateTest"]


def read_all(source, channels=1):
    table = source.read()
    return table, list(source.pictures(channels))


# ---- words and values


@pytest.mark.parametrize(
    ("words", "split"),
    [
        (["Training", "train", " TRAIN "], "train"),
        (["PublicTest", "val", "valid", "Validation"], "validation"),
        (["PrivateTest", "test", "Testing", "Test Set", "test_images", "dataset-test", "TestFaces"], "test"),
        ([""], ""),
    ],
)
def test_split_words_are_understood_in_any_case(words, split):
    assert {base.split_of(word, "x.csv") for word in words} == {split}


def test_an_unknown_split_word_is_an_error_naming_the_row():
    with pytest.raises(DataError, match=r"unknown split 'holdout' in x.csv, row 2; expected one of Training"):
        base.splits_of(["train", "holdout"], "x.csv")


@pytest.mark.parametrize(
    ("age", "group"),
    [("0", "0-2"), ("2.9", "0-2"), ("3", "3-9"), ("19", "10-19"), ("34", "30-39"), ("69", "60-69"), ("70", "70+"), ("101", "70+")]
    + [("2,9", "0-2"), ("34,5", "30-39"), ("(0, 2)", "0-2"), ("(60,69)", "60-69"), ("20-29", "20-29"), ("70 - 100", "70+")]
    + [(text, "unknown") for text in ("", "nan", "old", "-1", "1000", "1985", "(25, 32)", "25-32", "25, 32", "9-3", "0-200")],
)
def test_ages_become_groups_and_what_is_no_age_is_unknown(age, group):
    assert base.age_group(age) == group


def test_group_values_are_spelled_alike_and_never_guessed():
    assert [base.group_value("gender", text) for text in ("F", "woman", "MALE", "", "NaN", "2")] == [
        "Female",
        "Female",
        "Male",
        "unknown",
        "unknown",
        "2",
    ]
    assert base.group_value("club", " f ") == "f"


# ---- csv files


@pytest.mark.parametrize(
    ("header", "delimiter", "columns"),
    [
        ('image,"Age\r\n(years)",label', ",", ["image", "Age (years)", "label"]),
        ('"image\n";label', ";", ["image", "label"]),
        ('image;label;"Q1: happy, sad, angry, or other?"', ";", ["image", "label", "Q1: happy, sad, angry, or other?"]),
        ('"a;b;c","say ""x;y""",label', ",", ["a;b;c", 'say "x;y"', "label"]),
        ('size 5",label', ",", ['size 5"', "label"]),
    ],
)
def test_column_names_in_quotes_may_hold_line_ends_and_delimiters(tmp_path, header, delimiter, columns):
    cells = [str(index) for index in range(len(columns))]
    (tmp_path / "x.csv").write_text(f"{header}\n{delimiter.join(cells)}\n", newline="")
    file = base.CsvFile(tmp_path / "x.csv")
    assert file.columns == columns
    assert file.read(columns).to_numpy().tolist() == [cells]


def test_a_column_asked_for_that_is_there_twice_is_refused_with_its_places(tmp_path):
    path = write_rows(tmp_path / "x.csv", [["image", "Label", "label", "label", "Sex", "SEX"], list("abcdef")])
    file = base.CsvFile(path)
    assert file.read(["image", "Label", "Sex"]).to_numpy().tolist() == [["a", "b", "e"]]
    with pytest.raises(DataError, match="x.csv has the column 'label' 2 times, in places 3 and 4; rename all but one"):
        file.read(["label"])
    with pytest.raises(DataError, match="x.csv has the column 'sex' 2 times, in places 5 and 6"):
        file.read(["sex"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_byte_order_mark_and_stray_spaces_are_tolerated(tmp_path, delimiter):
    path = tmp_path / "x.csv"
    path.write_text(f" name {delimiter}Age\r\n a b {delimiter}3\r\n{delimiter}4\r\n", encoding="utf-8-sig", newline="")
    table = base.CsvFile(path).read(["age", "name"])
    assert table.to_dict("list") == {"age": ["3", "4"], "name": [" a b ", ""]}


@pytest.mark.parametrize("content", [b"name,age\ra,1\rb,2\r", b"name,age\na,1,\nb,2,\n", b"\r\nname,age\r\na,1\r\nb,2"])
def test_line_ends_of_any_kind_and_signs_at_the_end_are_tolerated(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    assert base.CsvFile(tmp_path / "x.csv").read(["name", "age"]).to_numpy().tolist() == [["a", "1"], ["b", "2"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["sep={}", '"sep={}"', "SEP={} "])
def test_the_first_line_by_which_excel_is_told_the_delimiter_is_no_row(tmp_path, first, delimiter, end):
    lines = [first.format(delimiter), f"name{delimiter}age", f"a{delimiter}1", ""]
    (tmp_path / "x.csv").write_text(end.join(lines), encoding="utf-8-sig", newline="")
    file = base.CsvFile(tmp_path / "x.csv")
    assert (file.delimiter, file.columns) == (delimiter, ["name", "age"])
    assert file.read(["name", "age"]).to_numpy().tolist() == [["a", "1"]]
    assert file.lines().to_numpy().tolist() == [["name", "age"], ["a", "1"]]


def test_the_delimiter_that_excel_is_told_stands_above_the_one_that_is_there_more_often(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"sep=;\nname, first, last;age\nDoe, John;3\n")
    table = base.CsvFile(tmp_path / "x.csv").read(["name, first, last", "age"])
    assert table.to_numpy().tolist() == [["Doe, John", "3"]]
    (tmp_path / "x.csv").write_bytes(b"sep=;\n")
    with pytest.raises(DataError, match="is empty"):
        base.CsvFile(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(b"sep=x,age\na,1\n")
    assert base.CsvFile(tmp_path / "x.csv").columns == ["sep=x", "age"]


def test_lines_of_nothing_but_signs_are_no_rows_and_are_not_counted(tmp_path):
    """As spreadsheets leave them below the last row, and between rows that were cleared."""
    (tmp_path / "x.csv").write_bytes(b'name,age\n,\na,1\n , \n\n"",\nb,\n' + b",\n" * 600)
    file = base.CsvFile(tmp_path / "x.csv")
    assert file.read(["name", "age"]).to_numpy().tolist() == [["a", "1"], ["b", ""]]
    assert sum(len(chunk) for chunk in file.chunks(["name"], rows=2)) == 2
    (tmp_path / "x.csv").write_bytes(b"name,age\n,,\n,,\na,1,\n,,\nb,2,x\n")
    with pytest.raises(DataError, match="row 2 has more than 2 cells"):
        list(base.CsvFile(tmp_path / "x.csv").chunks(["name"], rows=2))
    (tmp_path / "x.csv").write_bytes(b"name,age\n,\n,\n")
    with pytest.raises(DataError, match="no rows"):
        base.CsvFile(tmp_path / "x.csv").read(["name"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"name,age\n", "no rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary"),
        (b"\x1f\x8b\x08\x00abc", "binary"),
        (b'name,age\n"open,3\n', "can't be read as a csv"),
        (b"other,columns\n1,2\n", r"no column 'name'; it has other, columns"),
        ("name,age\na,1\nJosé,2\n".encode("cp1252"), r"is not UTF-8 \(see line 3\).*CSV UTF-8"),
        ("naïve,name,age\nx,a,1\n".encode("cp1252"), r"is not UTF-8 \(see line 1\)"),
        ("name,age\na,1\n".encode("utf-16"), r"is not UTF-8 \(it is UTF-16\)"),
        (b"name,age\na,1,x\nb,2\n", "row 1 has more than 2 cells"),
        (b"name,age\na,1,\nb,2,x\n", "row 2 has more than 2 cells"),
        (b"name,age\na,1\nb,2,x\n", "Expected 2 fields in line 3, saw 3"),
    ],
)
def test_a_csv_that_is_none_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        base.CsvFile(tmp_path / "x.csv").read(["name", "age"])
    assert "x.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_csv_and_a_folder_are_told(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        base.CsvFile(tmp_path / "x.csv")
    with pytest.raises(DataError, match="is a folder"):
        base.CsvFile(tmp_path)


# ---- Kaggle csv


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0 7 10 99 100 255", [0, 7, 10, 99, 100, 255]),
        ("  3 4 ", [3, 4]),
        ("3  4", [3, 4]),
        ("003 04\t5", [3, 4, 5]),
        ("1.0, 2.0", [1, 2]),
        ("[1 2]", [1, 2]),
    ],
)
def test_pixels_are_parsed_however_they_are_spaced(text, values):
    assert parse_pixels(text).tolist() == values


@pytest.mark.parametrize("text", ["", "256", "-1", "1000", "1.5", "a b", "1 nan", "é", "12345", "0255 300"])
def test_what_is_no_pixel_is_refused(text):
    with pytest.raises(ValueError, match=r"pixels|numbers"):
        parse_pixels(text)


def test_parsing_agrees_with_python_on_random_pictures():
    for picture in pictures(20, seed=5):
        assert parse_pixels(pixel_text(picture)).tolist() == picture.ravel().tolist()


@pytest.mark.parametrize(
    "header", [("emotion", "pixels", "Usage"), ("emotion", " Usage", " pixels"), ("Emotion", "Pixels", "usage")]
)
def test_the_kaggle_csv_is_read_with_its_split_and_emotions(tmp_path, header):
    faces = pictures(4)
    path = kaggle_csv(tmp_path / "fer2013.csv", faces, [0, 3, 6, 1], USAGE, ["emotion", "pixels", "Usage"])
    if header[1] == " Usage":  # icml_face_data.csv
        rows = list(csv.reader(path.open()))
        write_rows(path, [header, *([code, usage, pixels] for code, pixels, usage in rows[1:])])
    else:
        write_rows(path, [header, *list(csv.reader(path.open()))[1:]])
    table, found = read_all(KaggleCsv(path))
    assert table.rows["label"].tolist() == ["anger", "happiness", "neutral", "disgust"]
    assert table.rows["split"].tolist() == ["train", "train", "validation", "test"]
    assert table.labels == ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
    assert np.array_equal(np.stack([each.pixels[:, :, 0] for each in found]), faces)


def test_votes_give_the_label_and_fer2013s_stays_beside_it(tmp_path):
    path = kaggle_csv(tmp_path / "fer2013.csv", pictures(4), [0, 3, 6, 1], USAGE)
    votes = [votes_for(anger=3, fear=7), votes_for(neutral=5, happiness=5), votes_for(contempt=6, unknown=4), votes_for(NF=10)]
    table = KaggleCsv(path, votes_csv(tmp_path / "new.csv", votes, USAGE)).read()
    assert table.rows["label"].tolist() == ["fear", "neutral", "contempt", ""]
    assert table.rows["fer2013_label"].tolist() == ["anger", "happiness", "neutral", "disgust"]
    assert table.rows[list(VOTE_COLUMNS)].to_numpy().tolist() == votes
    assert len(table.labels) == 8


def test_rows_of_another_length_or_with_other_signs_are_dropped_one_by_one(tmp_path):
    path = kaggle_csv(tmp_path / "fer2013.csv", pictures(5), [0] * 5, ["Training"] * 5)
    rows = list(csv.reader(path.open()))
    rows[2][1] = rows[2][1][:500]
    rows[4][1] = rows[4][1].replace(" ", " x", 1)
    write_rows(path, rows)
    _, found = read_all(KaggleCsv(path))
    assert [each.reason for each in found] == ["", "wrong_shape", "", "unreadable", ""]
    assert "expected 2304 pixels" in found[1].note


def test_other_square_sizes_are_read_and_other_counts_are_an_error(tmp_path):
    path = kaggle_csv(tmp_path / "a.csv", pictures(3, size=96), [0, 1, 2], ["Training"] * 3)
    _, found = read_all(KaggleCsv(path))
    assert found[0].pixels.shape == (96, 96, 1)
    write_rows(path, [["emotion", "pixels", "Usage"], *([0, "1 " * 2303, "Training"] for _ in range(3))])
    with pytest.raises(DataError, match=r"expected 2304 pixels a row .* got 2303 in 3 of 3"):
        KaggleCsv(path).read()
    write_rows(path, [["emotion", "pixels", "Usage"], [0, "1 " * 2304, ""], [0, "1 " * 16, ""]])
    with pytest.raises(DataError, match="in most rows"):
        KaggleCsv(path).read()


@pytest.mark.parametrize("code", ["7", "-1", "", "bored"])
def test_an_unknown_emotion_code_names_row_and_codes(tmp_path, code):
    path = kaggle_csv(tmp_path / "a.csv", pictures(2), [0, code], ["Training"] * 2)
    with pytest.raises(DataError, match=rf"unknown label '{code}' in .*a.csv, row 2; expected a FER2013 code: 0 anger"):
        KaggleCsv(path).read()


def test_a_csv_without_its_columns_lists_those_there_are(tmp_path):
    path = write_rows(tmp_path / "a.csv", [["label", "picture"], [1, 2]])
    with pytest.raises(DataError, match="no column 'emotion'; it has label, picture"):
        KaggleCsv(path).read()


def test_votes_that_do_not_fit_the_faces_are_refused(tmp_path):
    path = kaggle_csv(tmp_path / "a.csv", pictures(4), [0, 1, 2, 3], USAGE)
    good = [votes_for(anger=10)] * 4
    with pytest.raises(DataError, match=r"new.csv has 3 rows, .*a.csv has 4"):
        KaggleCsv(path, votes_csv(tmp_path / "new.csv", good[:3], USAGE[:3])).read()
    with pytest.raises(DataError, match="differ in Usage, row 1"):
        KaggleCsv(path, votes_csv(tmp_path / "new.csv", good, USAGE[::-1])).read()
    with pytest.raises(DataError, match="lacks the vote columns contempt, unknown, NF"):
        KaggleCsv(path, write_rows(tmp_path / "few.csv", [VOTES_HEADER[:7], [1] * 7])).read()
    for cell in ("-1", "many", "1.5", "nan"):
        bad = [*good[:2], [cell, *good[2][1:]], good[3]]
        with pytest.raises(DataError, match="row 3: expected ten vote counts"):
            KaggleCsv(path, votes_csv(tmp_path / "new.csv", bad, USAGE)).read()


# ---- FER+ folders


def ferplus_folder(root, boxes=None, header=False):
    faces = pictures(6)
    boxes = boxes or ["(0, 0, 48, 48)"] * 6
    votes = [votes_for(happiness=6, neutral=4), votes_for(fear=10)] * 3
    for part, rows in (("FER2013Train", range(4)), ("FER2013Valid", range(4, 6))):
        (root / part).mkdir(parents=True)
        lines = [["name", "box", *VOTES_HEADER]] if header else []
        for row in rows:
            Image.fromarray(faces[row]).save(root / part / f"fer{row:07d}.png")
            lines.append([f"fer{row:07d}.png", boxes[row], *votes[row]])
        write_rows(root / part / "label.csv", lines)
    return faces


@pytest.mark.parametrize("header", [False, True])
def test_ferplus_folders_are_read_with_votes_and_splits(tmp_path, header):
    faces = ferplus_folder(tmp_path, header=header)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "FER2013Train" / "Thumbs.db").write_bytes(b"\0")
    table, found = read_all(FerPlusFolders(tmp_path))
    assert table.rows["label"].tolist() == ["happiness", "fear"] * 3
    assert table.rows["split"].tolist() == ["train"] * 4 + ["validation"] * 2
    assert table.rows["source"].tolist()[4] == "FER2013Valid/fer0000004.png"
    assert np.array_equal(np.stack([each.pixels[:, :, 0] for each in found]), faces)


def test_the_box_of_a_ferplus_row_is_cut_out(tmp_path):
    faces = ferplus_folder(tmp_path, ["(8, 4, 40, 44)", "(0, 0, 60, 48)", *["(0, 0, 48, 48)"] * 4])
    _, found = read_all(FerPlusFolders(tmp_path))
    assert np.array_equal(found[0].pixels[:, :, 0], faces[0][4:44, 8:40])
    assert found[1].reason == "wrong_shape"
    assert "does not fit a picture of 48x48" in found[1].note


def test_ferplus_rows_of_missing_pictures_are_unreadable(tmp_path):
    ferplus_folder(tmp_path)
    (tmp_path / "FER2013Train" / "fer0000001.png").unlink()
    assert [each.reason for each in read_all(FerPlusFolders(tmp_path))[1]] == ["", "unreadable", "", "", "", ""]


def test_a_folder_that_is_not_ferplus_is_told_with_what_it_has(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        FerPlusFolders(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="no FER2013Train/label.csv .*; it has pictures"):
        FerPlusFolders(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a.png", "(0, 0, 48, 48)", 1, 2, 3], "expected 12 columns"),
        (["a.png", "everything", *[1] * 10], "expected a box such as"),
        (["../../etc/a.png", "(0, 0, 48, 48)", *[1] * 10], "expected the name of a file"),
        (["a.png", "(0, 0, 48, 48)", *["x"] * 10], "ten vote counts"),
        ([""] * 12, "has no rows"),
    ],
)
def test_a_wrong_line_of_a_ferplus_label_file_is_told(tmp_path, row, message):
    (tmp_path / "FER2013Train").mkdir()
    write_rows(tmp_path / "FER2013Train" / "label.csv", [row])
    with pytest.raises(DataError, match=message):
        FerPlusFolders(tmp_path).read()


# ---- class folders


@pytest.mark.parametrize("inside", ["", "archive/", "archive/faces/"])
def test_split_and_class_folders_are_understood_at_any_depth(tmp_path, inside):
    class_folders(tmp_path, {f"{inside}train/angry": 2, f"{inside}train/Happy/more": 1, f"{inside}val/angry": 1})
    table, found = read_all(ClassFolders(tmp_path))
    assert list(zip(table.rows["split"], table.rows["label"], strict=True)) == [
        ("train", "happiness"),
        ("train", "anger"),
        ("train", "anger"),
        ("validation", "anger"),
    ]
    assert all(each.pixels is not None for each in found)


@pytest.mark.parametrize("inside", ["", "archive/"])
def test_flat_class_folders_have_no_split(tmp_path, inside):
    class_folders(tmp_path, {f"{inside}focused": 2, f"{inside}tired": 1})
    table = ClassFolders(tmp_path).read()
    assert table.rows["label"].tolist() == ["focused", "focused", "tired"]
    assert set(table.rows["split"]) == {""}
    assert table.labels == ("focused", "tired")


def test_split_folders_below_class_folders_are_understood(tmp_path):
    class_folders(tmp_path, {"angry/train": 1, "angry/test": 1, "sad/train": 1})
    rows = ClassFolders(tmp_path).read().rows
    assert list(zip(rows["split"], rows["label"], strict=True)) == [("test", "anger"), ("train", "anger"), ("train", "sadness")]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train_images", "val_set", "test_images"),
        ("Train Set", "Validation Set", "Testing-Data"),
        ("dataset_train", "VALID", "TestFaces"),
    ],
)
def test_split_folders_by_longer_names_are_understood(tmp_path, train, validation, test):
    class_folders(tmp_path, {f"{train}/happy": 1, f"{validation}/happy": 1, f"{test}/sad": 1})
    rows = ClassFolders(tmp_path).read().rows
    assert sorted(zip(rows["split"], rows["label"], strict=True)) == [
        ("test", "sadness"),
        ("train", "happiness"),
        ("validation", "happiness"),
    ]


@pytest.mark.parametrize("inside", ["", "train/"])
def test_folders_of_people_above_those_of_the_emotions_are_refused(tmp_path, inside):
    class_folders(tmp_path, {f"{inside}person{who}/{name}": 1 for who in range(4) for name in ("happy", "sad", "odd")})
    with pytest.raises(
        DataError,
        match="the folders happiness, odd, sadness stand below person0, person1, person2, ..., which would be the classes; "
        "expected LABEL/picture or SPLIT/LABEL/picture",
    ):
        ClassFolders(tmp_path).read()
    people = ClassFolders(tmp_path, labels=[f"person{who}" for who in range(4)]).read()
    assert people.labels == ("person0", "person1", "person2", "person3")


def test_folders_that_repeat_below_classes_of_ones_own_are_told(tmp_path):
    """Which of the two are the classes can't be known: who looks, or how."""
    class_folders(tmp_path / "a", {f"{who}/{name}": 1 for who in ("ann", "bob") for name in ("focused", "tired")})
    (remark,) = ClassFolders(tmp_path / "a").read().remarks
    assert remark.startswith("the folders focused, tired stand below ann, bob, which were read as the classes; if that is wrong")
    class_folders(tmp_path / "b", {"focused/ann": 1, "focused/bob": 1, "tired/eve": 1, "tired": 1})
    assert ClassFolders(tmp_path / "b").read().remarks == ()


@pytest.mark.parametrize(
    "spec",
    [
        {"happy/ann": 1, "happy/bob": 1, "sad/ann": 1, "sad/bob": 1},
        {"positive/happy": 1, "positive/surprise": 1, "negative/sad": 1, "negative/surprise": 1, "negative/fear": 1},
    ],
)
def test_folders_below_the_classes_are_nobodys_business(tmp_path, spec):
    class_folders(tmp_path, spec)
    table = ClassFolders(tmp_path).read()
    assert len(table.labels) == 2 and table.remarks == ()


def test_hidden_and_system_files_are_skipped_and_others_counted(tmp_path):
    class_folders(tmp_path, {"angry": 1, "sad": 1, "__MACOSX/angry": 1, ".git/sad": 1})
    for name in (".DS_Store", "angry/Thumbs.db", "angry/desktop.ini", "angry/._000.png", "sad/notes.txt", "sad/list.csv"):
        (tmp_path / name).write_bytes(b"\0")
    table = ClassFolders(tmp_path).read()
    assert table.rows["source"].tolist() == ["angry/000.png", "sad/000.png"]
    assert "2 files that are no pictures" in table.remarks[0]


def test_class_folders_that_are_links_are_classes(tmp_path):
    class_folders(tmp_path / "in", {"happy": 1, "sad": 1})
    class_folders(tmp_path / "store", {"x/more": 2})
    os.symlink("../store/x", tmp_path / "in" / "angry")
    table, found = read_all(ClassFolders(tmp_path / "in"))
    assert table.rows["source"].tolist() == ["angry/more/000.png", "angry/more/001.png", "happy/000.png", "sad/000.png"]
    assert table.rows["label"].tolist() == ["anger", "anger", "happiness", "sadness"]
    assert all(each.pixels is not None for each in found)
    assert table.remarks == ()
    before = ClassFolders(tmp_path / "in").fingerprint()
    (tmp_path / "store" / "x" / "more" / "000.png").write_bytes(b"other")
    assert ClassFolders(tmp_path / "in").fingerprint() != before


def test_split_folders_that_are_links_are_splits(tmp_path):
    class_folders(tmp_path / "store", {"one/angry": 1, "two/angry": 1})
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "store" / "one", tmp_path / "in" / "train")
    os.symlink(tmp_path / "store" / "two", tmp_path / "in" / "test")
    rows = ClassFolders(tmp_path / "in").read().rows
    assert rows["source"].tolist() == ["test/angry/000.png", "train/angry/000.png"]
    assert rows["split"].tolist() == ["test", "train"]


def test_no_folder_is_read_twice_whatever_the_links_and_that_is_told(tmp_path):
    class_folders(tmp_path / "in", {"sad": 1, "zorn": 1})
    class_folders(tmp_path / "out", {"a": 1, "a/b": 1})
    for target, link in (
        ("in", "in/sad/loop"),  # around itself
        (".", "in/everything"),  # around all, with other things beside it
        ("in/zorn", "in/angry"),  # another name for a folder that is there: its own name counts
        ("out/a/b", "in/inner"),
        ("out/a", "in/outer"),  # has the former in it
        ("out", "out/a/back"),
    ):
        os.symlink(tmp_path / target, tmp_path / link)
    table = ClassFolders(tmp_path / "in").read()
    assert table.rows["source"].tolist() == ["inner/000.png", "outer/000.png", "sad/000.png", "zorn/000.png"]
    assert table.remarks == ("5 links to folders that are read already were not followed: angry, everything, outer/b, ...",)


def test_a_name_that_is_not_utf8_is_read_and_stands_escaped(tmp_path):
    """As old archives unpack: a byte of Latin-1 in the name."""
    class_folders(tmp_path / "f", {"angry": 2, "sad": 1})
    os.rename(tmp_path / "f/angry/001.png", os.fsencode(tmp_path / "f/angry") + b"/caf\xe9.png")
    table, found = read_all(ClassFolders(tmp_path / "f"))
    assert table.rows["source"].tolist() == ["angry/000.png", r"angry/caf\xe9.png", "sad/000.png"]
    assert [each.reason for each in found] == [""] * 3
    assert table.remarks == (r"1 names of files are not UTF-8 and stand escaped in the manifest: angry/caf\xe9.png",)


def test_a_class_folder_whose_name_is_not_utf8_is_refused_by_name(tmp_path):
    class_folders(tmp_path / "f", {"angry": 1, "sad": 1})
    os.rename(tmp_path / "f/angry", os.fsencode(tmp_path / "f") + b"/f\xe2ch\xe9")
    with pytest.raises(DataError, match=r"/f/f\\xe2ch\\xe9/000.png: .* not UTF-8, so it can't be a label; rename it"):
        ClassFolders(tmp_path / "f").read()


def test_labels_that_look_the_same_are_one(tmp_path):
    """macOS writes an accent as a character of its own; people write Focused and focused."""
    apart, composed = ("f\u00e2che\u0301", "f\u00e2ch\u00e9")
    class_folders(tmp_path, {f"train/{composed}": 1, f"test/{apart}": 1, "train/Focused": 1, "test/focused": 1, "train/happy": 1})
    table = ClassFolders(tmp_path).read()
    assert table.labels == ("focused", composed, "happy")
    assert sorted(table.rows["label"]) == ["focused", "focused", composed, composed, "happy"]
    assert table.remarks == ("labels that are spelled in several ways were read as one: focused, Focused as focused",)


def test_the_spelling_of_the_labels_asked_for_is_taken(tmp_path):
    class_folders(tmp_path, {"train/Focused": 1, "test/focused": 1, "train/TIRED": 1})
    table = ClassFolders(tmp_path, labels=("focused", "Tired")).read()
    assert table.labels == ("Tired", "focused")
    assert set(table.rows["label"]) == {"Tired", "focused"}


def test_names_of_one_emotion_beside_classes_of_ones_own_are_one_class_and_told(tmp_path):
    class_folders(tmp_path, {"x": 4})
    cells = ["happy", "Happiness", "angry", "bored"]
    path = write_rows(tmp_path / "t.csv", [["f", "l"], *([f"x/{index:03d}.png", each] for index, each in enumerate(cells))])
    columns = {"image": "f", "label": "l"}
    table = Table(path, tmp_path, columns).read()
    assert table.labels == ("angry", "bored", "happy")
    assert table.rows["label"].tolist() == ["happy", "happy", "angry", "bored"]
    assert table.remarks == (
        "labels that are spelled in several ways were read as one: happy, Happiness as happy; where some are classes of their "
        "own, name every class by --labels",
    )
    named = Table(path, tmp_path, columns, labels=cells).read()
    assert (named.labels, named.rows["label"].tolist(), named.remarks) == (("Happiness", "angry", "bored", "happy"), cells, ())
    named = Table(path, tmp_path, columns, labels=("bored", "joy", "anger")).read()
    assert named.rows["label"].tolist() == ["joy", "joy", "anger", "bored"]
    assert named.remarks == ("labels that are spelled in several ways were read as one: happy, Happiness as joy",)


def test_one_name_of_each_emotion_beside_classes_of_ones_own_stays(tmp_path):
    class_folders(tmp_path, {"train/Happiness": 1, "test/Happiness": 1, "train/angry": 1, "train/bored": 1})
    table = ClassFolders(tmp_path).read()
    assert (table.labels, table.remarks) == (("Happiness", "angry", "bored"), ())


def test_emotions_in_any_spelling_need_no_remark(tmp_path):
    class_folders(tmp_path, {"train/Angry": 1, "test/angry": 1, "train/happy": 1})
    table = ClassFolders(tmp_path).read()
    assert (table.labels, table.remarks) == (("happiness", "anger"), ())


def test_a_class_folder_may_be_called_unknown_or_none(tmp_path):
    class_folders(tmp_path, {"none": 1, "unknown": 1})
    assert ClassFolders(tmp_path).read().labels == ("none", "unknown")


def test_damaged_pictures_are_unreadable_and_the_others_are_read(tmp_path):
    class_folders(tmp_path, {"angry": 3})
    whole = (tmp_path / "angry/001.png").read_bytes()
    (tmp_path / "angry/001.png").write_bytes(whole[:300])
    _, found = read_all(ClassFolders(tmp_path), channels=3)
    assert [each.reason for each in found] == ["", "unreadable", ""]
    assert found[0].pixels.shape == (48, 48, 3)
    assert str(tmp_path) not in found[1].note


def test_jpegs_by_their_rarer_names_are_pictures(tmp_path):
    class_folders(tmp_path, {"angry": 1, "sad": 1})
    whole = Image.fromarray(pictures(1)[0])
    for name in ("angry/a.jfif", "sad/b.JPE", "sad/c.jp2"):
        whole.save(tmp_path / name, "JPEG2000" if name.endswith("jp2") else "JPEG")
    table, found = read_all(ClassFolders(tmp_path))
    assert table.rows["source"].tolist() == ["angry/000.png", "angry/a.jfif", "sad/000.png", "sad/b.JPE", "sad/c.jp2"]
    assert [each.reason for each in found] == [""] * 5
    assert table.remarks == ()


@pytest.mark.parametrize("around", ["", "archive/faces/"])
def test_classes_without_any_picture_are_named(tmp_path, around):
    class_folders(tmp_path, {f"{around}train/angry": 1, f"{around}train/Sad": 1, f"{around}test/angry": 1})
    for folder in ("train/contempt/raw", "test/contempt", "test/sad", "train/angry/more", "docs"):
        (tmp_path / around / folder).mkdir(parents=True)
    (tmp_path / around / "test/contempt/0.heic").write_bytes(b"not for Pillow")
    table = ClassFolders(tmp_path).read()
    assert table.labels == ("sadness", "anger")
    assert table.remarks == (
        "1 files that are no pictures were skipped: .heic 1",
        "2 folders hold no picture, so they are no classes: contempt, docs",
    )


def test_folders_without_pictures_or_classes_are_told(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ClassFolders(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no picture; expected .*, found nothing"):
        ClassFolders(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"found 1 other files \(.txt 1\)"):
        ClassFolders(tmp_path)
    class_folders(tmp_path, {"train": 1})
    with pytest.raises(DataError, match="train/000.png is in no class folder"):
        ClassFolders(tmp_path).read()


def test_only_the_labels_asked_for_are_allowed(tmp_path):
    class_folders(tmp_path, {"angry": 1, "hapy": 1})
    with pytest.raises(DataError, match=r"unknown label 'hapy' in .*hapy/000.png; allowed are angry, happy"):
        ClassFolders(tmp_path, labels=("angry", "happy")).read()
    assert ClassFolders(tmp_path, labels=("hapy", "angry", "sad")).read().labels == ("angry", "hapy", "sad")


# ---- tables


@pytest.fixture
def affectnet(tmp_path):
    """AffectNet-HQ's layout: an index column without a name, pth, label; and a metadata csv made by somebody else."""
    class_folders(tmp_path, {"anger": 2, "happy": 2})
    names = ["anger/000.png", "anger/001.png", "happy/000.png", "happy/001.png"]
    write_rows(tmp_path / "labels.csv", [["", "pth", "label"], *([i, name, name.split("/")[0]] for i, name in enumerate(names))])
    write_rows(
        tmp_path / "meta.csv",
        [["pth", "sex", "years"], ["anger/000.png", "F", "31"], ["happy/001.png", "male", ""], ["anger/001.png", "", "4"]],
    )
    return tmp_path


def test_a_table_with_metadata_gives_labels_and_groups(affectnet):
    columns = {"image": "pth", "label": "label", "gender": "sex", "age": "years"}
    table, found = read_all(Table(affectnet / "labels.csv", affectnet, columns, affectnet / "meta.csv"))
    assert table.rows["label"].tolist() == ["anger", "anger", "happiness", "happiness"]
    assert table.rows["gender"].tolist() == ["Female", "unknown", "unknown", "Male"]
    assert table.rows["age_group"].tolist() == ["30-39", "3-9", "unknown", "unknown"]
    assert table.group_columns == ("gender", "age_group")
    assert "1 of 4 pictures have no" in table.remarks[0]
    assert [each.reason for each in found] == [""] * 4


@pytest.mark.parametrize("spelling", ["{folder}/{name}.png", "{folder}_{name}.png", "{folder}_{name}"])
def test_metadata_is_joined_by_path_else_name_else_stem(tmp_path, spelling):
    names = ["a_000.png", "a_001.png", "b_000.png"]
    for name, picture in zip(names, pictures(3), strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    write_rows(tmp_path / "labels.csv", [["file", "label"], *([name, name[0]] for name in names)])
    spelled = [spelling.format(folder="x/a" if "/" in spelling else "a", name="001").replace("x/a/001", "x/a_001")]
    write_rows(tmp_path / "meta.csv", [["file", "sex"], [spelled[0], "f"]])
    columns = {"image": "file", "label": "label", "gender": "sex"}
    table = Table(tmp_path / "labels.csv", tmp_path, columns, tmp_path / "meta.csv").read()
    assert table.rows["gender"].tolist() == ["unknown", "Female", "unknown"]


def test_metadata_that_contradicts_itself_counts_as_unknown(affectnet):
    write_rows(affectnet / "meta.csv", [["pth", "sex"], ["anger/000.png", "F"], ["anger/000.png", "M"], ["happy/000.png", "M"]])
    columns = {"image": "pth", "label": "label", "gender": "sex"}
    rows = Table(affectnet / "labels.csv", affectnet, columns, affectnet / "meta.csv").read().rows
    assert rows["gender"].tolist() == ["unknown", "unknown", "Male", "unknown"]


def test_metadata_that_matches_nothing_is_an_error(affectnet):
    write_rows(affectnet / "meta.csv", [["name", "sex"], ["somebody.png", "F"]])
    with pytest.raises(DataError, match=r"no picture of .*labels.csv is in .*meta.csv: joined by its column 'name'"):
        Table(
            affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label", "gender": "sex"}, affectnet / "meta.csv"
        ).read()


@pytest.mark.parametrize("spelling", ["{}.png", "{}", "elsewhere/{}.png"])
def test_metadata_by_a_name_that_several_pictures_have_tells_of_none_of_them(tmp_path, spelling):
    class_folders(tmp_path, {"train/happy": 2, "test/neutral": 1})
    names = ["train/happy/000.png", "train/happy/001.png", "test/neutral/000.png", "train/happy/001.png"]  # the last one twice
    write_rows(tmp_path / "labels.csv", [["file", "label"], *([name, name.split("/")[1]] for name in names)])
    write_rows(tmp_path / "meta.csv", [["file", "sex"], [spelling.format("000"), "f"], [spelling.format("001"), "m"]])
    columns = {"image": "file", "label": "label", "gender": "sex"}
    table = Table(tmp_path / "labels.csv", tmp_path, columns, tmp_path / "meta.csv").read()
    assert table.rows["gender"].tolist() == ["unknown", "Male", "unknown", "Male"]
    assert table.remarks == (
        f"2 of 4 pictures have no (or no single) line in {tmp_path}/meta.csv: 2 share their name with pictures in other folders",
    )
    write_rows(tmp_path / "meta.csv", [["file", "sex"], [spelling.format("000"), "f"]])
    with pytest.raises(DataError, match=r"names such as '000' are those of several pictures .* 'train/happy/000.png', in its"):
        Table(tmp_path / "labels.csv", tmp_path, columns, tmp_path / "meta.csv").read()


def test_splits_identities_and_columns_of_any_name_are_taken(tmp_path):
    class_folders(tmp_path, {"x": 2})
    header = ["f", "emotion", "part", "who", "skin", "where"]
    rows = [["x/000.png", "sad", "Training", "ann", "dark", "home"], ["x/001.png", "angry", "PrivateTest", "bob", "NaN", ""]]
    write_rows(tmp_path / "t.csv", [header, *rows], delimiter=";")
    columns = dict(image="f", label="emotion", split="part", identity="who", skin_tone="skin", place="where")
    table = Table(tmp_path / "t.csv", tmp_path, columns).read()
    assert table.rows["split"].tolist() == ["train", "test"]
    assert table.rows["identity"].tolist() == ["ann", "bob"]
    assert table.rows["skin_tone"].tolist() == ["dark", "unknown"]
    assert table.rows["place"].tolist() == ["home", "unknown"]
    assert table.group_columns == ("skin_tone", "place")


def test_ages_that_are_none_are_told_with_examples(tmp_path):
    class_folders(tmp_path, {"x": 9})
    ages = ["34,5", "(25, 32)", "1985", "adult", "n/a", "", "(25, 32)", "61", "adult"]
    rows = [[f"x/{index:03d}.png", "sad", age] for index, age in enumerate(ages)]
    path = write_rows(tmp_path / "t.csv", [["f", "l", "years"], *rows])
    table = Table(path, tmp_path, dict(image="f", label="l", age="years")).read()
    assert table.rows["age_group"].tolist() == ["30-39", *["unknown"] * 6, "60-69", "unknown"]
    (remark,) = table.remarks
    assert remark.startswith(
        "5 ages are no number from 0 to 130, nor a range inside one age group, such as '(25, 32)', '1985', 'adult', so"
    )
    assert Table(path, tmp_path, dict(image="f", label="l", age_group="years")).read().remarks == ()


def test_who_is_not_known_is_nobody(tmp_path):
    class_folders(tmp_path, {"x": 10})
    words = ["unknown", "NaN", "?", " na ", "None", "-", "", "#N/A", "<NA>", " ann"]
    rows = [[f"x/{index:03d}.png", "sad", word] for index, word in enumerate(words)]
    write_rows(tmp_path / "t.csv", [["f", "emotion", "who"], *rows])
    table = Table(tmp_path / "t.csv", tmp_path, dict(image="f", label="emotion", identity="who")).read()
    assert table.rows["identity"].tolist() == [""] * 9 + ["ann"]


def test_a_cell_that_says_not_known_is_no_label_unless_it_is_asked_for(tmp_path):
    class_folders(tmp_path, {"x": 8})
    words = ["low", "NaN", "?", " n/a ", "None", "high", "-", "none"]
    rows = [[f"x/{index:03d}.png", word] for index, word in enumerate(words)]
    path = write_rows(tmp_path / "t.csv", [["f", "engaged"], *rows])
    columns = dict(image="f", label="engaged")
    table = Table(path, tmp_path, columns).read()
    assert table.labels == ("high", "low")
    assert table.rows["label"].tolist() == ["low", "", "", "", "", "high", "", ""]
    (remark,) = table.remarks
    assert remark == "6 rows have no label but NaN, ?, n/a, None, -, none; if that is a class, name every class by --labels"
    table = Table(path, tmp_path, columns, labels=("none", "low", "high")).read()
    assert table.rows["label"].tolist() == ["low", "", "", "", "none", "high", "", "none"]


def test_group_values_and_identities_that_look_the_same_are_one(tmp_path):
    class_folders(tmp_path, {"x": 2})
    rows = [[f"x/{index:03d}.png", "sad", name, name] for index, name in enumerate(["Ren\u00e9", "Rene\u0301"])]
    write_rows(tmp_path / "t.csv", [["f", "l", "who", "club"], *rows])
    rows = Table(tmp_path / "t.csv", tmp_path, dict(image="f", label="l", identity="who", club="club")).read().rows
    assert set(rows["identity"]) == set(rows["club"]) == {"Ren\u00e9"}


def test_values_that_differ_in_case_or_as_numbers_alone_are_one_and_told(tmp_path):
    """A table with gaps is saved with 5.0 for 5, and people write S05 and s05."""
    class_folders(tmp_path, {"x": 5})
    cells = [
        ("0", "S05", "Light", "F"),
        ("0.0", "s05", "light", "female"),
        ("1", "5", "LIGHT ", "M"),
        ("1.0", "5.0", "dark", "male"),
        ("1.5", "5.5", "", ""),
    ]
    rows = [[f"x/{index:03d}.png", *each] for index, each in enumerate(cells)]
    path = write_rows(tmp_path / "t.csv", [["f", "level", "who", "skin", "sex"], *rows])
    table = Table(path, tmp_path, dict(image="f", label="level", identity="who", skin_tone="skin", gender="sex")).read()
    assert table.rows["label"].tolist() == ["0", "0", "1", "1", "1.5"]
    assert table.labels == ("0", "1", "1.5")
    assert table.rows["identity"].tolist() == ["S05", "S05", "5", "5", "5.5"]
    assert table.rows["skin_tone"].tolist() == ["Light", "Light", "Light", "dark", "unknown"]
    assert table.rows["gender"].tolist() == ["Female", "Female", "Male", "Male", "unknown"]
    assert table.remarks == (
        "labels that are spelled in several ways were read as one: 0, 0.0 as 0; 1, 1.0 as 1",
        "identities that are spelled in several ways were read as one: S05, s05 as S05; 5, 5.0 as 5",
        "values of skin_tone that are spelled in several ways were read as one: Light, light, LIGHT as Light",
    )
    told = base.as_one("names", [name for index in range(7) for name in (f"n{index}", f"N{index}")])[1]
    assert told[0].endswith("n4, N4 as n4; and 2 more")


def test_full_paths_below_the_folder_are_understood_also_through_a_link(affectnet):
    (affectnet / "other").mkdir()
    link = affectnet / "other" / "link"
    os.symlink(affectnet, link)
    for folder in (affectnet, link):
        names = [f"{folder}/anger/000.png", f"{folder}/happy/000.png"]
        path = write_rows(affectnet / "full.csv", [["pth", "label"], *([name, "sad"] for name in names)])
        table, found = read_all(Table(path, link, {"image": "pth", "label": "label"}))
        assert table.rows["source"].tolist() == ["anger/000.png", "happy/000.png"]
        assert [each.reason for each in found] == ["", ""]
    for name in (f"{link}/../../x.png", f"{link}ed/../../../x.png", f"{affectnet.parent}/x.png"):
        write_rows(affectnet / "full.csv", [["pth", "label"], [name, "sad"]])
        with pytest.raises(DataError, match=r"full.csv, row 1: .* is outside"):
            Table(path, link, {"image": "pth", "label": "label"}).read()


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_pictures_outside_the_folder_are_refused(affectnet, name):
    write_rows(affectnet / "labels.csv", [["pth", "label"], ["anger/000.png", "anger"], [name, "anger"]])
    with pytest.raises(DataError, match=r"labels.csv, row 2: .* is outside"):
        Table(affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label"}).read()


def test_a_path_that_leaves_the_folder_and_comes_back_is_in_it(affectnet, monkeypatch):
    name = affectnet.name
    written = [f"../{name}/anger/000.png", "happy/../anger/001.png"]
    written += [f"..\\{name}\\happy\\000.png", f"{affectnet}/x/../happy/001.png"]
    write_rows(affectnet / "labels.csv", [["pth", "label"], *([each, "sad"] for each in written)])
    write_rows(affectnet / "meta.csv", [["pth", "sex"], [written[0], "F"], [str(affectnet / "happy/000.png"), "M"]])
    monkeypatch.chdir(affectnet)
    columns = {"image": "pth", "label": "label", "gender": "sex"}
    table, found = read_all(Table("labels.csv", ".", columns, "meta.csv"))
    assert table.rows["source"].tolist() == ["anger/000.png", "anger/001.png", "happy/000.png", "happy/001.png"]
    assert [each.reason for each in found] == [""] * 4
    assert table.rows["gender"].tolist() == ["Female", "unknown", "Male", "unknown"]  # 000.png alone would not tell which


def test_behind_a_link_a_path_may_leave_the_folder_though_it_does_not_read_so(affectnet):
    (affectnet / "pictures").mkdir()
    os.symlink(affectnet / "anger", affectnet / "pictures/link")
    os.symlink(affectnet / "pictures", affectnet / "happy/back")
    columns = {"image": "pth", "label": "label"}
    write_rows(affectnet / "labels.csv", [["pth", "label"], ["link/000.png", "sad"], ["link/../link/001.png", "sad"]])
    with pytest.raises(DataError, match=r"labels.csv, row 2: 'link/../link/001.png' is outside"):
        Table(affectnet / "labels.csv", affectnet / "pictures", columns).read()
    write_rows(affectnet / "labels.csv", [["pth", "label"], ["happy/back/../anger/000.png", "sad"]])
    assert Table(affectnet / "labels.csv", affectnet, columns).read().rows["source"].tolist() == ["anger/000.png"]


def test_a_missing_column_is_told_with_all_there_are(affectnet):
    columns = {"image": "pth", "label": "label", "gender": "gender"}
    with pytest.raises(DataError, match=r"no column 'gender' for gender; there are \(no name\), pth, label$"):
        Table(affectnet / "labels.csv", affectnet, columns)
    with pytest.raises(DataError, match=r"labels.csv and .*meta.csv: no column 'gender' for gender; .*label, pth, sex, years$"):
        Table(affectnet / "labels.csv", affectnet, columns, affectnet / "meta.csv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "pth"}, "names no label"),
        ({"label": "label"}, "names no image"),
        ({"image": "pth", "label": "label", "kept": "label"}, "can't make a column 'kept'"),
        ({"image": "pth", "label": "label", "age": "label", "age_group": "label"}, "both age and age_group"),
    ],
)
def test_columns_that_make_no_sense_are_refused(affectnet, columns, message):
    with pytest.raises(ConfigError, match=message):
        Table(affectnet / "labels.csv", affectnet, columns)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("race/eth", "race_eth"),
        ("kept", "kept_group"),
        ("2024", "group_2024"),
        ("votes_mine", "group_votes_mine"),
        ("/", "group"),
    ],
)
def test_a_name_that_is_proposed_for_a_column_can_be_had(affectnet, name, other):
    with pytest.raises(ConfigError, match=f"choose another name, such as {other}$"):
        Table(affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label", name: "label"})
    Table(affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label", other: "label"})


def test_a_wrong_picture_folder_is_told_with_an_example(affectnet):
    with pytest.raises(DataError, match="is no folder"):
        Table(affectnet / "labels.csv", affectnet / "nowhere", {"image": "pth", "label": "label"})
    with pytest.raises(DataError, match=r"none of the 4 pictures .* \(the first: anger/000.png\)"):
        Table(affectnet / "labels.csv", affectnet / "happy", {"image": "pth", "label": "label"}).read()


def test_rows_without_a_label_or_picture_are_left_to_cleaning(affectnet):
    write_rows(
        affectnet / "labels.csv", [["pth", "label"], ["anger/000.png", "anger"], ["anger/001.png", ""], ["gone.png", "sad"]]
    )
    table, found = read_all(Table(affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label"}))
    assert table.rows["label"].tolist() == ["anger", "", "sadness"]
    assert [each.reason for each in found] == ["", "", "unreadable"]


def test_an_unknown_label_of_a_table_names_its_row(affectnet):
    with pytest.raises(DataError, match=r"unknown label 'happy' in .*labels.csv, row 3; allowed are anger, sad"):
        Table(affectnet / "labels.csv", affectnet, {"image": "pth", "label": "label"}, labels=("anger", "sad")).read()


# ---- drawn faces


def test_drawn_faces_are_those_of_the_drawing(tmp_path):
    faces, about = draw_faces(16, seed=3, size=48, channels=3)
    table, found = read_all(DrawnFaces(16, seed=3, size=48), channels=3)
    assert np.array_equal(np.stack([each.pixels for each in found]), faces)
    for column in ("label", "gender", "age_group", "skin_tone", "identity"):
        assert table.rows[column].tolist() == about[column].tolist()


# ---- fingerprints


def test_fingerprints_change_with_the_files(tmp_path):
    class_folders(tmp_path / "f", {"angry": 2})
    before = ClassFolders(tmp_path / "f").fingerprint()
    assert ClassFolders(tmp_path / "f").fingerprint() == before
    (tmp_path / "f/angry/000.png").write_bytes(b"other")
    changed = ClassFolders(tmp_path / "f").fingerprint()
    os.rename(tmp_path / "f/angry/000.png", tmp_path / "f/angry/007.png")
    assert len({before, changed, ClassFolders(tmp_path / "f").fingerprint()}) == 3
    path = kaggle_csv(tmp_path / "a.csv", pictures(2), [0, 1], ["Training"] * 2)
    first = KaggleCsv(path).fingerprint()
    os.utime(path, (1, 1))
    assert KaggleCsv(path).fingerprint() == first  # the content counts, not when it was copied
    kaggle_csv(path, pictures(2), [0, 2], ["Training"] * 2)
    assert KaggleCsv(path).fingerprint() != first


def test_changed_pictures_are_noticed_where_the_table_was_written_on_windows(affectnet):
    names = [r"anger\000.png", r"anger\001.png", r"happy\000.png", r"happy\001.png"]
    path = write_rows(affectnet / "windows.csv", [["pth", "label"], *([name, name.split("\\")[0]] for name in names)])
    source = Table(path, affectnet, {"image": "pth", "label": "label"})
    before = source.fingerprint()
    assert source.fingerprint() == before
    Image.fromarray(pictures(1, seed=9)[0]).resize((20, 20)).save(affectnet / "happy/001.png")
    assert source.fingerprint() != before


# ---- the real layouts


@pytest.mark.shared
def test_the_three_layouts_of_the_real_faces_agree(tmp_path, shared_dir):
    script, packed = shared_dir / "data" / "expand_fer2013.py", shared_dir / "data" / "fer2013" / "train_valid"
    rows = pd.read_csv(f"{packed}.csv")
    chosen = rows.groupby("usage").head(40).index
    with lzma.open(f"{packed}.npy.xz") as file, lzma.open(tmp_path / "few.npy.xz", "w", preset=0) as few:
        np.save(few, np.load(file)[chosen])
    rows.loc[chosen].to_csv(tmp_path / "few.csv", index=False)
    found = {}
    for layout, reader in (
        ("kaggle-csv", lambda path: KaggleCsv(path / "fer2013.csv", path / "fer2013new.csv")),
        ("ferplus", FerPlusFolders),
        ("folders", ClassFolders),
    ):
        command = [sys.executable, script, tmp_path / layout, "--layout", layout, "--packed", tmp_path / "few"]
        subprocess.run(command, check=True)
        table, read = read_all(reader(tmp_path / layout))
        label = "fer2013_label" if layout == "kaggle-csv" else "label"
        pixels = (each.pixels.tobytes() for each in read)
        found[layout] = sorted(zip(pixels, table.rows[label], table.rows["split"], table.rows["label"], strict=True))
    assert len(found["folders"]) == 80
    assert [row[:3] for row in found["kaggle-csv"]] == [row[:3] for row in found["folders"]]
    assert [(row[0], row[3]) for row in found["kaggle-csv"]] == [(row[0], row[3]) for row in found["ferplus"]]


def test_a_class_folder_that_can_not_be_read_is_refused(tmp_path):
    for name in ("angry", "happy", "lost+found"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "x.png")
    read = "import sys; from fer_keras.data.sources.folders import ClassFolders as F; print(*F(sys.argv[1]).read().rows.label)"
    for name in ("lost+found", "happy"):
        (tmp_path / name).chmod(0)
        command = [*commandline.without_right_to(tmp_path / name), sys.executable, "-c", read, str(tmp_path)]
        done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
        if name == "lost+found":
            assert done.stdout.split() == ["anger", "happiness"], done.stderr
        else:
            assert f"DataError: {tmp_path / name} can't be read: Permission denied" in done.stderr
    for name in ("lost+found", "happy"):
        (tmp_path / name).chmod(0o700)
