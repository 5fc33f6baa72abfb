"""The command on a real, tiny model: its figures recomputed from pictures that were corrupted by other means."""

import json
import logging
from functools import partial

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, SIZE, write_faces
from PIL import Image, ImageFilter

from fer_keras.data.corruptions import CORRUPTIONS
from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError
from fer_keras.models.exported import load_exported
from training import scoring
from training.corruptions import main, parse_corruptions
from training.evaluate import main as evaluate_main
from training.run_folder import RunFolder

refused = partial(commandline.refused, main)


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    """All kinds, on an exported model and on a run: what was written, and where."""
    out = tmp_path_factory.mktemp("corrupted") / "out"
    words = ["--model", str(trained.exported), "--model", str(trained.two), "--data", str(trained.data), "--out", str(out)]
    assert main(words) == 0
    return json.loads((out / "corruptions.json").read_text()), out


def test_every_kind_and_level_is_there_for_every_model(reported):
    result, _ = reported
    assert (result["protocol"], result["split"], result["n"], result["seed"]) == ("label", "test", 84, 0)
    expected = [("none", None), *((kind, level) for kind, each in CORRUPTIONS.items() for level in each.levels)]
    assert list(result["models"]) == ["bands-cnn", "two"]
    for entries in result["models"].values():
        assert [(entry["corruption"], entry["level"]) for entry in entries] == expected
        assert entries[0]["difference"] is None and entries[0]["meaning"] == "as they are"


@pytest.fixture(scope="module")
def scored(trained):
    """right(change) -> bool (84,): whether the exported model names a test face right after a change of its Pillow picture."""
    dataset = FaceDataset.load(trained.data)
    rows = np.flatnonzero(dataset.manifest["split"] == "test")
    truth = dataset.manifest["label"].to_numpy()[rows]
    model = load_exported(trained.exported)

    def right(change):
        faces = np.stack([np.asarray(change(Image.fromarray(face[..., 0])))[..., None] for face in dataset.faces[rows]])
        return np.array(LABELS)[model.predict(faces).argmax(axis=1)] == truth

    return right


@pytest.mark.parametrize(
    ("kind", "level", "change", "near"),
    [
        # Pillow's Gaussian is a threefold box, so a decision here and there differs.
        ("blur", 0.04, lambda picture: picture.filter(ImageFilter.GaussianBlur(0.04 * SIZE)), 0.05),
        ("tight", 0.2, lambda picture: picture.resize((SIZE, SIZE), 2, (0.1 * SIZE, 0.1 * SIZE, 0.9 * SIZE, 0.9 * SIZE)), 0.02),
    ],
)
def test_figures_are_those_of_the_model_on_faces_that_pillow_changed(scored, reported, kind, level, change, near):
    entries = {(entry["corruption"], entry["level"]): entry for entry in reported[0]["models"]["bands-cnn"]}
    clean, changed = scored(lambda picture: picture), scored(change)
    assert entries["none", None]["accuracy"] == pytest.approx(clean.mean())
    assert not np.array_equal(clean, changed)
    entry = entries[kind, level]
    assert entry["accuracy"] == pytest.approx(changed.mean(), abs=near)
    assert entry["difference"] == pytest.approx(entry["accuracy"] - clean.mean())
    low, high = entry["difference_ci95"]
    assert low <= entry["difference"] <= high and high - low < 0.4
    assert entry["accuracy_ci95"][0] < entry["accuracy"] < entry["accuracy_ci95"][1]


def test_table_page_and_plot_are_written(reported):
    result, out = reported
    assert {entry.name for entry in out.iterdir()} == {"corruptions.json", "corruptions.csv", "corruptions.png", "report.html"}
    table = pd.read_csv(out / "corruptions.csv", keep_default_na=False, na_values=[""])
    assert len(table) == sum(map(len, result["models"].values()))
    line = table[(table["model"] == "two") & (table["corruption"] == "roll") & (table["level"] == 20)].iloc[0]
    entry = next(entry for entry in result["models"]["two"] if entry["corruption"] == "roll" and entry["level"] == 20)
    assert line["accuracy"] == pytest.approx(entry["accuracy"])
    assert (line["difference_low"], line["difference_high"]) == pytest.approx(tuple(entry["difference_ci95"]))
    page = (out / "report.html").read_text()
    assert "tilted by 20 degrees" in page and "Newcombe" in page and "data:image/png" in page
    assert np.asarray(Image.open(out / "corruptions.png").convert("L")).std() > 10


