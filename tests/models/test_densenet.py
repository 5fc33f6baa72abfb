import functools
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.densenet import (
    calibrate_batch_norm,
    freeze_backbone,
    load_backbone_weights,
    unfreeze_last_blocks,
)
from fer_keras.models.exported import export_model, load_keras_model
from fer_keras.models.registry import ModelSpec

SIZE = 32
SPEC = ModelSpec("densenet121", 4, SIZE, 1, {"head_units": [8]})


@pytest.fixture(scope="module")
def model():
    """One densenet121 for the whole file; what tests change of it they change back."""
    return SPEC.build(seed=1)


@pytest.fixture(scope="module")
def application():
    """keras.applications' own DenseNet121, with random weights and statistics that are not mean 0 and variance 1."""
    import keras

    network = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg")
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.9, 1.1, value.shape).astype(np.float32) for value in layer.get_weights()])
    return network


@pytest.fixture
def initial(model):
    """The weights before the test, which are put back after it."""
    before = model.get_weights()
    yield before
    model.set_weights(before)
    freeze_backbone(model)


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """A saved_models folder with the model as "ferplus-densenet121" and a cnn as "plain"."""
    folder = tmp_path_factory.mktemp("saved_models")
    details = {"labels": list("abcd"), "trained_on": "noise"}
    export_model(model, SPEC, folder / "ferplus-densenet121", details)
    plain = ModelSpec("cnn", 4, 16, 1, {"layers": [4], "convs_per_stage": 1})
    export_model(plain.build(), plain, folder / "plain", details)
    return folder


def features(network, pixels):
    return np.asarray(network(pixels.astype(np.float32), training=False))


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_model_is_backbone_and_head(model, pixels):
    faces = pixels(2, SIZE, 1).astype(np.float32)
    assert [layer.name for layer in model.layers] == ["pixels", "backbone", "head"]
    assert model.get_layer("head").layers[-1].name == "probabilities"
    backbone_output = model.get_layer("backbone")(faces)
    assert backbone_output.shape == (2, 1024)
    np.testing.assert_allclose(model.get_layer("head")(backbone_output), model(faces), atol=1e-6)


def test_preprocessing_is_that_of_keras_applications(model, application, initial, pixels):
    import keras

    model.get_layer("backbone").set_weights(application.get_weights())
    grey = pixels(2, SIZE, 1)
    prepared = keras.applications.densenet.preprocess_input(np.repeat(grey, 3, axis=3).astype(np.float32))
    np.testing.assert_allclose(features(model.get_layer("backbone"), grey), features(application, prepared), rtol=1e-3, atol=1e-4)


def test_small_pictures_are_refused_unless_enlarged_inside():
    with pytest.raises(ConfigError, match="densenet121 needs pictures of 32 px or more, got 24; give the option input_size=32"):
        ModelSpec("densenet", 4, 24, 1)
    with pytest.raises(ConfigError, match="option input_size of model densenet121 must be null .* got 24"):
        ModelSpec("densenet", 4, 48, 1, {"input_size": 24})
    model = ModelSpec("densenet", 4, 24, 1, {"input_size": 40, "head_units": []}).build()
    assert model.input_shape == (None, 24, 24, 1)
    assert model.get_layer("backbone").get_layer("resize").output.shape == (None, 40, 40, 1)
    assert not [layer.name for layer in model.get_layer("head").layers if "dense" in layer.name]


def test_a_frozen_backbone_leaves_only_the_head_to_train(model, initial):
    freeze_backbone(model)
    # A dense layer and the classifier, each with weights and bias.
    assert [tuple(weight.shape) for weight in model.trainable_weights] == [(1024, 8), (8,), (8, 4), (4,)]


# DenseNet121 has 6, 12, 24 and 16 layers of two convolutions, a convolution in each of the three transitions, and one at
# the start.
@pytest.mark.parametrize(
    ("blocks", "convolutions", "first"),
    [
        (0, 0, None),
        (1, 2 * 16, "conv5_block1_1_conv"),
        (2, 2 * (16 + 24) + 1, "conv4_block1_1_conv"),
        (3, 2 * (16 + 24 + 12) + 2, "conv3_block1_1_conv"),
        (4, 2 * (16 + 24 + 12 + 6) + 3 + 1, "conv1_conv"),
    ],
)
def test_the_last_blocks_are_unfrozen_without_batch_normalisation(model, initial, blocks, convolutions, first):
    unfreeze_last_blocks(model, blocks)
    trainable = [layer for layer in model.get_layer("backbone").layers if layer.trainable_weights]
    assert len(trainable) == convolutions
    assert {type(layer).__name__ for layer in trainable} <= {"Conv2D"}
    assert (trainable[0].name if trainable else None) == first
    assert len(model.trainable_weights) == convolutions + 4


