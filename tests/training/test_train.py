"""The command that everybody starts with, as they would run it: from data to an exported model, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import commandline
import numpy as np
import pytest

from training import train

ROOT = Path(__file__).parent.parent.parent


def small(*more):
    """A run of seconds."""
    return [*("--layers", "8,16", "--epochs", "2", "--batch-size", "32", "--lr", "0.01"), *more]


refused = partial(commandline.refused, train.main)


def test_a_run_is_evaluated_and_exported_as_the_contract_says(trained, here, capsys):
    from fer_keras.models.exported import load_exported

    assert train.main(["--data", str(trained.data), "--out", "runs/one", "--export", "bands", *small()]) == 0
    printed = capsys.readouterr().out
    assert "saved_models/bands" in printed
    model = load_exported(here / "saved_models" / "bands")
    metadata = json.loads((here / "saved_models" / "bands" / "metadata.json").read_text())
    [figure] = metadata["figures"]
    assert (figure["split"], figure["protocol"], figure["n"]) == ("test", "label", 84)
    assert figure["accuracy_ci95"][0] <= figure["accuracy"] <= figure["accuracy_ci95"][1]
    # The figure in the metadata, counted by hand from the answers of the exported model.
    from fer_keras.data.dataset import FaceDataset

    dataset = FaceDataset.load(trained.data)
    rows = dataset.rows("test")
    answers = np.array(model.labels)[model.predict(dataset.faces[rows]).argmax(axis=1)]
    assert (answers == dataset.manifest["label"].to_numpy()[rows]).mean() == pytest.approx(figure["accuracy"])
    for name in ("loss.png", "accuracy.png"):
        assert (here / "runs" / "one" / "figures" / name).stat().st_size > 1000
    assert list((here / "runs" / "one" / "tensorboard").rglob("events*"))

    assert "bands exists already" in refused(capsys, "--data", str(trained.data), "--export", "bands", *small())
    assert "exists already" in refused(capsys, "--data", str(trained.data), "--out", "runs/one", "--export", "other", *small())


@pytest.mark.parametrize("out", [(), ("--out", "elsewhere/mine")])
def test_an_export_of_a_run_that_was_stopped_tells_how_to_go_on_with_it(trained, here, capsys, monkeypatch, out):
    from training import loop

    write_history = loop.write_history

    def then_stop(path, history):
        write_history(path, history)
        if len(history) == 1:
            signal.raise_signal(signal.SIGINT)

    words = ["--data", str(trained.data), "--export", "half", *small("--no-tensorboard"), *out]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_history", then_stop)
        assert train.main(words) == 0
    capsys.readouterr()
    [run] = Path(out[1] if out else "runs/x").parent.iterdir()
    told = f"its training was stopped and goes on by python -m training.train --resume {run}; choose another --export"
    assert told in refused(capsys, *words)
    # Under the same name, by whatever path, it takes the place of what it exported when it was stopped.
    assert train.main(["--resume", str(run), "--export", "half", "--saved-models", str(here / "saved_models")]) == 0
    assert [path.name for path in Path("saved_models").iterdir()] == ["half"]
    capsys.readouterr()
    assert "saved_models/half exists already; choose another --export, or --overwrite" in refused(capsys, *words)


def test_a_run_that_is_stopped_while_it_is_judged_takes_the_place_of_what_it_exported_before(trained, here, capsys, monkeypatch):
    """Ctrl-C in training, which exports; resumed; Ctrl-C again when it is trained, before the export."""
    from training import evaluate, loop

    write_history, words = loop.write_history, ["--data", str(trained.data), "--out", "runs/one", *small("--no-tensorboard")]

    def then_stop(path, history):
        write_history(path, history)
        signal.raise_signal(signal.SIGINT)

    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_history", then_stop)
        assert train.main(words) == 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_run", stop)
        assert train.main(["--resume", "runs/one"]) == 130
    assert "Go on with python -m training.train --resume runs/one\n" in capsys.readouterr().err
    assert train.main(["--resume", "runs/one"]) == 0
    [exported] = Path("saved_models").iterdir()
    told = json.loads((exported / "metadata.json").read_text())["trained_on"]
    assert told["epochs"] == 2 and "stopped" not in told
    capsys.readouterr()
    assert train.main(["--resume", "runs/one"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_finished_run_is_exported_again_where_asked_and_finds_its_data_where_that_went(trained, here, capsys):
    import shutil

    from fer_keras.models.exported import load_exported

    shutil.copytree(trained.data, here / "first")
    assert train.main(["--data", "first", "--out", "runs/again", *small()]) == 0
    capsys.readouterr()
    exported = here / "saved_models" / "first-cnn"
    size = load_exported(exported).image_size
    faces = np.random.default_rng(0).integers(0, 256, (4, size, size, 1)).astype(np.uint8)
    said = load_exported(exported).predict(faces)

    assert train.main(["--resume", "runs/again"]) == 0
    assert "is finished: saved_models/first-cnn" in capsys.readouterr().out
    shutil.rmtree(exported)
    assert train.main(["--resume", "runs/again"]) == 0
    np.testing.assert_array_equal(load_exported(exported).predict(faces), said)

    shutil.move(here / "first", here / "second")
    assert "first" in refused(capsys, "--resume", "runs/again")
    shutil.copytree("second", "third")
    lines = Path("third/manifest.csv").read_text().splitlines(keepends=True)
    Path("third/manifest.csv").write_text("".join([lines[0], *lines[2:], lines[1]]))
    assert "third holds other faces" in refused(capsys, "--resume", "runs/again", "--data", "third")
    assert train.main(["--resume", "runs/again", "--data", "second", "--export", "other"]) == 0
    np.testing.assert_array_equal(load_exported(here / "saved_models" / "other").predict(faces), said)
    assert "exists already" in refused(capsys, "--resume", "runs/again", "--export", "other")
    assert train.main(["--resume", "runs/again"]) == 0  # it knows where its data is now


def test_a_name_that_was_not_asked_for_is_taken_at_the_end_where_another_took_it_meanwhile(trained, here, capsys):
    """Two trainings on the same data under way at once: none loses its model, and none is refused after hours."""
    import shutil

    from fer_keras.models.exported import export_model, read_metadata
    from training.config import TrainConfig
    from training.run_folder import RunFolder

    assert train.main(["--data", str(trained.data), "--out", "runs/two", "--export", "first", *small()]) == 0
    run, models = RunFolder.open("runs/two"), here / "saved_models"
    metadata = {"labels": list(run.labels), "trained_on": "bands"}

    def export(path):
        if path.name == "d-cnn":  # the other one ends while this one is being written
            shutil.copytree(models / "first", path)
        return export_model(run.load_model("best"), run.spec, path, metadata)

    assert train.export_under(TrainConfig(), "d-cnn", export) == Path("saved_models/d-cnn-2")
    assert read_metadata(models / "d-cnn")["name"] == "first"
    assert read_metadata(models / "d-cnn-2")["name"] == "d-cnn-2"


def test_of_commands_begun_in_the_same_second_each_has_a_folder_of_its_own(here, monkeypatch):
    import contextlib
    import time

    from training.run_folder import folder_for

    monkeypatch.setattr(time, "strftime", lambda form: "20260101-120000")
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(folder_for(None, "cnn")) for _ in range(3)]
        (folders[1] / "rows.csv").touch()
    assert [folder.name for folder in folders] == [f"20260101-120000-cnn{end}" for end in ("", "-2", "-3")]
    assert all(folder.is_dir() for folder in folders)
    with pytest.raises(KeyError), folder_for(None, "cnn") as folder:
        raise KeyError
    assert not folder.exists()


def test_of_processes_that_find_the_same_folder_empty_one_has_it(trained, here):
    """Settings of one beside the weights of another would tell lies."""
    import threading

    from fer_keras.data.dataset import FaceDataset
    from fer_keras.errors import FerError
    from fer_keras.models.registry import ModelSpec
    from training.run_folder import RunFolder

    dataset = FaceDataset.load(trained.data)
    spec = ModelSpec("cnn", len(dataset.labels), dataset.image_size, dataset.channels, {})
    rows = {"train": dataset.rows("train"), "validation": dataset.rows("validation")}
    for attempt in range(5):
        together, made, refusals = threading.Barrier(6), [], []

        def create(seed, out=here / "runs" / str(attempt), together=together, made=made, refusals=refusals):
            together.wait()
            try:
                RunFolder.create(out, {"seed": seed}, spec, dataset, rows)
                made.append(seed)
            except FerError as error:
                refusals.append(str(error))

        threads = [threading.Thread(target=create, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1 and len(refusals) == 5
        assert all("exists already" in each for each in refusals)
        assert RunFolder.open(here / "runs" / str(attempt)).config == {"seed": made[0]}


def test_a_class_without_a_training_face_is_told(here, capsys):
    from bands import banded_faces, write_faces

    from training.config import TrainConfig

    faces, names = banded_faces(30)
    parts = ["test" if name == names[0] else "train" for name in names]
    parts[parts.index("train")] = "validation"
    dataset = write_faces(here / "d", faces, names, parts)
    train.start_run(TrainConfig(data=str(dataset.path), layers=[4]).resolved(), dataset)
    assert f"note: no training face of {names[0]} ({parts.count('test')} elsewhere)" in capsys.readouterr().out


def test_the_default_draws_its_faces_and_says_so(here, capsys, monkeypatch):
    from fer_keras.data import prepare
    from training.config import TrainConfig

    few = prepare.PrepareSettings(source="synthetic", count=160)
    monkeypatch.setattr(prepare, "PrepareSettings", lambda source: few)
    dataset = train.load_dataset(TrainConfig())
    printed = capsys.readouterr().out
    assert "drawn faces" in printed
    assert "training.prepare" in printed
    assert dataset.splits() == ("train", "validation", "test")
    people = [set(dataset.manifest.loc[dataset.rows(split), "identity"]) for split in dataset.splits()]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "nowhere"], "nowhere is not a prepared data set.*training.prepare"),
        (["--arch", "densnet"], "unknown arch 'densnet'; choose from cnn"),
        (["--config", "nowhere.yaml"], "can't read the config file nowhere.yaml"),
        (["--resume", "nowhere"], "there is no run folder nowhere"),
        (["--resume", "nowhere", "--epochs", "3"], "leave out --epochs"),
        (["--layers", "a,b"], "--layers"),
        (["--pool-kernel", "0"], "pool_kernel"),
        (["--option", "colour=red"], "has no option 'colour'"),
        (["--balance", "age_group"], "can't balance by age_group"),
        (["--export", "../elsewhere"], "--export is a name"),
        (["--targets", "majority"], "no FER\\+ votes"),
        (["--arch", "densenet", "--weights", "no-such-model"], "no model no-such-model; expected auto, imagenet, none, a file"),
        (["--arch", "densenet", "--weights", "missing.h5"], "there is no model missing.h5; expected .* a file"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(trained, here, capfd, words, expected):
    data = [] if "--data" in words or "--resume" in words else ["--data", str(trained.data)]
    line = refused(capfd, *data, *words)
    assert re.search(expected, line), line
    assert not [path for path in here.rglob("*") if path.is_file()]


def test_debug_shows_the_traceback(here):
    with pytest.raises(Exception, match="nowhere"):
        train.main(["--data", "nowhere", "--debug"])


def test_data_without_a_part_is_refused_with_the_parts_it_has(tmp_path, here, capsys):
    from fer_keras.data.dataset import DatasetWriter

    with DatasetWriter(tmp_path / "d", image_size=48, channels=1) as writer:
        writer.add(None)
        columns = {"label": ["a"], "split": ["test"], "kept": [True], "reason": [""], "source": [""]}
        writer.finish(columns, labels=["a", "b"])
    assert "has no train faces, only 1 test" in refused(capsys, "--data", str(tmp_path / "d"))


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(trained, here):
    """The limit on the size of a file makes writing fail as a full disk does, at the weights."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "from training.train import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["--data", str(trained.data), "--out", "runs/full", "--no-tensorboard", *small("--layers", "32,64")]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=here)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.search(r"can't write .*net-00001.npz: File too large; make room$", done.stderr), done.stderr  # and no more advice
    assert not list(here.rglob("*.part")) and not list(here.rglob("part-*"))
    assert not (here / "runs" / "full").exists()
    assert not (here / "saved_models").exists()


def test_an_early_epoch_that_was_lower_and_does_not_count_is_told(tmp_path):
    from training.config import TrainConfig

    run = SimpleNamespace(path=tmp_path)
    (tmp_path / "history.csv").write_text("epoch,val_loss\n1,0.9\n2,0.4667\n3,0.8\n4,0.7172\n")
    told = train._passed_over(run, TrainConfig(best_after=3), 0.7172)
    assert told.startswith("Epoch 2 had 0.4667, but best is looked for after epoch 3") and "--best-after 0" in told
    assert train._passed_over(run, TrainConfig(best_after=0), 0.4667) is None
