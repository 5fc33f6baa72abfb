"""`precision: auto` is decided when a run is begun; the machine on which it goes on is not asked again."""

import json
from contextlib import contextmanager

import pandas as pd
import pytest
from tiny_runs import MEASURED, TINY, fit, history, shallow_densenet, start_only, write_bars

from training import folds, kfold, loop, run_folder
from training.compare import compare
from training.config import TrainConfig
from training.run_folder import RunFolder
from training.scoring import open_model
from training.variants import Variant, train_variants


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture
def machine(monkeypatch):
    """Says what `auto` means on the machine that is used from now on."""

    def use(faster):
        monkeypatch.setattr(run_folder, "choose_precision", lambda wanted: faster if wanted == "auto" else wanted)

    return use


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@contextmanager
def killed_after(epochs):
    """The block ends after so many epochs, of whatever run."""
    write, left = loop.write_history, list(range(epochs))

    def then_die(path, lines):
        write(path, lines)
        left.pop()
        if not left:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "write_history", then_die)
        yield


def go_on(run, dataset):
    run = RunFolder.open(run.path)
    parts = [dataset.subset(run.rows(part)) for part in ("train", "validation")]
    return loop.fit_one(TrainConfig.from_dict(run.config), *parts, run)


def forget(run):
    """Make a run one from before its precision was recorded."""
    description = json.loads((run.path / "config.json").read_text())
    assert description.pop("precision")
    (run.path / "config.json").write_text(json.dumps(description))


def test_a_run_goes_on_elsewhere_by_the_same_arithmetic_and_ends_as_the_unbroken_one(dataset, tmp_path, machine):
    unbroken, _ = fit(dataset, tmp_path / "unbroken", **TINY, precision="mixed_bfloat16")
    machine("mixed_bfloat16")
    run = start_only(dataset, tmp_path / "moved", **TINY)
    with killed_after(epochs=2):
        go_on(run, dataset)
    machine("float32")
    go_on(run, dataset)
    pd.testing.assert_frame_equal(history(run)[MEASURED], history(unbroken)[MEASURED], check_exact=True)
    assert run.config["precision"] == "auto"  # what was asked for
    assert run.precision == run.metrics["precision"] == "mixed_bfloat16"
    other, _ = fit(dataset, tmp_path / "other", **TINY)
    assert other.metrics["precision"] == "float32"
    assert not history(other)["loss"].equals(history(run)["loss"])
    told = compare([open_model(one.path, one.name) for one in (run, other)], dataset)["settings"]
    assert told == {"precision": {"moved": "mixed_bfloat16", "other": "float32"}}


def test_a_run_from_before_this_was_recorded_goes_on_as_it_was_last_trained_else_as_here(dataset, tmp_path, machine):
    machine("mixed_bfloat16")
    run = start_only(dataset, tmp_path / "old", **TINY)
    forget(run)
    machine("float32")
    assert RunFolder.open(run.path).precision == "float32"
    run.update_metrics(precision="mixed_bfloat16")  # as a run that Ctrl-C ended has it
    go_on(run, dataset)
    assert run.metrics["precision"] == "mixed_bfloat16"


def test_trainings_of_a_comparison_go_on_elsewhere_by_the_arithmetic_that_all_were_begun_with(dataset, tmp_path, machine):
    settings = TrainConfig(data=str(dataset.path), **{**TINY, "epochs": 2}).resolved()
    rows = {split: dataset.rows(split) for split in ("train", "validation")}
    planned = [Variant(f"seed{seed}", TrainConfig(**{**settings.to_dict(), "seed": seed}), rows) for seed in (0, 1)]
    machine("mixed_bfloat16")
    with killed_after(epochs=1):
        train_variants(planned, dataset, tmp_path)
    machine("float32")
    runs = train_variants(
        planned, dataset, tmp_path
    )  # the same command: that `auto` means something else here is no other setting
    assert [run.metrics["precision"] for run in runs] == ["mixed_bfloat16"] * 2
    for run in runs:
        forget(run)
    assert [run.path for run in train_variants(planned, dataset, tmp_path)] == [run.path for run in runs]


def test_folds_go_on_elsewhere_by_the_arithmetic_that_all_were_begun_with(dataset, tmp_path, machine, monkeypatch):
    shallow_densenet(monkeypatch)
    words = [
        "--data",
        str(dataset.path),
        "--out",
        str(tmp_path / "folds"),
        "--folds",
        "2",
        "--arch",
        "densenet",
        "--weights",
        "none",
    ]
    words += ["--input-size", "32", "--epochs", "1", "--finetune-epochs", "0"]
    machine("mixed_bfloat16")
    with killed_after(epochs=1):
        kfold.main(words)
    machine("float32")
    assert kfold.main(["--resume", str(tmp_path / "folds")]) == 0
    run = folds.KFoldRun.open(tmp_path / "folds")
    assert [run.fold_run(fold).metrics["precision"] for fold in run.folds] == ["mixed_bfloat16"] * 2
