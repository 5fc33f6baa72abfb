import json
import random
import subprocess
import sys

import numpy as np
import pytest

from fer_keras.errors import ConfigError
from fer_keras.models.registry import (
    PRECISIONS,
    ModelSpec,
    Option,
    architecture,
    create_model,
    default_options,
    list_models,
    register,
    whole,
)


def spec(name="cnn", size=48, channels=1, **options):
    return ModelSpec(name, classes=8, image_size=size, channels=channels, options=options)


def convolutions(model):
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_the_models_that_the_documentation_names_are_there():
    assert list_models() == ["cnn", "densenet121", "densenet169", "densenet201", "random_cnn", "resnet"]
    assert ModelSpec("densenet", 2, 32, 1).name == "densenet121"


def test_listing_models_and_options_does_not_import_keras():
    code = (
        "import sys; from fer_keras.models import registry, exported; "
        "[registry.default_options(n) for n in registry.list_models()]; "
        "registry.ModelSpec('cnn', 8, 48, 1); print([m for m in ('keras', 'tensorflow', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_arch_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match="unknown arch 'densnet'; choose from cnn, densenet121, .*resnet"):
        spec("densnet")


def test_an_unknown_option_is_refused_with_the_allowed_ones():
    with pytest.raises(ConfigError, match=r"model cnn has no option 'filters'; it has preset, layers, convs_per_stage"):
        create_model("cnn", classes=8, image_size=48, channels=1, filters=[3])


def test_a_name_can_be_registered_once_only():
    options = {"width": Option(1, whole(1), "")}
    for taken in ("cnn", "densenet"):
        with pytest.raises(ConfigError, match=f"'{taken}' is registered already"):
            register(taken, options=options)(lambda spec: None)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("layers", [], "a list of whole numbers of 1 or more"),
        ("layers", [64, 0], "a list of whole numbers of 1 or more"),
        ("layers", "64,128", "a list of whole numbers"),
        ("conv_kernel", 2.5, "a whole number of 1 or more"),
        ("batch_norm", 1, "true or false"),
        ("dropout", 1.0, "a number from 0 up to, but not, 1"),
        ("normalize", "none", "one of scale, standardize"),
    ],
)
def test_a_wrong_option_value_is_refused_with_what_was_expected(option, value, expected):
    with pytest.raises(ConfigError, match=f"option {option} of model cnn must be {expected}"):
        spec(**{option: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "classes must be a whole number of 2 or more, got 1"),
        ({"image_size": 0}, "image_size must be"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec(**{"name": "cnn", "classes": 8, "image_size": 48, "channels": 1, **change})


def test_the_alias_densenet_becomes_the_name_that_it_stands_for():
    assert spec("densenet").name == "densenet121"
    assert default_options("densenet") == default_options("densenet121")


def test_a_spec_survives_json_whole():
    original = spec(preset="variant1", dropout=0.1)
    again = ModelSpec.from_dict(json.loads(json.dumps(original.to_dict())))
    assert again == original
    assert again.options["layers"] == [32, 64, 128, 256]


def test_a_spec_with_missing_or_unknown_entries_is_refused():
    with pytest.raises(ConfigError, match="a model spec has the entries channels, classes, image_size, name, options; got name"):
        ModelSpec.from_dict({"name": "cnn"})


def test_explicit_options_override_those_of_the_preset():
    options = spec(preset="variant2", layers=[8, 8, 8]).options
    assert options["layers"] == [8, 8, 8]
    assert options["conv_kernel"] == 5


def test_presets_differ_in_depth_and_kernel():
    built = {name: spec(preset=name).build() for name in architecture("cnn").presets}
    depth = {name: len(convolutions(model)) for name, model in built.items()}
    kernels = {name: {layer.kernel_size for layer in convolutions(model)} for name, model in built.items()}
    assert depth == {"main": 4, "variant1": 7, "variant2": 4}
    assert kernels == {"main": {(3, 3)}, "variant1": {(3, 3)}, "variant2": {(5, 5)}}


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match="model cnn has no preset 'big'; choose from main, variant1, variant2"):
        spec(preset="big")


def test_cnn_has_the_layers_asked_for():
    options = {
        "layers": [4, 6],
        "convs_per_stage": [1, 3],
        "conv_kernel": 5,
        "pool_kernel": 3,
        "batch_norm": False,
        "head_units": 7,
    }
    model = spec(**options).build()
    assert [(layer.filters, layer.kernel_size, layer.use_bias) for layer in convolutions(model)] == [
        (4, (5, 5), True),
        (6, (5, 5), True),
        (6, (5, 5), True),
        (6, (5, 5), True),
    ]
    assert model.get_layer("stage1_pool").pool_size == (3, 3)
    assert model.get_layer("stage2_pool").output.shape[1:] == (12, 12, 6)
    assert model.get_layer("head_dense").units == 7
    assert not [layer for layer in model.layers if "bn" in layer.name]


def test_resnet_has_the_stages_and_blocks_asked_for():
    model = spec("resnet", stem=4, layers=[8, 8, 16], blocks=[1, 2, 1], squeeze_excite=True).build()
    sums = [layer for layer in model.layers if layer.name.endswith("_add")]
    assert [layer.output.shape[1:] for layer in sums] == [(24, 24, 8), (12, 12, 8), (12, 12, 8), (6, 6, 16)]
    assert len([layer for layer in model.layers if layer.name.endswith("_excite")]) == 4


def test_more_stages_than_the_picture_allows_are_refused_before_building():
    spec(layers=[4] * 6, convs_per_stage=1)  # 48 -> 24 -> 12 -> 6 -> 3 -> 2 -> 1
    with pytest.raises(ConfigError, match="halves the picture 7 times .* 48 px allow 6; give fewer layers or larger pictures"):
        spec(layers=[4] * 7, convs_per_stage=1)
    spec(layers=[4] * 7, convs_per_stage=1, pool_kernel=1)
    with pytest.raises(ConfigError, match="48 px allow 6"):
        spec("resnet", layers=[4] * 7)


def test_one_count_of_convolutions_for_each_stage_is_needed():
    with pytest.raises(ConfigError, match=r"convs_per_stage has 3 numbers and layers has 2 \(\[4, 4\]\)"):
        spec(layers=[4, 4], convs_per_stage=[1, 1, 2])
    with pytest.raises(ConfigError, match="blocks has 2 numbers and layers has 3"):
        spec("resnet", blocks=[1, 2])


def test_any_number_of_stages_builds_without_saying_how_many_convolutions():
    for layers in ([4], [4, 4], [4, 4, 4, 4, 4]):
        names = [layer.name for layer in spec(layers=layers).build().layers if layer.name.endswith("_conv")]
        assert len(names) == len(layers) + 1


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_the_seed_alone_decides_the_initial_weights(name):
    small = {"layers": [4, 4], **({"convs_per_stage": 1} if name == "cnn" else {})}
    first = spec(name, **small).build(seed=1).get_weights()
    spec(name, **small).build(seed=7)
    again = spec(name, **small).build(seed=1).get_weights()
    other = spec(name, **small).build(seed=2).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_the_seed_decides_the_dropout_masks():
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 1)).astype(np.float32)

    def outputs(seed):
        model = spec(size=16, layers=[8], convs_per_stage=1, dropout=0.5, spatial_dropout=0.5, batch_norm=False).build(seed)
        return [np.asarray(model(pixels, training=True)) for _ in range(2)]

    first, again = outputs(1), outputs(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_building_leaves_global_random_state_and_precision_alone():
    import keras

    random.seed(5)
    expected = random.random()
    random.seed(5)
    create_model("cnn", classes=8, image_size=16, channels=1, layers=[4], convs_per_stage=1, precision="mixed_bfloat16")
    assert random.random() == expected
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_compute_in_the_precision_and_probabilities_in_float32(precision):
    model = create_model("cnn", classes=8, image_size=16, channels=1, layers=[4], convs_per_stage=1, precision=precision)
    assert convolutions(model)[0].compute_dtype == precision.removeprefix("mixed_")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.layers[-1].name == "probabilities"
    assert model.layers[-1].compute_dtype == "float32"
    assert model.output.dtype == "float32"


def test_an_unknown_precision_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match="unknown precision 'bf16'; choose from float32, mixed_bfloat16, mixed_float16"):
        spec().build(precision="bf16")


def test_standardize_takes_brightness_and_contrast_away_and_scale_does_not():
    faces = np.random.default_rng(0).uniform(60, 180, (1, 16, 16, 1)).astype(np.float32)
    brighter = faces * 0.7 + 70
    change = {}
    for normalize in ("scale", "standardize"):
        model = spec(size=16, layers=[8], convs_per_stage=1, normalize=normalize).build()
        change[normalize] = np.abs(np.asarray(model(faces)) - np.asarray(model(brighter))).max()
    assert change["standardize"] < 1e-2 * change["scale"] or change["standardize"] < 1e-3
    assert change["scale"] > 1e-3


def test_standardize_survives_a_picture_of_one_colour():
    model = spec(size=16, layers=[8], convs_per_stage=1, normalize="standardize").build()
    assert np.isfinite(np.asarray(model(np.full((1, 16, 16, 1), 255.0, np.float32)))).all()
