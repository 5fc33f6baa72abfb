"""What an install without the clone brings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that would be copied to site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_all_that_is_committed_of_the_packages_is_installed_and_no_model_of_ones_own(installed):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, so nothing tells what is shipped")
    committed = {Path(name) for name in listed.stdout.split("\0") if name}
    expected = {path for path in committed if path.parts[0] in ("fer_keras", "training", "serving")}
    expected |= {"fer_keras" / path for path in committed if path.parts[0] == "saved_models" and path.name != "README.md"}
    expected |= {"fer_keras" / path for path in committed if path.match("saved_models/*/README.md")}
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert expected <= there
    models = Path("fer_keras/saved_models")
    assert {path for path in there - expected if path.is_relative_to(models)} == set()


def test_shipped_models_are_found_from_an_empty_folder(installed, tmp_path):
    code = "from serving.model_paths import *; print(find_default_model(), *find_models(['ferplus-densenet121']).values())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    models = installed / "fer_keras" / "saved_models"
    assert said.stdout.split() == [str(models / "ferplus-cnn"), str(models / "ferplus-densenet121")], said.stderr[-2000:]


def run_installed(installed, folder, *words):
    """A Python of an install without the clone, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("model", ["ferplus-cnn", "saved_models/ferplus-cnn"])
def test_a_command_that_judges_models_finds_the_shipped_ones_from_an_empty_folder(installed, tmp_path, model):
    done = run_installed(installed, tmp_path, "-m", "training.evaluate", "--model", model, "--data", "nowhere")
    assert "nowhere is not a prepared data set" in done.stderr, done.stderr[-2000:]  # the model was found, or it would be told


def test_shipped_configs_are_found_from_an_empty_folder(installed, tmp_path):
    for name in ("training/configs/ferplus-cnn-start.yaml", "ferplus-cnn-start"):
        done = run_installed(installed, tmp_path, "-m", "training.train", "--config", name)
        assert "data/prepared/ferplus is not a prepared data set" in done.stderr, done.stderr[-2000:]


def test_the_readmes_example_runs_from_a_folder_with_nothing_but_a_photograph(installed, tmp_path):
    from PIL import Image

    Image.fromarray(pytest.importorskip("skimage.data").astronaut()).save(tmp_path / "photo.jpg", quality=95)
    section = (ROOT / "README.md").read_text().partition("\n## Use a model\n")[2].partition("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    done = run_installed(installed, tmp_path, "-c", code + "\nprint(model.labels, probabilities.shape, probabilities.dtype)")
    assert done.returncode == 0, done.stderr[-2000:]
    face, of_network = done.stdout.splitlines()
    box, label, confidence = re.fullmatch(r"\((.+)\) (\w+) ([01]\.\d+)", face).groups()
    assert label == "happiness" and float(confidence) > 0.5  # she smiles
    assert len(box.split(", ")) == 4
    assert of_network.endswith("(1, 8) float32")
