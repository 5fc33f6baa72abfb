"""Real, tiny trainings that the tests of the loop share."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fer_keras.data.dataset import DatasetWriter
from training.config import TrainConfig

ROOT = Path(__file__).parent.parent.parent
LABELS = ("neutral", "happiness", "anger")
SIZE, COUNT = 32, 96
MEASURED = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]


def write_bars(folder):
    """Bars at a height that tells the label, on noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(LABELS), COUNT)
    with DatasetWriter(folder, image_size=SIZE, channels=1) as writer:
        for label in labels:
            face = rng.integers(0, 60, (SIZE, SIZE, 1))
            face[4 + 9 * label : 10 + 9 * label, 4:-4] += 150
            writer.add(face.astype(np.uint8))
        columns = {
            "label": [LABELS[label] for label in labels],
            "split": (["train"] * 60 + ["validation"] * 18 + ["test"] * 18),
            "kept": [True] * COUNT,
            "reason": [""] * COUNT,
            "source": [""] * COUNT,
            "gender": [("Female", "Male")[index % 2] for index in range(COUNT)],
        }
        return writer.finish(columns, labels=LABELS, group_columns=("gender",))


def write_lopsided(folder, men_and_women=((80, 16), (24, 24), (36, 36))):
    """Bars of many men and few women in training; for a woman a bar means another label than for a man."""
    rng = np.random.default_rng(1)
    labels, genders, splits = [], [], []
    with DatasetWriter(folder, image_size=SIZE, channels=1) as writer:
        for split, (men, women) in zip(("train", "validation", "test"), men_and_women, strict=True):
            for number, gender in enumerate(["male"] * men + ["female"] * women):
                label = number % len(LABELS)
                shown = label if gender == "male" else (label + 1) % len(LABELS)
                face = rng.integers(0, 60, (SIZE, SIZE, 1))
                face[4 + 9 * shown : 10 + 9 * shown, 4:-4] += 150
                face[:3] = 20 if gender == "male" else 230
                writer.add(face.astype(np.uint8))
                labels.append(LABELS[label])
                genders.append(gender)
                splits.append(split)
        n = len(labels)
        columns = {"label": labels, "split": splits, "kept": [True] * n, "reason": [""] * n, "source": [""] * n}
        return writer.finish({**columns, "gender": genders}, labels=LABELS, group_columns=("gender",))


TINY = {
    "layers": [8, 16],
    "convs_per_stage": [1],
    "batch_size": 16,
    "dropout": 0.5,
    "tensorboard": False,
    "epochs": 4,
    "lr": 0.01,
}


def shallow_densenet(patch):
    """Until `patch` (a pytest.MonkeyPatch) is undone, keras.applications' DenseNet121 has 2 layers a block, not 6 to 24.

    Tracing 121 layers takes a quarter of a minute. For what the loop does with a backbone and its blocks two do as well;
    test_two_phases.py, test_densenet.py and test_contract.py have all 121.
    """
    import keras
    from keras.src.applications import densenet

    patch.setattr(keras.applications, "DenseNet121", functools.partial(densenet.DenseNet, [2, 2, 2, 2]))


def fit(dataset, out, features=None, **settings):
    from training.loop import fit_one
    from training.train import start_run

    config = TrainConfig(
        data=str(dataset.path), out=str(out), export=out.name, saved_models=str(out.parent), **settings
    ).resolved()
    run = start_run(config, dataset)
    config = TrainConfig.from_dict(run.config)
    return run, fit_one(config, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run, features)


def history(run):
    return pd.read_csv(run.path / "history.csv")


CONTINUE = """
import os, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
from training import loop
from training.config import TrainConfig
from training.run_folder import RunFolder

if {kill_after}:
    write = loop.write_history
    def then_die(path, history):
        write(path, history)
        if len(history) == {kill_after}:
            os.kill(os.getpid(), signal.SIGKILL)
    loop.write_history = then_die
if {shallow}:
    import pytest
    from tiny_runs import shallow_densenet
    shallow_densenet(pytest.MonkeyPatch())
run = RunFolder.open({path!r})
dataset = run.dataset()
config = TrainConfig.from_dict(run.config)
loop.fit_one(config, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run)
"""


def ctrl_c_after_the_last_epoch(patch):
    """Until `patch` (a pytest.MonkeyPatch) is undone, Ctrl-C comes as Keras ends a training, past the last epoch."""
    import keras

    fit = keras.Model.fit

    def then_stop(self, *args, **more):
        told = fit(self, *args, **more)
        signal.raise_signal(signal.SIGINT)
        return told

    patch.setattr(keras.Model, "fit", then_stop)


def start_only(dataset, out, **settings):
    from training.train import start_run

    names = {"out": str(out), "export": out.name, "saved_models": str(out.parent)}
    config = TrainConfig(data=str(dataset.path), **{**names, **settings})
    return start_run(config.resolved(), dataset)


def continue_run(run, kill_after=0, shallow=False):
    here = str(Path(__file__).parent)
    code = CONTINUE.format(root=str(ROOT), here=here, path=str(run.path), kill_after=kill_after, shallow=shallow)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
