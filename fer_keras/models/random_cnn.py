"""Convolutional networks of random architecture: the members of ensembles, which should err in different ways.

Depth, widths, kernels, pooling, dropout, batch normalisation and head are drawn by a seed, within BOUNDS and a budget of
multiplications. What was drawn becomes explicit options of the spec, so that a saved model is rebuilt as it was even if the
way of drawing changes; an option that is given is kept, and the rest is drawn around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError
from fer_keras.models import layers as ours
from fer_keras.models.cnn import check_halvings
from fer_keras.models.registry import ModelSpec, Option, flag, fraction_below_one, one_of, or_chosen, register, whole, whole_list

if TYPE_CHECKING:
    import keras

#: What is drawn from. A width after the first is the one before times a growth, in steps of 8 and at most `widest`.
BOUNDS: dict[str, Any] = {
    "stages": (3, 5),
    "first_width": (16, 24, 32, 48),
    "growth": (1.5, 2.0),
    "widest": 256,
    "convs": (1, 2, 3),
    "conv_kernel": (3, 5),
    "first_kernel": (3, 5, 7),
    "pool_kernel": (2, 3),
    "pooling": ("max", "max", "average"),
    "batch_norm": (True, True, True, False),
    "dropout": (0.1, 0.5),
    "spatial_dropout": (0.0, 0.0, 0.05, 0.1),
    "head_units": (0, 0, 64, 128),
    "normalize": ("scale", "standardize"),
}
#: No picture is halved below this side by a drawn architecture: a smaller map holds no arrangement of features.
SMALLEST_MAP_PX = 3
_TRIES = 2000

_LIST_OR_ONE = or_chosen(whole_list(1, or_one=True))
OPTIONS = {
    "draw": Option(0, whole(0), "seed of the drawn architecture"),
    "budget_mmac": Option(40, whole(1), "most multiplications that a drawn architecture may need for a face, in millions"),
    "layers": Option(None, or_chosen(whole_list(1)), "width of each stage; null: drawn, as in all that follow"),
    "convs_per_stage": Option(None, _LIST_OR_ONE, "convolutions in each stage; one number for all"),
    "conv_kernel": Option(None, _LIST_OR_ONE, "side of the convolutions of each stage, in pixels; one number for all"),
    "pool_kernel": Option(None, _LIST_OR_ONE, "side of the pooling that ends each stage, in pixels; one number for all"),
    "pooling": Option(None, or_chosen(one_of("max", "average")), "kind of pooling"),
    "batch_norm": Option(None, or_chosen(flag), ours.BATCH_NORM.help),
    **{
        name: Option(None, or_chosen(check), ours.COMMON_OPTIONS[name].help)
        for name, check in {
            "dropout": fraction_below_one,
            "spatial_dropout": fraction_below_one,
            "head_units": whole(0),
            "normalize": one_of("scale", "standardize"),
        }.items()
    },
}
_LISTS = ("layers", "convs_per_stage", "conv_kernel", "pool_kernel")


def draw_options(spec: ModelSpec) -> dict[str, Any]:
    """Every option of a spec with those that are None drawn; a function of the spec alone.

    Raises ConfigError where nothing that is drawn keeps within the budget.
    """
    given = {key: value for key, value in spec.options.items() if value is not None}
    if len(given) == len(OPTIONS) and all(isinstance(given[key], list) for key in _LISTS):
        return given
    stages = next((len(given[key]) for key in _LISTS if isinstance(given.get(key), list)), None)
    random = np.random.default_rng(given["draw"])
    for _ in range(_TRIES):
        options = {**_draw(random, spec.image_size, stages), **given}
        for key in _LISTS:
            if not isinstance(options[key], list):
                options[key] = [options[key]] * len(options["layers"])
        if multiplications(options, spec.image_size, spec.channels) <= options["budget_mmac"] * 10**6:
            return options
    raise ConfigError(
        f"{spec.name}: none of {_TRIES} drawn architectures for {spec.image_size} px keeps within budget_mmac "
        f"{given['budget_mmac']}; give a larger one (--option budget_mmac=100), or smaller pictures"
    )


def _draw(random: np.random.Generator, image_size: int, stages: int | None) -> dict[str, Any]:
    def one(name: str) -> Any:
        choices = BOUNDS[name]
        return choices[random.integers(len(choices))]

    if stages is None:
        low, high = BOUNDS["stages"]
        most = max(1, min(high, _halvings(image_size)))
        stages = int(random.integers(min(low, most), most + 1))
    widths = [one("first_width")]
    for _ in range(stages - 1):
        widths.append(min(BOUNDS["widest"], int(8 * round(widths[-1] * one("growth") / 8))))
    return {
        "layers": widths,
        # The first stage sees the picture at full size, where a second convolution costs more than a whole later stage.
        "convs_per_stage": [1, *(one("convs") for _ in range(stages - 1))],
        "conv_kernel": [one("first_kernel"), *(one("conv_kernel") for _ in range(stages - 1))],
        "pool_kernel": [one("pool_kernel") for _ in range(stages)],
        "pooling": one("pooling"),
        "batch_norm": one("batch_norm"),
        "dropout": round(float(random.uniform(*BOUNDS["dropout"])), 2),
        "spatial_dropout": one("spatial_dropout"),
        "head_units": one("head_units"),
        "normalize": one("normalize"),
    }


def _halvings(image_size: int) -> int:
    count, size = 0, (image_size + 1) // 2
    while size >= SMALLEST_MAP_PX:
        count, size = count + 1, (size + 1) // 2
    return count


def multiplications(options: Mapping[str, Any], image_size: int, channels: int) -> int:
    """How many multiplications the convolutions need for one picture, which is nearly all that such a network does."""
    total, side, width = 0, image_size, channels
    for wide, convs, kernel in zip(options["layers"], options["convs_per_stage"], options["conv_kernel"], strict=False):
        for _ in range(convs):
            total += side * side * kernel * kernel * width * wide
            width = wide
        side = (side + 1) // 2
    return total


def describe(options: Mapping[str, Any]) -> str:
    """An architecture in half a sentence."""
    stages = ", ".join(
        f"{convs} x {width} of {kernel}x{kernel}"
        for width, convs, kernel in zip(options["layers"], options["convs_per_stage"], options["conv_kernel"], strict=True)
    )
    parts = [
        f"{len(options['layers'])} stages ({stages})",
        f"{options['pooling']} pooling {', '.join(map(str, options['pool_kernel']))}",
        "batch normalisation" if options["batch_norm"] else "no batch normalisation",
        f"dropout {options['dropout']:g}",
    ]
    if options["spatial_dropout"]:
        parts.append(f"spatial dropout {options['spatial_dropout']:g}")
    if options["head_units"]:
        parts.append(f"{options['head_units']} head units")
    return "; ".join([*parts, f"input {options['normalize']}d"])


def _check(spec: ModelSpec) -> None:
    lengths = {key: len(spec.options[key]) for key in _LISTS}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise ConfigError(f"{spec.name}: {told} numbers; give each one number for every stage, or leave it to be drawn")
    check_halvings(spec, lengths["layers"], "each stage halves the picture")


@register("random_cnn", options=OPTIONS, complete=draw_options, check=_check, help="convolutional network of random architecture")
def build(spec: ModelSpec) -> keras.Model:
    """Input, stages, global average pooling, classifier. See OPTIONS."""
    import keras

    options = spec.options
    pool = keras.layers.MaxPooling2D if options["pooling"] == "max" else keras.layers.AveragePooling2D
    pixels, x = ours.preprocess(spec)
    for stage, (width, convs, kernel, pooled) in enumerate(zip(*(options[key] for key in _LISTS), strict=True), start=1):
        for index in range(1, convs + 1):
            x = ours.conv(x, width, kernel=kernel, name=f"stage{stage}_{index}", batch_norm=options["batch_norm"])
        x = pool(pooled, strides=2, padding="same", name=f"stage{stage}_pool")(x)
        x = ours.dropped_maps(x, options, f"stage{stage}")
    return keras.Model(pixels, ours.classifier(x, spec), name=spec.name)
