"""What the README and the documents promise, held against what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_readmes_test_command_to_the_letter():
    command = next(line.strip() for line in README.splitlines() if "pytest" in line and line.startswith("    "))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_command_of_the_readme_exists_with_its_options():
    """Each option that a command is shown with stands in that command's help."""
    import importlib

    shown = re.findall(r"python -m ((?:training|serving)\.\w+)((?: [^\n`#]+)?)", README)
    expected = ["prepare", "visualize", "train", "evaluate", "apply", "kfold", "bias", "mitigate", "robustness", "ensemble"]
    assert {name for name, _ in shown} >= {f"training.{name}" for name in expected}
    assert {name for name, _ in shown} >= {"serving.app", "serving.predict", "serving.desktop"}
    for name, rest in shown:
        text = importlib.import_module(name).build_parser().format_help()
        for option in re.findall(r"--[\w-]+", rest):
            assert option in text, f"{name} has no {option}"


def test_files_that_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for config in re.findall(r"training/configs/[\w.-]+", README):
        assert (ROOT / config).exists(), config


@pytest.mark.parametrize("config", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid(config):
    from training.config import TrainConfig, read_config_file

    TrainConfig.from_dict(read_config_file(config), origin=config.name).resolved()


@pytest.mark.parametrize("name", ["ferplus-cnn", "ferplus-ensemble", "fer2013-cnn", "fer2013-ensemble", "ferplus-densenet121"])
def test_every_shipped_model_loads_and_answers(name):
    import numpy as np

    from fer_keras.labels import EMOTIONS
    from fer_keras.models.exported import load_exported

    model = load_exported(ROOT / "saved_models" / name)
    probabilities = model.predict(np.zeros((2, model.image_size, model.image_size, model.channels), np.uint8))
    assert model.labels == (EMOTIONS[:7] if name.startswith("fer2013") else EMOTIONS)  # FER2013 has no contempt
    assert probabilities.shape == (2, len(model.labels))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_models_of_ferplus_say_that_they_learnt_from_the_same_faces():
    """Else nobody is told where one of them is judged by faces that it knows, or teaches faces that judge the pupil."""
    from fer_keras.data.dataset import same_rows
    from fer_keras.models.exported import read_metadata

    learnt = [read_metadata(ROOT / "saved_models" / name)["trained_on"] for name in ("ferplus-cnn", "ferplus-ensemble")]
    learnt.append(read_metadata(ROOT / "saved_models" / "ferplus-densenet121")["trained_on"])
    assert all(same_rows(learnt[0]["fingerprint"], each["fingerprint"]) for each in learnt)
    assert all("train" in each["splits"] for each in learnt)
