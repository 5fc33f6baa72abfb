import re
from functools import partial

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, banded_faces, write_faces
from PIL import Image

from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError
from fer_keras.models.exported import load_exported
from training.apply import main, parse_select, stratified_fraction
from training.run_folder import RunFolder


def apply(capsys, *argv):
    """What the command prints."""
    assert main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


refused = partial(commandline.refused, main)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("all", "all"), ("rand", "rand"), ("46", 46), ("0", 0), ("1", 1), ("0.1", 0.1), ("1.0", 1.0), (".5", 0.5)],
)
def test_select_is_a_word_a_row_or_a_fraction(text, meaning):
    selected = parse_select(text)
    assert (selected, type(selected)) == (meaning, type(meaning))


@pytest.mark.parametrize("text", ["", "some", "-1", "0.0", "1.5", "1e3", "nan", "0.1.2", "46x"])
def test_select_of_anything_else_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match=r"such as 0\.1.*such as 46"):
        parse_select(text)


def test_fraction_takes_the_same_share_of_each_label_and_follows_the_seed():
    truth = np.repeat([0, 1, 2], [100, 50, 10])
    picked = stratified_fraction(truth, 0.2, seed=3)
    assert np.bincount(truth[picked]).tolist() == [20, 10, 2]
    assert len(set(picked)) == len(picked)
    assert picked.tolist() == stratified_fraction(truth, 0.2, seed=3).tolist()
    assert picked.tolist() != stratified_fraction(truth, 0.2, seed=4).tolist()
    assert stratified_fraction(truth, 1.0, seed=0).tolist() == list(range(160))
    assert len(stratified_fraction(truth, 0.001, seed=0)) == 1


def test_one_face_prints_label_source_and_the_probabilities_of_the_model(trained, capsys):
    printed = apply(capsys, "--model", trained.exported, "--data", trained.data, "--select", "46")
    dataset = FaceDataset.load(trained.data)
    expected = load_exported(trained.exported).predict(dataset.faces[46:47])[0]
    assert "picture-46.png" in printed
    assert f"predicted: {LABELS[expected.argmax()]} " in printed
    assert re.search(rf"true:\s+{dataset.manifest['label'][46]}\n", printed)
    for label, probability in zip(LABELS, expected, strict=True):
        said = float(re.search(rf"^  {label}\s+([\d.]+)", printed, re.MULTILINE).group(1))
        assert said == pytest.approx(probability, abs=6e-5)


def test_run_is_applied_with_its_best_weights_to_its_own_data(trained, capsys):
    printed = apply(capsys, "--model", trained.one, "--select", "1")
    dataset = FaceDataset.load(trained.data)
    expected = RunFolder.open(trained.one).load_model("best").predict(dataset.faces[1:2].astype(np.float32), verbose=0)[0]
    assert "row 1 of bands (train), source picture-1.png" in printed
    assert f"{expected.max():.3f}" in printed


def test_random_face_follows_the_seed_and_the_split(trained, capsys):
    argv = ["--model", trained.exported, "--data", trained.data, "--select", "rand", "--split", "test"]
    first = apply(capsys, *argv, "--seed", 5)
    assert "(test)" in first
    everywhere = ["--model", trained.exported, "--data", trained.data, "--select", "3"]
    assert apply(capsys, *everywhere, "--split", "all") == apply(capsys, *everywhere)
    assert first == apply(capsys, *argv, "--seed", 5)
    assert len({apply(capsys, *argv, "--seed", seed).splitlines()[0] for seed in range(4)}) > 1


def test_whole_set_and_a_fraction_print_the_figures(trained, capsys):
    argv = ["--model", trained.exported, "--data", trained.data]
    dataset = FaceDataset.load(trained.data)
    predicted = load_exported(trained.exported).predict(np.asarray(dataset.faces)).argmax(axis=1)
    accuracy = (predicted == [LABELS.index(name) for name in dataset.manifest["label"]]).mean()
    for everything in (["all"], ["1.0"], ["all", "--split", "all"]):
        printed = apply(capsys, *argv, "--select", *everything)
        assert "324 train+validation+test faces" in printed
        assert f"{accuracy:.3f}" in printed
    assert "33 train+validation+test faces" in apply(capsys, *argv, "--select", "0.1")
    assert "84 test faces" in apply(capsys, *argv, "--select", "all", "--split", "test")


@pytest.mark.parametrize("select", ["7", "0.1"])
def test_faces_are_drawn_into_a_png(trained, here, capsys, select):
    argv = ["--model", trained.exported, "--data", trained.data, "--select", select]
    assert "drawn: new/x.png" in apply(capsys, *argv, "--draw", "new/x.png")
    with Image.open("new/x.png") as picture:
        assert min(picture.size) > 200
    assert ".png" in refused(capsys, *argv, "--draw", "x.txt")


def test_row_outside_of_the_data_is_refused(trained, capsys):
    message = refused(capsys, "--model", trained.exported, "--data", trained.data, "--select", "324")
    assert "rows 0 to 323" in message


def test_row_of_another_split_or_a_dropped_one_is_refused(trained, here, capsys):
    argv = ["--model", trained.exported, "--select", "2"]
    assert "in split train, not test" in refused(capsys, *argv, "--data", trained.data, "--split", "test")
    faces, names = banded_faces(6)
    kept, reason = [True, True, False, True, True, True], ["", "", "blank", "", "", ""]
    write_faces(here / "some", faces, names, ["test"] * 6, kept=kept, reason=reason)
    assert "dropped when the data was prepared (blank)" in refused(capsys, *argv, "--data", "some")


def test_label_that_the_model_lacks_is_told_for_one_face_and_refused_for_many(trained, here, capsys):
    faces, names = banded_faces(6)
    names[0] = "contempt"
    write_faces(here / "more", faces, names, ["test"] * 6, labels=(*LABELS, "contempt"))
    argv = ["--model", trained.exported, "--data", "more", "--select"]
    assert "does not know contempt" in apply(capsys, *argv, "0")
    assert "lacks contempt" in refused(capsys, *argv, "all")


def test_bad_select_missing_model_and_missing_data_are_refused(trained, here, capsys):
    assert "got 'most'" in refused(capsys, "--model", trained.exported, "--data", trained.data, "--select", "most")
    assert "no model nowhere" in refused(capsys, "--model", "nowhere", "--data", trained.data)
    assert "nothing is not a prepared data set" in refused(capsys, "--model", trained.exported, "--data", "nothing")
    assert "--data" in refused(capsys, "--model", trained.exported)
    faces, names = banded_faces(6)
    write_faces(here / "six", faces, names, ["train"] * 6)
    empty = refused(capsys, "--model", trained.exported, "--data", "six", "--split", "test", "--select", "all")
    assert "no test faces; it has train" in empty
    assert pd.read_csv(here / "six" / "manifest.csv")["row"].tolist() == list(range(6))  # and the data is as it was
