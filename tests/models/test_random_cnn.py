"""Architectures that are drawn: within their bounds, by their seed, and rebuilt from the spec alone."""

import json

import pytest

from fer_keras.errors import ConfigError
from fer_keras.models import random_cnn
from fer_keras.models.registry import ModelSpec

SEEDS = range(60)


def drawn(seed=0, size=48, channels=1, **options):
    return ModelSpec("random_cnn", 8, size, channels, {"draw": seed, **options})


def test_the_spec_holds_what_was_drawn_so_that_another_way_of_drawing_changes_no_model(monkeypatch):
    spec = drawn(5)
    assert None not in spec.options.values()
    monkeypatch.setattr(random_cnn, "BOUNDS", {**random_cnn.BOUNDS, "first_width": (999,)})
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert drawn(5, budget_mmac=10**6).options["layers"][0] == 999


def test_the_same_seed_draws_the_same_and_others_differ():
    assert drawn(3) == drawn(3)
    assert len({json.dumps(drawn(seed).options) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [24, 48, 96])
def test_everything_drawn_is_within_the_bounds(size):
    bounds = random_cnn.BOUNDS
    for seed in SEEDS:
        options = drawn(seed, size, budget_mmac=60).options
        stages, side = len(options["layers"]), size
        assert 2 <= stages <= bounds["stages"][1]
        for _ in range(stages):
            side = -(-side // 2)
        assert side >= random_cnn.SMALLEST_MAP_PX
        assert options["layers"][0] in bounds["first_width"]
        assert max(options["layers"]) <= bounds["widest"]
        assert options["convs_per_stage"][0] == 1 and set(options["convs_per_stage"][1:]) <= set(bounds["convs"])
        assert set(options["conv_kernel"]) <= {*bounds["conv_kernel"], *bounds["first_kernel"]}
        assert set(options["pool_kernel"]) <= set(bounds["pool_kernel"])
        assert bounds["dropout"][0] <= options["dropout"] <= bounds["dropout"][1]
        assert random_cnn.multiplications(options, size, 1) <= 60e6


def test_every_choice_that_the_bounds_allow_is_drawn_sometimes():
    options = [drawn(seed).options for seed in range(200)]
    for name in ("pooling", "batch_norm", "normalize", "spatial_dropout", "head_units"):
        assert {one[name] for one in options} == set(random_cnn.BOUNDS[name])
    assert {len(one["layers"]) for one in options} == {3, 4}


def test_multiplications_are_counted_as_by_hand():
    options = {"layers": [4, 8], "convs_per_stage": [1, 2], "conv_kernel": [5, 3]}
    by_hand = 10 * 10 * 25 * 3 * 4 + 5 * 5 * 9 * 4 * 8 + 5 * 5 * 9 * 8 * 8
    assert random_cnn.multiplications(options, 10, 3) == by_hand


def test_what_is_given_is_kept_and_the_rest_is_drawn_around_it():
    spec = drawn(1, layers=[8, 16], batch_norm=False, conv_kernel=3)
    assert spec.options["layers"] == [8, 16]
    assert spec.options["conv_kernel"] == [3, 3]
    assert spec.options["batch_norm"] is False
    assert len(spec.options["convs_per_stage"]) == len(spec.options["pool_kernel"]) == 2


def test_the_network_has_the_layers_that_its_options_name():
    import keras

    options = {
        "layers": [8, 16],
        "convs_per_stage": [1, 2],
        "conv_kernel": [5, 3],
        "pool_kernel": [3, 2],
        "pooling": "average",
        "batch_norm": True,
        "spatial_dropout": 0.1,
        "head_units": 32,
    }
    model = drawn(0, 24, **options).build()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [8, 16, 16]
    assert [layer.kernel_size[0] for layer in convolutions] == [5, 3, 3]
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == 3
    pools = [layer.pool_size[0] for layer in model.layers if isinstance(layer, keras.layers.AveragePooling2D)]
    assert pools == [3, 2]
    assert model.get_layer("head_dense").units == 32


def test_an_architecture_is_described_in_words():
    text = random_cnn.describe(drawn(0, layers=[8, 16], convs_per_stage=[1, 2], conv_kernel=[5, 3], batch_norm=False).options)
    assert text.startswith("2 stages (1 x 8 of 5x5, 2 x 16 of 3x3); ")
    assert "no batch normalisation" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [8, 16], "pool_kernel": [2, 2, 2]}, "layers has 2, .*pool_kernel has 3 numbers"),
        ({"budget_mmac": 1, "layers": [512, 512]}, "keeps within budget_mmac 1; give a larger one"),
        ({"pooling": "median"}, "pooling of model random_cnn must be one of max, average, got 'median'"),
        ({"layers": [8] * 9}, "halves the picture 9 times .* 48 px allow 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        drawn(0, **options)
