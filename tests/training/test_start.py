"""Trainings of a network without a backbone that start from an exported model."""

import json

import numpy as np
import pytest
from bands import banded_faces, write_faces
from commandline import refused, run

from fer_keras.data.dataset import FaceDataset
from fer_keras.models.densenet import learnt_size
from fer_keras.models.exported import read_metadata, read_weights
from fer_keras.models.finding import SHIPPED_MODELS
from fer_keras.models.registry import ModelSpec
from fer_keras.models.transfer import load_exported_weights
from training import train
from training.config import TrainConfig
from training.run_folder import RunFolder

SHIPPED = "ferplus-densenet121"
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


def test_the_same_classes_in_another_order_keep_the_last_layer_too(trained, here):
    exported, metadata = RunFolder.open(trained.one).load_model("best"), read_metadata(trained.exported)
    labels = [metadata["labels"][number] for number in (2, 0, 1)]
    model = ModelSpec.from_dict(metadata["spec"]).build(seed=5)
    assert load_exported_weights(model, labels, trained.exported).endswith(f"from the exported model {trained.exported}")
    side = metadata["spec"]["image_size"]
    pixels = np.random.default_rng(0).uniform(0, 255, (4, side, side, 1)).astype(np.float32)
    before, after = np.asarray(exported(pixels)), np.asarray(model(pixels))
    for place, label in enumerate(labels):
        np.testing.assert_allclose(after[:, place], before[:, metadata["labels"].index(label)], atol=1e-6)
    assert np.ptp(before, axis=1).max() > 0.1  # the order shows


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
        (["--weights", "no-such-model"], "there is no model no-such-model"),
        (["--weights", "EXPORTED", "--arch", "resnet"], "is a cnn, its weights do not fit resnet; use it with --arch cnn"),
        (["--weights", "EXPORTED", "--layers", "4,4"], "do not fit this model; leave its options out"),
        (["--weights", "EXPORTED", "--rgb"], "as many channels"),
        (["--weights", "EXPORTED", "--preset", "variant2"], "--preset variant2 does not go with --weights"),
        (["--weights", "EXPORTED", "--option", "preset=variant1"], "--preset variant1 does not go with --weights"),
    ],
)
def test_what_does_not_fit_is_refused(trained, here, capsys, words, expected):
    words = [str(trained.exported) if word == "EXPORTED" else word for word in words]
    assert expected in refused(train.main, capsys, "--data", trained.data, "--epochs", "1", *words)


@pytest.mark.parametrize(
    ("given", "side"),
    [({"weights": SHIPPED}, "learnt"), ({"weights": SHIPPED, "input_size": 40}, 40), ({"weights": "none"}, None)],
)
def test_a_backbone_sees_small_faces_as_large_as_those_that_it_has_learnt(trained, here, capsys, given, side):
    settings = TrainConfig(arch="densenet", data=str(trained.data), out="runs/dense", **given).resolved()
    found = train.start_run(settings, FaceDataset.load(trained.data))
    shipped = json.loads((SHIPPED_MODELS / SHIPPED / "metadata.json").read_text())
    learnt = shipped["spec"]["options"]["input_size"] or shipped["input"]["height"]
    assert found.spec.options["input_size"] == (learnt if side == "learnt" else side)
    told = f"enlarged from {found.spec.image_size} to {learnt} px" in capsys.readouterr().out
    assert told == (side == "learnt")


def test_faces_larger_than_a_backbone_has_learnt_keep_their_details():
    assert learnt_size(SHIPPED_MODELS / SHIPPED, 224) == {}
