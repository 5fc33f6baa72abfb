"""Trainings of a network without a backbone that start from an exported model."""

import numpy as np
import pytest
from bands import banded_faces, write_faces
from commandline import refused, run

from fer_keras.models.exported import read_weights
from training import train
from training.run_folder import RunFolder

#: Nothing but the statistics of the batch normalisation moves in an epoch.
STILL = ["--epochs", "1", "--lr", "1e-12", "--weight-decay", "0", "--warmup", "0"]


def trainable(values):
    """Kernels, and all else that has more than one axis."""
    return [np.asarray(value) for value in values if np.ndim(value) > 1]


def started(capsys, trained, data, *words):
    code, out, err = run(train.main, capsys, "--data", data, "--weights", trained.exported, *STILL, "--out", "runs/on", *words)
    assert code == 0, err
    return RunFolder.open("runs/on"), "\n".join(out + err)


def test_the_same_classes_keep_all_weights_and_the_options_of_the_model(trained, here, capsys):
    found, printed = started(capsys, trained, trained.data)
    assert f"the weights start from the exported model {trained.exported}\n" in printed
    assert found.spec.options == RunFolder.open(trained.one).spec.options
    after, before = found.load_model("final").get_weights(), read_weights(trained.exported)
    for now, then in zip(trainable(after), trainable(before), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)


def test_other_classes_get_a_new_last_layer(trained, here, capsys):
    faces, names = banded_faces(90)
    parts = ["train"] * 60 + ["validation"] * 15 + ["test"] * 15
    data = write_faces(here / "two", faces, ["yes" if name == names[0] else "no" for name in names], parts, labels=("yes", "no"))
    found, printed = started(capsys, trained, data.path)
    assert "but for the last layer" in printed
    *inner, last = trainable(found.load_model("final").get_weights())
    *inner_then, last_then = trainable(read_weights(trained.exported))
    assert last.shape[1] == 2 < last_then.shape[1]
    for now, then in zip(inner, inner_then, strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--weights", "imagenet"], "no ImageNet weights for cnn"),
        (["--weights", "no-such-model"], "neither a file nor a model in saved_models"),
        (["--weights", "EXPORTED", "--arch", "resnet"], "is a cnn, its weights do not fit resnet; use it with --arch cnn"),
        (["--weights", "EXPORTED", "--layers", "4,4"], "do not fit this model; leave its options out"),
        (["--weights", "EXPORTED", "--rgb"], "as many channels"),
    ],
)
def test_what_does_not_fit_is_refused(trained, here, capsys, words, expected):
    words = [str(trained.exported) if word == "EXPORTED" else word for word in words]
    assert expected in refused(train.main, capsys, "--data", trained.data, "--epochs", "1", *words)
