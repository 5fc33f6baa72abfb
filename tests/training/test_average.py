"""The mean of the weights of runs, as a run and an exported model of its own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import refused, run
from tiny_runs import ROOT, TINY, fit, start_only, write_bars

from fer_keras.models.exported import load_exported
from training import average, train
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
    assert "epochs" not in metadata["trained_on"] and "epochs: None" not in (folder / "models/mean/README.md").read_text()
    assert metadata["figures"][0]["split"] == "test"
    made = RunFolder.open(folder / "mean")
    assert made.finished and any("Exported" in line for line in lines)
    assert made.rows("train").tolist() == sorted(runs[0].rows("train"))
    assert (made.config["export"], made.config["out"]) == ("mean", str(folder / "mean"))
    again = refused(average.main, capsys, *words[:4])
    assert "exists already; choose another --out" in again and "--resume" not in again


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


def test_a_mean_remembers_what_any_of_its_runs_had_learnt_and_who_taught_it(runs, dataset, tmp_path):
    from training.config import TrainConfig
    from training.scoring import rows_learnt
    from training.train import taught_by

    copies = []
    for one, splits, taught in zip(runs, (["test"], []), ({"teacher": "models/ann", "teacher_share": 0.5}, {}), strict=True):
        copy = RunFolder(shutil.copytree(one.path, tmp_path / one.name))
        description = json.loads((copy.path / "config.json").read_text())
        description |= {"learnt_before": {"splits": splits}, "settings": {**description["settings"], **taught}}
        (copy.path / "config.json").write_text(json.dumps(description))
        copies.append(copy)
    made = average.average(copies, TrainConfig.from_dict(copies[-1].config), tmp_path / "mean")
    assert rows_learnt(made, dataset)[0].tolist() == sorted([*dataset.rows("train"), *dataset.rows("test")])
    told = {"teacher": "ann", "teacher_share": 0.5, "teacher_asked": "faces"}
    assert taught_by(made) == taught_by(copies[0]) == told and taught_by(copies[1]) == {}
    other = {**told, "teacher": ["bea", "ann"]}
    assert average._joined([told, {}, other]) == {**told, "teacher": ["ann", "bea"]}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def raising(error):
    raise error


@pytest.fixture
def truncated(runs, tmp_path):
    """A copy of the second run, whose best weights are cut off."""
    copy = shutil.copytree(runs[1].path, tmp_path / "truncated")
    weights = copy / "best.weights.h5"
    weights.write_bytes(weights.read_bytes()[:500])
    return copy


def test_a_mean_that_fails_leaves_nothing_and_its_name_free(runs, truncated, tmp_path, capsys, monkeypatch):
    (tmp_path / "means" / "mine").mkdir(parents=True)
    out = ["--saved-models", tmp_path / "models", "--out", tmp_path / "means" / "mine"]
    told = refused(average.main, capsys, runs[0].path, truncated, *out)
    assert f"{truncated / 'best.weights.h5'} can't be read (Unable to" in told and "unexpected" not in told
    for wrong in (OSError("no room"), RuntimeError("strange")):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "update_metrics", lambda self, wrong=wrong, **values: raising(wrong))
            assert str(wrong) in refused(average.main, capsys, *[run.path for run in runs], *out)
    assert [path.name for path in (tmp_path / "means").rglob("*")] == ["mine"]  # which was there before
    code, _, err = run(average.main, capsys, *[run.path for run in runs], *out)
    assert code == 0, err


def test_a_disk_that_is_full_is_told_without_the_tracebacks_of_hdf5(runs, tmp_path):
    """The limit on the size of a file makes writing fail as a full disk does, at the weights."""
    pytest.importorskip("resource")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from training.average import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [*(str(run.path) for run in runs), "--out", str(tmp_path / "mean")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(r"^[^\n]*can't write [^\n]*best.weights.h5: File too large; make room\n$", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mean_that_is_killed_is_no_training_to_go_on_with(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(RunFolder, "update_metrics", lambda self, **values: raising(Killed()))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)  # a killed process clears nothing away
    with pytest.raises(Killed):
        average.main([str(word) for word in (*[run.path for run in runs], "--out", tmp_path / "mean")])
    assert "no run folder" in refused(train.main, capsys, "--resume", tmp_path / "mean")
