"""Two small runs and an exported model, trained once for all tests that judge models."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from bands import banded_faces, train, write_faces


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """data: 192 train, 48 validation, 84 test faces. one, two: runs. exported: the best model of run one."""
    from fer_keras.models.exported import export_model
    from training.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("trained")
    faces, names = banded_faces(324)
    data = write_faces(folder / "bands", faces, names, ["train"] * 192 + ["validation"] * 48 + ["test"] * 84)
    train(folder / "one", data, epochs=8, lr=0.02, augment=False)
    train(folder / "two", data, epochs=1, lr=0.001, augment=False)
    run = RunFolder.open(folder / "one")
    metadata = {"labels": list(run.labels), "trained_on": "bands", "temperature": 1.25}
    exported = export_model(run.load_model("best"), run.spec, folder / "bands-cnn", metadata)
    return SimpleNamespace(data=data.path, one=folder / "one", two=folder / "two", exported=exported)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, so that nothing is written elsewhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
