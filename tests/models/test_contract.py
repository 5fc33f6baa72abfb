"""What every registered model promises. A new model is tested by being registered."""

import json
import re

import numpy as np
import pytest

from fer_keras.models.exported import export_model, load_exported, read_metadata
from fer_keras.models.registry import ModelSpec, architecture, list_models

CLASSES = 5
LABELS = [f"class{index}" for index in range(CLASSES)]


def size_for(name):
    # 32 px is the least for the two big networks, and the quickest.
    return 32 if name in ("densenet169", "densenet201") else 48


class Built:
    """One model, built once for all tests of its parameters, and what it says of some faces."""

    def __init__(self, name, channels):
        self.spec = ModelSpec(name, CLASSES, size_for(name), channels)
        self.model = self.spec.build(seed=3)
        size = self.spec.image_size
        noise = np.random.default_rng(0).integers(0, 256, (3, size, size, channels))
        black_and_white = np.broadcast_to(np.array([0, 255])[:, None, None, None], (2, size, size, channels))
        self.faces = np.concatenate([noise, black_and_white]).astype(np.uint8)
        self.output = np.asarray(self.model(self.faces.astype(np.float32)))


# Building, tracing and saving a DenseNet takes many seconds, so each is tested in one colour, and of the larger two only one is
# exported and none saved; the three share their code.
ONE_COLOUR = {"densenet121": 1, "densenet169": 3, "densenet201": 1}
CASES = [
    pytest.param(
        (name, channels),
        id=f"{name}-{'gray' if channels == 1 else 'rgb'}",
        marks=[pytest.mark.slow] if name in ("densenet169", "densenet201") else [],
    )
    for name in list_models()
    for channels in (1, 3)
    if ONE_COLOUR.get(name, channels) == channels
]


@pytest.fixture(scope="module")
def built(request):
    return Built(*request.param)


def without(*names):
    """All cases but those of some models."""
    return [case for case in CASES if not case.id.startswith(names)]


every_model = pytest.mark.parametrize("built", CASES, indirect=True)


class TestContract:
    @every_model
    def test_takes_raw_pixels_and_gives_probabilities(self, built):
        size, channels = built.spec.image_size, built.spec.channels
        assert built.model.input_shape == (None, size, size, channels)
        assert built.output.shape == (len(built.faces), CLASSES)
        assert built.output.dtype == np.float32
        assert np.isfinite(built.output).all()
        np.testing.assert_allclose(built.output.sum(1), 1, atol=1e-5)

    @pytest.mark.parametrize("built", without("densenet169", "densenet201"), indirect=True)
    def test_weights_saved_and_loaded_give_the_same_output(self, built, tmp_path):
        built.model.save_weights(tmp_path / "model.weights.h5")
        # The spec goes through JSON, as in a run folder, and another seed gives other weights to be replaced.
        again = ModelSpec.from_dict(json.loads(json.dumps(built.spec.to_dict()))).build(seed=4)
        assert architecture_of(again) == architecture_of(built.model)
        assert not np.array_equal(again.get_weights()[0], built.model.get_weights()[0])
        again.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(np.asarray(again(built.faces.astype(np.float32))), built.output)

    @pytest.mark.parametrize("built", without("densenet201"), indirect=True)
    def test_exported_model_gives_the_same_output_on_the_same_pixels(self, built, tmp_path):
        path = export_model(built.model, built.spec, tmp_path / "model", {"labels": LABELS, "trained_on": "noise"})
        np.testing.assert_allclose(load_exported(path).predict(built.faces, batch_size=3), built.output, atol=1e-5)
        assert ModelSpec.from_dict(read_metadata(path)["spec"]) == built.spec

    @every_model
    def test_a_gradient_reaches_every_trainable_weight(self, built, pixels):
        import tensorflow as tf

        from fer_keras.models.densenet import unfreeze_last_blocks

        if architecture(built.spec.name).has_backbone:
            unfreeze_last_blocks(built.model, 4)
        size, channels = built.spec.image_size, built.spec.channels
        faces = tf.constant(pixels(8, size, channels, seed=2), tf.float32)
        target = tf.one_hot(np.arange(8) % CLASSES, CLASSES)
        with tf.GradientTape() as tape:
            # Inference mode, because dropout may cut a path by chance.
            output = built.model(faces, training=False)
            loss = -tf.reduce_mean(tf.reduce_sum(target * tf.math.log(output + 1e-7), axis=1))
        weights = built.model.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        assert len(weights) > 4
        without = [w.path for w, g in zip(weights, gradients, strict=True) if g is None or not np.abs(np.asarray(g)).max() > 0]
        assert without == []


def architecture_of(model):
    """Every layer's configuration, inner models included, without what Keras numbers anew for each model it makes."""
    text = json.dumps(model.get_config(), sort_keys=True, default=str)
    return re.sub(r"(functional|zero_padding2d|seed_generator|keras_tensor)_?\d*", r"\1", text)
