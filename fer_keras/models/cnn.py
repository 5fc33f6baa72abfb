"""Plain convolutional network: stages of convolutions, each ended by max pooling that halves the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer_keras.errors import ConfigError
from fer_keras.models import layers as ours
from fer_keras.models.registry import ModelSpec, Option, or_chosen, register, whole, whole_list

if TYPE_CHECKING:
    import keras

OPTIONS = {
    "layers": Option([64, 128, 256], whole_list(1), "width of each stage"),
    "convs_per_stage": Option(
        None,
        or_chosen(whole_list(1, or_one=True)),
        "convolutions in each stage; one number for all; null: one in each, two in the last",
    ),
    "conv_kernel": Option(3, whole(1), "side of the convolutions, in pixels"),
    "pool_kernel": Option(2, whole(1), "side of the max pooling, in pixels; it halves the picture; 1 pools nothing"),
    "batch_norm": ours.BATCH_NORM,
    **ours.COMMON_OPTIONS,
}

# What they are to be compared for: variant1 is deeper and ends on 3x3 maps, variant2 sees further in each convolution
# with fewer of them. The full-size first stage has one convolution everywhere: a second one costs more than a whole later
# stage (85 of 117 million multiplications at width 64).
PRESETS = {
    "main": {"layers": [64, 128, 256], "conv_kernel": 3},
    "variant1": {"layers": [32, 64, 128, 256], "convs_per_stage": [1, 2, 2, 2], "conv_kernel": 3},
    "variant2": {"layers": [32, 64, 128], "conv_kernel": 5},
}


def _convs_per_stage(spec: ModelSpec) -> list[int]:
    stages, convs = len(spec.options["layers"]), spec.options["convs_per_stage"]
    if convs is None:
        # At full size a convolution costs most and sees least; at the end it costs little.
        return [1] * (stages - 1) + [2]
    return [convs] * stages if isinstance(convs, int) else convs


def _check(spec: ModelSpec) -> None:
    options = spec.options
    stages, convs = len(options["layers"]), _convs_per_stage(spec)
    if len(convs) != stages:
        raise ConfigError(
            f"convs_per_stage has {len(convs)} numbers and layers has {stages} ({options['layers']}); "
            "give one number for each stage, or one for all"
        )
    if options["pool_kernel"] > 1:
        check_halvings(spec, stages, "each stage halves the picture")


def check_halvings(spec: ModelSpec, halvings: int, why: str) -> None:
    """Raise ConfigError where a picture is halved more often than its size allows."""
    most, size = 0, spec.image_size
    while size > 1:
        most, size = most + 1, (size + 1) // 2
    if halvings > most:
        raise ConfigError(
            f"{spec.name} with layers {spec.options['layers']} halves the picture {halvings} times ({why}), but "
            f"{spec.image_size} px allow {most}; give fewer layers or larger pictures"
        )


@register("cnn", options=OPTIONS, presets=PRESETS, check=_check, help="plain convolutional network")
def build(spec: ModelSpec) -> keras.Model:
    """Input, stages, global average pooling, classifier. See OPTIONS."""
    import keras

    options = spec.options
    pixels, x = ours.preprocess(spec)
    for stage, (width, convs) in enumerate(zip(options["layers"], _convs_per_stage(spec), strict=True), start=1):
        for index in range(1, convs + 1):
            name = f"stage{stage}_{index}"
            x = ours.conv(x, width, kernel=options["conv_kernel"], name=name, batch_norm=options["batch_norm"])
        if options["pool_kernel"] > 1:
            x = keras.layers.MaxPooling2D(options["pool_kernel"], strides=2, padding="same", name=f"stage{stage}_pool")(x)
        x = ours.dropped_maps(x, options, f"stage{stage}")
    return keras.Model(pixels, ours.classifier(x, spec), name=spec.name)
