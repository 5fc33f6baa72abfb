"""What the small networks share: the first layers, and the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_keras.models.registry import Option, flag, fraction_below_one, one_of, whole

if TYPE_CHECKING:
    import keras

    from fer_keras.models.registry import ModelSpec

#: Options of every network that is trained from random weights.
COMMON_OPTIONS = {
    "dropout": Option(0.3, fraction_below_one, "share of features dropped before the classifier"),
    "spatial_dropout": Option(0.0, fraction_below_one, "share of feature maps dropped after each stage"),
    "head_units": Option(0, whole(0), "units of one dense layer before the classifier; 0 has none"),
    "normalize": Option("scale", one_of("scale", "standardize"), "scale: to -1..1; standardize: each picture by itself"),
}
BATCH_NORM = Option(True, flag, "batch normalisation after each convolution")


def preprocess(spec: ModelSpec) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input and the normalised pixels.

    In float32 whatever the precision of the model: 16 bits do not hold a brightness between two whole numbers.
    """
    from keras import Input, layers

    pixels = Input((spec.image_size, spec.image_size, spec.channels), dtype="float32", name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(pixels)
    if spec.options["normalize"] == "standardize":
        # Mean 0 and deviation 1 over all pixels of a picture: takes away how bright and how contrasty the light was.
        # The epsilon keeps the noise of a nearly blank picture from being blown up.
        x = layers.LayerNormalization(
            axis=[1, 2, 3], center=False, scale=False, epsilon=1e-3, dtype="float32", name="standardize"
        )(x)
    return pixels, x


def conv(
    x: keras.KerasTensor, width: int, *, kernel: int, name: str, stride: int = 1, batch_norm: bool = True, relu: bool = True
) -> keras.KerasTensor:
    """Convolution, batch normalisation, ReLU. A bias before batch normalisation would be subtracted again."""
    from keras import layers

    x = layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        use_bias=not batch_norm,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    if batch_norm:
        # 0.9 instead of Keras's 0.99: with some twenty steps an epoch on small data the running statistics would
        # trail behind the weights for many epochs.
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x


def dropped_maps(x: keras.KerasTensor, options: dict[str, Any], name: str) -> keras.KerasTensor:
    """Spatial dropout after a stage, where it is asked for."""
    from keras import layers

    rate = options["spatial_dropout"]
    return layers.SpatialDropout2D(rate, name=f"{name}_dropout")(x) if rate else x


def classifier(x: keras.KerasTensor, spec: ModelSpec) -> keras.KerasTensor:
    """Average over positions, optional dense layer, dropout, softmax over the classes in float32."""
    from keras import layers

    options = spec.options
    x = layers.GlobalAveragePooling2D(name="features")(x)
    if options["head_units"]:
        x = layers.Dense(options["head_units"], activation="relu", kernel_initializer="he_normal", name="head_dense")(x)
    if options["dropout"]:
        x = layers.Dropout(options["dropout"], name="head_dropout")(x)
    return probabilities(x, spec.classes)


def probabilities(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    """Logits and softmax; in float32 also in a mixed precision model, where 16 bits would lose small probabilities."""
    from keras import layers

    x = layers.Dense(classes, dtype="float32", name="logits")(x)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(x)