@pytest.mark.parametrize("blocks", [-1, 5, 1.5, True])
def test_a_count_of_blocks_that_is_not_there_is_refused(model, blocks):
    with pytest.raises(ConfigError, match="densenet121 has 4 dense blocks; unfreeze 0 to 4"):
        unfreeze_last_blocks(model, blocks)


def test_batch_normalisation_stays_in_inference_mode_while_training(model, initial, pixels):
    unfreeze_last_blocks(model, 4)
    faces = pixels(4, SIZE, 1).astype(np.float32)
    model(faces, training=True)
    assert same(model.get_weights(), initial)
    backbone = model.get_layer("backbone")
    np.testing.assert_array_equal(np.asarray(backbone(faces, training=True)), features(backbone, faces))


def test_calibration_takes_the_statistics_of_the_pictures(model, initial, pixels):
    import keras

    backbone = model.get_layer("backbone")
    batches = [pixels(16, SIZE, 1, seed=1), pixels(16, SIZE, 1, seed=2) // 2]
    before = features(backbone, batches[0]).std(axis=0).mean()
    assert calibrate_batch_norm(model, batches) == 32

    # Batch normalisation sees the first convolution's output; its statistics are computed here with numpy.
    first = keras.Model(backbone.input, backbone.get_layer("conv1_conv").output)
    outputs = [features(first, batch) for batch in batches]
    _, _, mean, variance = backbone.get_layer("conv1_bn").get_weights()
    np.testing.assert_allclose(mean, np.mean([out.mean(axis=(0, 1, 2)) for out in outputs], axis=0), atol=1e-4)
    np.testing.assert_allclose(variance, np.mean([out.var(axis=(0, 1, 2)) for out in outputs], axis=0), rtol=1e-2)

    assert features(backbone, batches[0]).std(axis=0).mean() > 2 * before
    layer = backbone.get_layer("conv3_block1_0_bn")
    assert (layer.trainable, layer.momentum) == (False, 0.99)
    once = model.get_weights()
    calibrate_batch_norm(model, batches)
    assert same(model.get_weights(), once)


def test_calibration_without_pictures_is_refused(model):
    with pytest.raises(ModelError, match="no pictures"):
        calibrate_batch_norm(model, [])


def test_a_model_without_backbone_is_refused():
    model = ModelSpec("cnn", 4, 16, 1, {"layers": [4], "convs_per_stage": 1}).build()
    unfreeze = functools.partial(unfreeze_last_blocks, blocks=1)
    calibrate = functools.partial(calibrate_batch_norm, batches=[])
    for call in (freeze_backbone, unfreeze, calibrate, load_backbone_weights):
        with pytest.raises(ModelError, match="model cnn has no pretrained backbone"):
            call(model)


# Weights


def write_legacy_h5(network, path):
    """A file as keras.applications publishes them: one group a layer, named in attributes. Written with h5py alone."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{index}:0" for index in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


@pytest.mark.parametrize("name", ["densenet121_notop.h5", "densenet.weights.h5", "densenet.keras"])
def test_weights_of_keras_applications_load_from_every_kind_of_file(model, application, initial, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".weights.h5"):
        application.save_weights(path)
    elif name.endswith(".keras"):
        application.save(path)
    else:
        write_legacy_h5(application, path)
    used = load_backbone_weights(model, str(path))
    assert same(model.get_layer("backbone").get_weights(), application.get_weights())
    assert (used.source, used.pretrained) == ("file", True)
    assert str(path) in str(used)


def test_a_missing_weights_file_is_told(model):
    with pytest.raises(ModelError, match=r"there is no model nowhere/net\.h5; expected auto, imagenet, none, a file"):
        load_backbone_weights(model, "nowhere/net.h5")


@pytest.mark.parametrize("kind", ["other network", "damaged", "zip without weights", "text"])
def test_a_weights_file_that_does_not_fit_is_told_and_changes_nothing(model, initial, tmp_path, kind):
    path = tmp_path / {"zip without weights": "file.keras", "text": "notes.txt"}.get(kind, "file.weights.h5")
    if kind == "other network":
        ModelSpec("cnn", 4, 16, 1, {"layers": [4], "convs_per_stage": 1}).build().save_weights(path)
    elif kind == "zip without weights":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello", "world")
    else:
        path.write_bytes(b"not a weights file")
    expected = r"must end with \.h5" if kind == "text" else "does not fit the backbone of densenet121"
    with pytest.raises(ModelError, match=expected) as caught:
        load_backbone_weights(model, str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(model.get_weights(), initial)


def test_an_exported_model_gives_its_backbone_by_name_and_by_path(model, initial, exports, pixels):
    backbone = model.get_layer("backbone")
    expected = backbone.get_weights()
    for weights in ("ferplus-densenet121", str(exports / "ferplus-densenet121")):
        backbone.set_weights([value * 0.5 for value in expected])
        used = load_backbone_weights(model, weights, exports)
        assert same(backbone.get_weights(), expected)
        assert (used.source, used.pretrained) == ("export", True)
        assert "ferplus-densenet121" in str(used)


def test_an_exported_densenet_becomes_a_keras_model_again(model, initial, exports, pixels):
    again = load_keras_model(exports / "ferplus-densenet121")
    assert same(again.get_weights(), initial)
    assert [layer.name for layer in again.layers] == ["pixels", "backbone", "head"]


def test_an_exported_model_of_another_kind_is_refused(model, exports):
    with pytest.raises(ModelError, match="plain is a cnn, its backbone does not fit densenet121"):
        load_backbone_weights(model, "plain", exports)


def test_an_unknown_name_is_refused_with_those_that_exist(model, exports):
    with pytest.raises(ModelError, match=r"no model ferplus; expected .* in .* or shipped \(.*ferplus-densenet121.*, plain.*\)"):
        load_backbone_weights(model, "ferplus", exports)


def test_none_leaves_the_random_weights(model, initial):
    used = load_backbone_weights(model, "none")
    assert (used.source, used.pretrained) == ("none", False)
    assert same(model.get_weights(), initial)


def test_without_network_imagenet_is_refused_in_time_and_auto_takes_the_best_there_is(exports, tmp_path):
    """In a process of its own: Keras reads KERAS_HOME once. A proxy that nobody serves closes the network on any machine."""
    code = """
        import json, pathlib, sys, time
        from fer_keras.errors import ModelError
        from fer_keras.models import finding
        from fer_keras.models.densenet import load_backbone_weights
        from fer_keras.models.registry import ModelSpec
        model = ModelSpec("densenet121", 4, 32, 1).build()
        home, exports = map(pathlib.Path, sys.argv[1:])
        cached = home / "models" / "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
        found = {}
        start = time.monotonic()
        try:
            load_backbone_weights(model, "imagenet")
        except ModelError as error:
            found["imagenet"] = str(error)
        found["seconds"] = time.monotonic() - start
        found["auto elsewhere"] = vars(load_backbone_weights(model, "auto", home))
        finding.SHIPPED_MODELS = home  # as where the package is without the repository
        found["auto"] = vars(load_backbone_weights(model, "auto", home))
        found["auto with exports"] = vars(load_backbone_weights(model, "auto", exports))
        cached.parent.mkdir(exist_ok=True)
        cached.write_bytes(b"the first half of a download")
        try:
            load_backbone_weights(model, "imagenet")
        except ModelError as error:
            found["partial"] = str(error)
        found["partial is gone"] = not cached.exists()
        print(json.dumps(found))
    """
    closed = {name: "http://127.0.0.1:9" for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")}
    environment = {**os.environ, **closed, "no_proxy": "", "NO_PROXY": "", "KERAS_HOME": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(exports)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for message in (found["imagenet"], found["partial"]):
        assert "ImageNet weights for densenet121 could not be downloaded" in message
        assert "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5" in message
        assert str(tmp_path / "models") in message
        assert "--weights PATH" in message
        assert "\n" not in message
    assert found["seconds"] < 20
    assert found["partial is gone"]
    shipped = Path(__file__).resolve().parents[2] / "saved_models" / "ferplus-densenet121"
    assert found["auto elsewhere"]["source"] == "export"
    assert str(shipped) in found["auto elsewhere"]["text"]
    assert (found["auto"]["source"], found["auto"]["pretrained"]) == ("none", False)
    assert "random weights" in found["auto"]["text"]
    assert (found["auto with exports"]["source"], found["auto with exports"]["pretrained"]) == ("export", True)
    assert str(exports / "ferplus-densenet121") in found["auto with exports"]["text"]