def test_intervals_are_over_persons_where_some_have_several_faces_and_as_evaluate_has_them(trained, here, capsys):
    data = FaceDataset.load(trained.data)
    names, splits = data.manifest["label"].tolist(), data.manifest["split"].tolist()
    people = [f"person {index % 20}" for index in range(len(names))]
    write_faces(here / "known", np.array(data.faces), names, splits, identity=people)
    words = ["--model", trained.exported, "--data", here / "known"]
    assert commandline.run(main, capsys, *words, "--corruptions", "noise=0.5", "--out", here / "out")[0] == 0
    assert commandline.run(evaluate_main, capsys, *words, "--out", here / "evaluated")[0] == 0
    result = json.loads((here / "out" / "corruptions.json").read_text())
    (clean, noisy), table = result["models"]["bands-cnn"], pd.read_csv(here / "out" / "corruptions.csv")
    (evaluated,) = json.loads((here / "evaluated" / "metrics.json").read_text())["models"].values()
    assert clean["accuracy_ci95_identities"] == pytest.approx(evaluated["accuracy_ci95_identities"])
    shown = table[["accuracy_low", "accuracy_high"]].to_numpy()
    assert shown == pytest.approx(np.array([each["accuracy_ci95_identities"] for each in (clean, noisy)]))
    assert shown[1] != pytest.approx(noisy["accuracy_ci95"])
    (note,) = [note for note in result["notes"] if "persons" in note]
    assert "faces are of 20 persons" in note and "test" not in note


def test_what_a_reader_must_know_is_noted(trained, reported, here, capsys):
    notes = reported[0]["notes"]
    assert any("small 36 changes nothing: faces of bands are 32 pixels" in note for note in notes)
    assert not any("small 24" in note or "validation faces" in note for note in notes)
    data = FaceDataset.load(trained.data)
    data.manifest["split"] = data.manifest["split"].replace("test", "")
    names, faces = data.manifest["label"].tolist(), np.array(data.faces)
    write_faces(here / "untested", faces, names, data.manifest["split"].tolist())
    words = ["--model", trained.exported, "--data", here / "untested", "--corruptions", "tight=0.05", "--out", here / "out"]
    _, lines, _ = commandline.run(main, capsys, *words)
    assert any("by which the best epoch may have been chosen" in line for line in lines)


def test_the_same_seed_gives_the_same_figures_and_faces_can_be_chosen(trained, here, capsys):
    words = ["--model", trained.one, "--corruptions", "noise=0.3,dark", "--split", "validation", "--json"]
    for name in ("a.json", "b.json"):
        code, lines, _ = commandline.run(main, capsys, *words, name, "--out", here / "out", "--batch-size", 7)
        assert code == 0
    first, second = (json.loads((here / name).read_text()) for name in ("a.json", "b.json"))
    assert first == second
    assert [(entry["corruption"], entry["level"]) for entry in first["models"]["one"]] == [
        ("none", None),
        ("noise", 0.3),
        *(("dark", level) for level in CORRUPTIONS["dark"].levels),
    ]
    assert "48 validation faces" in lines[0]
    assert "model" not in lines[1].split()  # one model needs no column for its name


def test_a_report_of_a_run_goes_into_the_run(trained, here, capsys):
    code, lines, _ = commandline.run(main, capsys, "--model", trained.two, "--corruptions", "tight=0.05")
    assert code == 0
    assert lines[-1] == f"written: {trained.two / 'corruptions-test-label' / 'report.html'}"


def test_words_are_read_as_kinds_with_their_levels():
    assert parse_corruptions(["blur", "small=36", "24", "16"]) == {"blur": CORRUPTIONS["blur"].levels, "small": (36, 24, 16)}
    assert parse_corruptions([]) == {kind: each.levels for kind, each in CORRUPTIONS.items()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fog"], "unknown corruption 'fog'; choose from blur"),
        (["36"], "can't read '36'; expected NAME or NAME=LEVEL"),
        (["blur=wide"], "can't read 'blur=wide'"),
        (["small=36.5"], "small takes a whole number, got 36.5"),
        (["blur=0.02", "0.020"], "--corruptions names blur=0.02 twice"),
        (["small=36", "blur", "small=36"], "--corruptions names small=36 twice"),
        (["jpeg=300"], "jpeg takes a level from 1 to 95, got 300"),
    ],
)
def test_words_that_make_no_sense_are_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        parse_corruptions(words)


def test_bad_input_is_one_line(trained, here, capsys):
    assert "name a prepared data set with --data" in refused(capsys, "--model", trained.exported)
    assert "there is no model missing" in refused(capsys, "--model", "missing", "--data", trained.data)
    assert "a seed is 0 or more" in refused(capsys, "--model", trained.one, "--seed", "-1")
    assert "unknown corruption" in refused(capsys, "--model", trained.one, "--corruptions", "rain")
    assert "named twice" in refused(capsys, "--model", trained.one, trained.one)
    assert not list(here.iterdir())


def test_many_models_are_scored_without_a_warning_of_tensorflow(trained, caplog):
    tensorflow = logging.getLogger("tensorflow")
    tensorflow.addHandler(caplog.handler)
    run = RunFolder.open(trained.two)
    model, faces = run.load_model("best"), FaceDataset.load(trained.data).faces[:3]
    try:
        told = [scoring.keras_model(model, run, "best", "two").forward(faces) for _ in range(6)]
    finally:
        tensorflow.removeHandler(caplog.handler)
    np.testing.assert_allclose(told, [np.asarray(model(faces.astype(np.float32)))] * 6, atol=1e-6)
    assert "retracing" not in caplog.text
