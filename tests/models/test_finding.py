"""One lookup of exported models for everything that takes one."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_keras.errors import ModelError
from fer_keras.inference.recognizer import Recognizer
from fer_keras.models import finding
from fer_keras.models.exported import load_exported, load_keras_model
from fer_keras.models.finding import find_model

SHIPPED = Path(__file__).resolve().parents[2] / "saved_models"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "called", ["ferplus-cnn", "saved_models/ferplus-cnn", "./saved_models/ferplus-cnn/", Path("saved_models") / "ferplus-cnn"]
)
@pytest.mark.parametrize("folder", ["saved_models", "exports", SHIPPED])
def test_a_shipped_model_is_found_from_any_folder(called, folder):
    assert find_model(called, folder) == SHIPPED / "ferplus-cnn"


def test_what_lies_where_the_command_runs_goes_before_ones_own_and_that_before_the_shipped():
    for folder in ("exports/ferplus-cnn", "saved_models/ferplus-cnn", "ferplus-cnn"):
        Path(folder).mkdir(parents=True)
    assert find_model("ferplus-cnn", "exports") == Path("ferplus-cnn")
    Path("ferplus-cnn").rmdir()
    assert find_model("ferplus-cnn", "exports") == Path("exports/ferplus-cnn")
    assert find_model("ferplus-cnn") == find_model("saved_models/ferplus-cnn", "exports") == Path("saved_models/ferplus-cnn")
    Path("saved_models/ferplus-cnn").rmdir()
    assert find_model("ferplus-cnn") == find_model("saved_models/ferplus-cnn", "exports") == SHIPPED / "ferplus-cnn"


@pytest.mark.parametrize(
    "called", ["nobody", "runs/ferplus-cnn", "exports/ferplus-cnn", "/saved_models/ferplus-cnn", "README.md"]
)
def test_what_is_not_there_is_told_with_the_names_of_models_alone(called, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "SHIPPED_MODELS", tmp_path / "shipped")
    for folder in ("saved_models/mine", "saved_models/.being-made.12.part", "shipped/theirs"):
        Path(folder).mkdir(parents=True)
        Path(folder, "metadata.json").touch()
    for folder in (".git", "benchmarks", "saved_models/notes", "runs/one"):
        Path(folder).mkdir(parents=True)
    Path("saved_models/README.md").touch()
    with pytest.raises(ModelError) as caught:
        find_model(called)
    assert str(caught.value) == (
        f"there is no model {called}; expected a model's folder, or the name of one in saved_models or shipped (mine, theirs)"
    )
    with pytest.raises(ModelError, match=r"shipped \(mine, theirs\); shipped has theirs$"):
        find_model("shipped/their")


def test_nothing_to_choose_from_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "SHIPPED_MODELS", tmp_path / "shipped")
    with pytest.raises(ModelError, match=r"expected a run, or the name of one in exports or shipped \(none is there\)"):
        find_model("nobody", "exports", expected="a run")


@pytest.mark.parametrize("called", ["ferplus-cnn", "saved_models/ferplus-cnn"])
def test_the_library_takes_a_name_as_the_commands_do(called):
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    plain = load_exported(called)
    assert plain.path == SHIPPED / "ferplus-cnn"
    recognizer = Recognizer(called, runtime="tensorflow")
    assert recognizer.path == SHIPPED / "ferplus-cnn"
    # Its confidences are calibrated by the temperature, and what the exported model gives is not.
    softened = plain.predict(faces) ** (1 / plain.temperature)
    assert plain.temperature != 1
    np.testing.assert_allclose(recognizer.predict(faces), softened / softened.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(load_keras_model(called)(faces.astype(np.float32)), plain.predict(faces), atol=1e-4)


def test_ones_own_model_of_a_shipped_name_goes_first_in_the_library_too():
    shutil.copytree(SHIPPED / "fer2013-cnn", "saved_models/ferplus-cnn")
    assert len(load_exported("ferplus-cnn").labels) == len(Recognizer("ferplus-cnn").labels) == 7
