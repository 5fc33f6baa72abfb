"""Small residual network for faces of 48 to 96 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer_keras.errors import ConfigError
from fer_keras.models import layers as ours
from fer_keras.models.cnn import check_halvings
from fer_keras.models.registry import ModelSpec, Option, flag, register, whole, whole_list

if TYPE_CHECKING:
    import keras

OPTIONS = {
    "stem": Option(32, whole(1), "width of the convolution at full size, before the picture is halved"),
    "layers": Option([48, 96, 192], whole_list(1), "width of each stage; every stage after the first halves the picture"),
    "blocks": Option(1, whole_list(1, or_one=True), "residual blocks in each stage; one number for all"),
    "squeeze_excite": Option(False, flag, "weigh the feature maps of each block by their averages"),
    **ours.COMMON_OPTIONS,
}


def _blocks(spec: ModelSpec) -> list[int]:
    blocks = spec.options["blocks"]
    return [blocks] * len(spec.options["layers"]) if isinstance(blocks, int) else blocks


def _check(spec: ModelSpec) -> None:
    stages, blocks = len(spec.options["layers"]), _blocks(spec)
    if len(blocks) != stages:
        raise ConfigError(f"blocks has {len(blocks)} numbers and layers has {stages}; give one for each stage, or one for all")
    check_halvings(spec, stages, "before the first stage and between stages")


def _block(x: keras.KerasTensor, width: int, *, stride: int, squeeze_excite: bool, name: str) -> keras.KerasTensor:
    """Two 3x3 convolutions beside a shortcut, added, then ReLU (He et al. 2015, https://arxiv.org/abs/1512.03385)."""
    from keras import layers

    y = ours.conv(x, width, kernel=3, stride=stride, name=f"{name}_1")
    y = ours.conv(y, width, kernel=3, relu=False, name=f"{name}_2")
    if squeeze_excite:
        weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
        weights = layers.Conv2D(max(width // 8, 4), 1, activation="relu", name=f"{name}_reduce")(weights)
        weights = layers.Conv2D(width, 1, activation="sigmoid", name=f"{name}_excite")(weights)
        y = layers.Multiply(name=f"{name}_weighted")([y, weights])
    if stride != 1 or x.shape[-1] != width:
        x = ours.conv(x, width, kernel=1, stride=stride, relu=False, name=f"{name}_shortcut")
    return layers.Activation("relu", name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


@register("resnet", options=OPTIONS, check=_check, help="small residual network")
def build(spec: ModelSpec) -> keras.Model:
    """Stem at full size, max pooling, stages of residual blocks, classifier. See OPTIONS."""
    import keras

    options = spec.options
    pixels, x = ours.preprocess(spec)
    x = ours.conv(x, options["stem"], kernel=3, name="stem")
    x = keras.layers.MaxPooling2D(2, padding="same", name="stem_pool")(x)
    for stage, (width, blocks) in enumerate(zip(options["layers"], _blocks(spec), strict=True), start=1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            squeeze_excite = options["squeeze_excite"]
            x = _block(x, width, stride=stride, squeeze_excite=squeeze_excite, name=f"stage{stage}_{index}")
        x = ours.dropped_maps(x, options, f"stage{stage}")
    return keras.Model(pixels, ours.classifier(x, spec), name=spec.name)
