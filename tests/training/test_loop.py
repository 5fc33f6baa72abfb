"""Real, tiny trainings: the loop is what everything else calls."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from tiny_runs import MEASURED, ROOT, SIZE, TINY, continue_run, ctrl_c_after_the_last_epoch, fit, history, start_only, write_bars

from fer_keras.data.dataset import DatasetWriter, FaceDataset
from fer_keras.errors import FerError, TrainingError, WriteError
from training import loop
from training.backend import choose_precision
from training.config import TrainConfig
from training.loop import _precision, fit_one
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    return fit(dataset, tmp_path_factory.mktemp("runs") / "unbroken", **TINY)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_precision_that_is_told_is_that_of_the_layers(precision):
    from fer_keras.models.registry import create_model

    model = create_model("cnn", classes=3, image_size=16, channels=1, layers=[4], convs_per_stage=1, precision=precision)
    assert _precision(model) == precision


@pytest.mark.parametrize("classes_as", ["one-hot", "sparse"])
def test_a_training_step_is_traced_once(dataset, tmp_path, monkeypatch, classes_as):
    """TensorFlow traces a step anew where the first time made variables, which for a large network takes a minute."""
    import keras

    traced, step = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda self, data: (traced.append(self), step(self, data))[1])
    fit(dataset, tmp_path / "once", **{**TINY, "epochs": 2, "encoding": classes_as})
    assert len(traced) == 1


def test_a_run_leaves_what_the_contract_names(unbroken):
    run, result = unbroken
    names = {path.name for path in run.path.iterdir()}
    assert {
        "config.json",
        "model.json",
        "rows.csv",
        "history.csv",
        "best.weights.h5",
        "final.weights.h5",
        "metrics.json",
        "log.txt",
    } <= names
    assert "state" not in names
    assert result.epochs == 4
    assert list(history(run).columns) == [*MEASURED, "seconds"]
    assert run.config["lr"] == 0.01
    assert json.loads((run.path / "config.json").read_text())["dataset"]["fingerprint"]


def test_best_is_the_epoch_of_lowest_validation_loss_after_the_waiting_time(unbroken):
    run, result = unbroken
    after = history(run).query("epoch > 1")
    assert result.best_epoch == int(after.loc[after["val_loss"].idxmin(), "epoch"])
    assert result.best_val_loss == pytest.approx(after["val_loss"].min())


def test_the_saved_weights_give_the_recorded_validation_loss(unbroken, dataset):
    """The loss worked out by hand from the probabilities of the reloaded models, which are float32 models always."""
    run, result = unbroken
    close = 1e-4 if choose_precision("auto") == "float32" else 1e-2
    rows = run.rows("validation")
    expected = {"best": result.best_val_loss, "final": history(run)["val_loss"].iloc[-1]}
    for which, loss in expected.items():
        probabilities = run.load_model(which)(dataset.faces[rows].astype(np.float32)).numpy()
        by_hand = -np.log(probabilities[np.arange(len(rows)), dataset.label_indices[rows]]).mean()
        assert by_hand == pytest.approx(loss, rel=close)


def test_the_same_seed_gives_the_same_history_and_another_does_not(unbroken, dataset, tmp_path):
    run, _ = fit(dataset, tmp_path / "again", **TINY)
    pd.testing.assert_frame_equal(history(run)[MEASURED], history(unbroken[0])[MEASURED], check_exact=True)
    other, _ = fit(dataset, tmp_path / "other", **TINY, seed=1)
    assert not np.allclose(history(other)["loss"], history(run)["loss"])


def test_a_killed_run_goes_on_and_ends_as_the_unbroken_one(unbroken, dataset, tmp_path):
    run = start_only(dataset, tmp_path / "killed", **TINY)
    assert continue_run(run, kill_after=2).returncode == -signal.SIGKILL
    assert len(history(run)) == 2
    assert not run.finished
    done = continue_run(run)
    assert done.returncode == 0, done.stderr
    assert run.finished
    pd.testing.assert_frame_equal(history(run)[MEASURED], history(unbroken[0])[MEASURED], check_exact=True)
    pixels = dataset.faces[:8].astype(np.float32)
    for which in ("best", "final"):
        assert np.array_equal(run.load_model(which)(pixels), unbroken[0].load_model(which)(pixels))


def test_a_run_that_is_killed_while_its_state_is_removed_is_finished(dataset, tmp_path, monkeypatch):
    class Killed(BaseException):
        """Stands for the end of the process: nothing catches it."""

    unlink, removed = os.unlink, []

    def then_die(path, **folder):
        if folder and removed:
            raise Killed
        if folder:  # so shutil.rmtree calls it, and nothing else here
            removed.append(path)
        unlink(path, **folder)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "unlink", then_die)
        fit(dataset, tmp_path / "run", **{**TINY, "epochs": 2})
    assert removed
    run = RunFolder.open(tmp_path / "run")
    assert run.finished and run.metrics["epochs"] == 2
    assert not [path.name for path in run.path.iterdir() if "state" in path.name]


def test_a_label_that_is_a_soft_distribution_is_learnt_as_one(dataset, tmp_path):
    run, _ = fit(dataset, tmp_path / "smooth", **{**TINY, "epochs": 2, "label_smoothing": 0.3})
    assert history(run)["loss"].iloc[-1] > 0.3  # the entropy that smoothing leaves


@pytest.mark.parametrize("encoding", ["one-hot", "sparse"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoding_and_colour_do_what_they_say(dataset, tmp_path, encoding, channels):
    """One-hot and sparse targets are the same numbers to the loss, so the histories agree; colour changes the input."""
    run, _ = fit(dataset, tmp_path / "run", **{**TINY, "epochs": 1, "encoding": encoding, "channels": channels})
    model = run.load_model("final")
    assert model.input_shape == (None, SIZE, SIZE, channels)
    reference, _ = fit(dataset, tmp_path / "reference", **{**TINY, "epochs": 1, "channels": channels})
    assert history(run)["loss"].tolist() == pytest.approx(history(reference)["loss"].tolist(), rel=1e-5)


@pytest.mark.parametrize("how", ["weight", "resample"])
def test_balancing_trains(dataset, tmp_path, how):
    run, result = fit(dataset, tmp_path / "run", **{**TINY, "epochs": 1, "balance": ["label", "gender"], "balance_by": how})
    assert result.epochs == 1
    assert run.config["balance"] == ["label", "gender"]


def test_mixing_trains_with_weighted_faces(dataset, tmp_path):
    losses = {}
    for name, alpha in {"plain": 0, "mixed": 0.4}.items():
        run, _ = fit(dataset, tmp_path / name, **{**TINY, "epochs": 1, "balance": ["label"], "mixup": alpha})
        losses[name] = history(run)["loss"].tolist()
    assert losses["mixed"] != losses["plain"]


def test_early_stopping_ends_before_the_last_epoch(dataset, tmp_path):
    _, result = fit(
        dataset, tmp_path / "run", **{**TINY, "epochs": 30, "patience": 2, "best_after": 0, "lr": 1e-9, "schedule": "constant"}
    )
    assert result.epochs < 30


def test_a_loss_that_is_no_number_ends_the_run_and_exports_nothing(dataset, tmp_path):
    with pytest.raises(TrainingError, match="loss became (nan|inf).*lower the learning rate"):
        fit(dataset, tmp_path / "run", **{**TINY, "lr": 1e6, "optimizer": "sgd", "warmup": 0, "batch_norm": False})
    assert not (tmp_path / "run" / "best.weights.h5").exists()


def test_a_disk_that_gets_full_later_loses_no_epoch(dataset, tmp_path, monkeypatch):
    """The limit on the size of a file makes writing fail as a full disk does, from the second epoch on."""
    resource = pytest.importorskip("resource")
    before, write = resource.getrlimit(resource.RLIMIT_FSIZE), loop.write_history

    def then_full(path, history):
        write(path, history)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    monkeypatch.setattr(loop, "write_history", then_full)
    try:
        with pytest.raises(WriteError, match="net-00002.npz: File too large; make room; what was trained is kept"):
            fit(dataset, tmp_path / "run", **TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = RunFolder.open(tmp_path / "run")
    assert continue_run(run).returncode == 0 and run.finished and len(history(run)) == TINY["epochs"]


def test_a_run_folder_is_not_overwritten(unbroken, dataset):
    with pytest.raises(FerError, match="exists already.*--resume"):
        start_only(dataset, unbroken[0].path, **TINY, export="another")


def test_a_finished_run_stays_as_it_is(unbroken, dataset):
    run, result = unbroken
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = fit_one(
        TrainConfig.from_dict(run.config), dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run
    )
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_two_processes_do_not_train_one_run(dataset, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    run = start_only(dataset, tmp_path / "run", **TINY)
    with (run.path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the other process does
        second = continue_run(run)
        assert second.returncode
        assert f"{run.path} is being trained by another process" in second.stderr
    assert not (run.path / "history.csv").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FerError, match="no run folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(FerError, match="lacks config.json"):
        RunFolder.open(tmp_path)


def test_data_that_changed_since_is_noticed(unbroken, dataset, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset.path, copy)
    run = start_only(FaceDataset.load(copy), tmp_path / "run", **TINY)
    manifest = (copy / "manifest.csv").read_text()
    (copy / "manifest.csv").write_text(manifest.replace("anger", "neutral", 1))
    with pytest.raises(FerError, match="has changed since"):
        run.dataset()


def test_pixels_that_changed_since_are_noticed(tmp_path):
    data = write_bars(tmp_path / "bars")
    run = start_only(data, tmp_path / "run", **TINY)
    assert run.dataset().fingerprint == data.fingerprint
    faces, manifest = 255 - np.array(data.faces), (data.path / "manifest.csv").read_bytes()
    with DatasetWriter(data.path, image_size=SIZE, channels=1, overwrite=True) as writer:
        for face in faces:
            writer.add(face)
        writer.finish(data.manifest.drop(columns="row"), labels=data.labels, group_columns=data.group_columns)
    assert (data.path / "manifest.csv").read_bytes() == manifest
    with pytest.raises(FerError, match="has changed since"):
        run.dataset()


# Ctrl-C, by the real command


def test_ctrl_c_ends_cleanly_with_the_best_so_far_exported(dataset, tmp_path):
    command = [
        *(
            sys.executable,
            "-m",
            "training.train",
            "--data",
            str(dataset.path),
            "--out",
            str(tmp_path / "run"),
            "--epochs",
            "5000",
        ),
        *("--export", "stopped", "--saved-models", str(tmp_path / "models"), "--layers", "4", "--convs-per-stage", "1"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    lines = tmp_path / "run" / "history.csv"
    while not (lines.is_file() and len(lines.read_text().splitlines()) > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no epoch ended in two minutes"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Stopped by Ctrl-C" in out
    assert f"Go on with --resume {tmp_path / 'run'}\n" in out
    assert "Ctrl-C again stops at once" in err
    assert (tmp_path / "models" / "stopped" / "saved_model.pb").is_file()


def test_ctrl_c_after_the_last_epoch_finishes_the_run_and_is_told(dataset, tmp_path, monkeypatch):
    ctrl_c_after_the_last_epoch(monkeypatch)
    run, result = fit(dataset, tmp_path / "run", **TINY)
    assert result.interrupted  # so that who trains several stops
    assert run.finished and run.metrics["epochs"] == TINY["epochs"] and not run.metrics["interrupted"]
