"""The mean of the weights of runs, as a run and an exported model of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from commandline import refused, run
from tiny_runs import TINY, fit, start_only, write_bars

from fer_keras.models.exported import load_exported
from training import average
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("average")


@pytest.fixture(scope="module")
def dataset(folder):
    return write_bars(folder / "bars")


@pytest.fixture(scope="module")
def runs(dataset, folder):
    return [fit(dataset, folder / name, **{**TINY, "epochs": epochs})[0] for name, epochs in (("first", 3), ("second", 1))]


def test_the_exported_model_has_the_mean_of_the_weights(runs, folder, dataset, capsys):
    words = [run.path for run in runs] + ["--out", folder / "mean", "--export", "mean", "--saved-models", folder / "models"]
    code, lines, err = run(average.main, capsys, *words)
    assert code == 0, err
    model = runs[0].load_model("best")
    weights = [one.load_model("best").get_weights() for one in runs]
    model.set_weights([(a + b) / 2 for a, b in zip(*weights, strict=True)])
    faces = dataset.faces[:12]
    said = load_exported(folder / "models" / "mean").predict(faces)
    np.testing.assert_allclose(said, np.asarray(model(faces.astype(np.float32))), atol=1e-5)
    metadata = json.loads((folder / "models" / "mean" / "metadata.json").read_text())
    assert metadata["trained_on"]["mean_of"] == ["first", "second"]
    assert metadata["figures"][0]["split"] == "test"
    made = RunFolder.open(folder / "mean")
    assert made.finished and any("Exported" in line for line in lines)
    assert made.rows("train").tolist() == sorted(runs[0].rows("train"))


def test_what_has_no_mean_is_refused(runs, folder, dataset, tmp_path, capsys):
    first = runs[0].path
    other, _ = fit(dataset, tmp_path / "wider", **{**TINY, "layers": [8, 24], "epochs": 1})
    unfinished = start_only(dataset, tmp_path / "unfinished", **TINY)
    for words, expected in [
        ([first, first], "two different runs"),
        ([first, other.path], "different architectures"),
        ([first, unfinished.path], "is not trained yet"),
        ([first, tmp_path / "nothing"], "no run folder"),
        ([first, Path(__file__).parents[2] / "saved_models" / "ferplus-cnn"], "is an exported model; give the run folder"),
    ]:
        assert expected in refused(average.main, capsys, *words, "--saved-models", folder / "models", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
