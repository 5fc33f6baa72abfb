"""DenseNet (Huang et al. 2017, https://arxiv.org/abs/1608.06993) from keras.applications, with a head for our classes.

The model is two inner models. "backbone": pixels -> features, preprocessing included; "head": features -> probabilities.
Training has two phases: the backbone frozen, then its last dense blocks unfrozen at a small learning rate. Its batch
normalisation stays in inference mode throughout: batches of a fine-tuning run are too small and too alike to replace
the statistics that the weights were trained with.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError, FerError, ModelError
from fer_keras.models import layers as ours
from fer_keras.models.finding import find_model, model_folders
from fer_keras.models.registry import ModelSpec, Option, fraction_below_one, register, whole_list
from fer_keras.models.transfer import WEIGHTS

if TYPE_CHECKING:
    import keras

#: Exported models whose backbone "auto" may start from, better ones first. Named, so that a run does not depend on what
#: other runs happened to export before it.
SHIPPED = ("ferplus-densenet121",)

#: Dense blocks of the backbone, from the input on. Names of keras.applications.
BLOCKS = ("conv2", "conv3", "conv4", "conv5")

_SMALLEST_PX = 32  # five halvings; keras.applications allows no less
_IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
_PROBE_S = 6
_STALL_S = 30


def _head_units(value: Any) -> list[int]:
    return [] if value in ([], ()) else whole_list(1)(value)


def _input_size(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < _SMALLEST_PX:
        raise ValueError(f"null (the size of the pictures) or a whole number of {_SMALLEST_PX} or more")
    return value


OPTIONS = {
    "head_units": Option([256], _head_units, "widths of the dense layers between features and classifier; [] has none"),
    "dropout": Option(0.3, fraction_below_one, "share of features dropped before each dense layer of the head"),
    "input_size": Option(None, _input_size, "resize pictures to this size inside the model; null: as they are"),
}


def _check(spec: ModelSpec) -> None:
    if (spec.options["input_size"] or spec.image_size) < _SMALLEST_PX:
        raise ConfigError(
            f"{spec.name} needs pictures of {_SMALLEST_PX} px or more, got {spec.image_size}; "
            f"give the option input_size={_SMALLEST_PX} or more to enlarge them inside the model"
        )


@register("densenet121", options=OPTIONS, check=_check, has_backbone=True, help="121 layers, 7.0 million weights")
@register("densenet169", options=OPTIONS, check=_check, has_backbone=True, help="169 layers, 12.6 million weights")
@register("densenet201", options=OPTIONS, check=_check, has_backbone=True, help="201 layers, 18.3 million weights")
def build(spec: ModelSpec) -> keras.Model:
    """Backbone with random weights (see `load_backbone_weights`) and head. See OPTIONS."""
    import keras

    pixels = keras.Input((spec.image_size, spec.image_size, spec.channels), dtype="float32", name="pixels")
    backbone = _build_backbone(spec)
    head = _build_head(spec, features=backbone.output_shape[-1])
    return keras.Model(pixels, head(backbone(pixels, training=False)), name=spec.name)


def _build_backbone(spec: ModelSpec) -> keras.Model:
    import keras
    from keras import layers

    pixels = keras.Input((spec.image_size, spec.image_size, spec.channels), dtype="float32", name="pixels")
    x = pixels
    size = spec.options["input_size"]
    if size and size != spec.image_size:
        x = layers.Resizing(size, size, interpolation="bilinear", dtype="float32", name="resize")(x)
    if spec.channels == 1:
        x = layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    # As keras.applications.densenet.preprocess_input, which ImageNet weights expect: 0..1, less ImageNet's mean, by its
    # standard deviation.
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scale, offset = (1 / 255 / deviation).tolist(), (-mean / deviation).tolist()
    x = layers.Rescaling(scale, offset, dtype="float32", name="scale")(x)
    network = _application(spec.name)(include_top=False, weights=None, input_tensor=x, pooling="avg")
    backbone = keras.Model(pixels, network.output, name="backbone")
    _freeze_batch_norm(backbone)
    return backbone


def _build_head(spec: ModelSpec, features: int) -> keras.Model:
    import keras
    from keras import layers

    inputs = x = keras.Input((features,), dtype="float32", name="features")
    widths = spec.options["head_units"]
    for index, width in enumerate([*widths, None], start=1):
        if spec.options["dropout"]:
            x = layers.Dropout(spec.options["dropout"], name=f"head_dropout{index}")(x)
        if width:
            x = layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=f"head_dense{index}")(x)
    return keras.Model(inputs, ours.probabilities(x, spec.classes), name="head")


def _application(name: str) -> Any:
    import keras

    return getattr(keras.applications, name.replace("densenet", "DenseNet"))


def backbone_of(model: keras.Model) -> keras.Model:
    """The inner model "backbone". Raises ModelError where the model has none."""
    if "backbone" not in (layer.name for layer in model.layers):
        raise ModelError(f"model {model.name} has no pretrained backbone; this works with the densenets")
    return model.get_layer("backbone")


def freeze_backbone(model: keras.Model) -> None:
    """Let training change the head only. Compile the model again afterwards. Raises ModelError without a backbone."""
    backbone_of(model).trainable = False


def unfreeze_last_blocks(model: keras.Model, blocks: int) -> None:
    """Let training change the head and the last dense blocks. Compile the model again afterwards.

    blocks: 0 (none) to 4: conv5; conv4 and conv5; ...; with 4 also the first convolution, so the whole backbone. The
        transition after an unfrozen block goes with it. Batch normalisation stays frozen and in inference mode.
    Raises ModelError without a backbone, ConfigError where there are not as many blocks.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 0 <= blocks <= len(BLOCKS):
        raise ConfigError(f"{model.name} has {len(BLOCKS)} dense blocks; unfreeze 0 to {len(BLOCKS)} of them, got {blocks!r}")
    backbone = backbone_of(model)
    if blocks == 0:
        backbone.trainable = False
        return
    backbone.trainable = True
    if blocks < len(BLOCKS):
        names = BLOCKS[-blocks:]
        # The transition "poolN" follows the block "convN".
        prefixes = (*(f"{name}_" for name in names), *(f"pool{name[-1]}_" for name in names))
        for layer in backbone.layers:
            layer.trainable = layer.name.startswith(prefixes)
    _freeze_batch_norm(backbone)


def unfreeze_all(model: keras.Model, steps: int) -> None:
    """Let training change all of the model, batch normalisation too, whose statistics follow the batches of `steps` steps.

    keras.applications lets them take 100 steps to follow. In a training of few steps they would never be those of the weights:
    the network would learn and its answers be worth nothing. It takes a call of the backbone that does not say training=False.
    Raises ModelError without a backbone.
    """
    backbone = backbone_of(model)
    backbone.trainable = True
    for layer in _batch_norms(backbone):
        layer.momentum = min(0.99, max(0.5, 1 - 10 / steps))


def _batch_norms(backbone: keras.Model) -> list[keras.layers.BatchNormalization]:
    import keras

    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]


def _freeze_batch_norm(backbone: keras.Model) -> None:
    for layer in _batch_norms(backbone):
        layer.trainable = False


def calibrate_batch_norm(model: keras.Model, batches: Iterable[np.ndarray]) -> int:
    """Set the batch normalisation statistics of a backbone with random weights from training pictures.

    Random weights come with mean 0 and variance 1, which 121 layers later leaves features that hardly differ between
    faces. Measured on real pictures, a random backbone is a usable random projection. A few hundred pictures are enough.
    Not for pretrained weights: their statistics belong to them.

    batches: pixels 0..255, uint8 or float (n, h, w, c), of like size, 16 or more each; every batch counts the same.
    Returns the number of pictures seen. The same batches give the same statistics.
    Raises ModelError without a backbone or without pictures.
    """
    backbone = backbone_of(model)
    norms = _batch_norms(backbone)
    before = [(layer.trainable, layer.momentum) for layer in norms]
    seen = 0
    try:
        for count, batch in enumerate(batches):
            for layer in norms:
                layer.trainable = True
                layer.momentum = count / (count + 1)  # running mean over the batches, the first replaces what was there
            # Eagerly, because a traced function would keep the momentum of its first call; and quicker for few batches.
            backbone(np.asarray(batch, np.float32), training=True)
            seen += len(batch)
    finally:
        for layer, (trainable, momentum) in zip(norms, before, strict=True):
            layer.trainable, layer.momentum = trainable, momentum
    if not seen:
        raise ModelError("no pictures to set the batch normalisation from; give one batch or more")
    return seen


@dataclass(frozen=True)
class BackboneWeights:
    """What `load_backbone_weights` did. `str()` gives the sentence for people.

    source: "imagenet", "file", "export" or "none".
    pretrained: False where the weights are random; then `calibrate_batch_norm` is needed.
    """

    source: str
    pretrained: bool
    text: str

    def __str__(self) -> str:
        return self.text


def load_backbone_weights(
    model: keras.Model, weights: str = "auto", saved_models_dir: str | os.PathLike = "saved_models"
) -> BackboneWeights:
    """Give the backbone of a model its weights, and say which.

    weights: one of
        "imagenet": those of keras.applications, from its cache (~/.keras/models) or downloaded;
        PATH: a .h5 file as keras.applications has them (notop), a .weights.h5 or .keras file of such a network, or the
            folder of an exported model of the same architecture;
        NAME: the exported model of that name in `saved_models_dir`, else among the shipped ones;
        "none": random weights stay;
        "auto": imagenet, else the best of SHIPPED that is of this architecture, else none.

    Raises ModelError where they can't be had or don't fit; the model is as before then.
    """
    backbone = backbone_of(model)
    if weights == "none":
        return BackboneWeights("none", False, "the backbone starts from random weights, as asked for (--weights none)")
    if weights == "imagenet":
        _load_imagenet(model.name, backbone)
        return BackboneWeights("imagenet", True, f"the backbone starts from ImageNet weights ({_imagenet_file(model.name)})")
    if weights == "auto":
        return _load_best(model.name, backbone, Path(saved_models_dir))
    path = find_model(weights, saved_models_dir, expected=WEIGHTS)
    if path.is_dir():
        _load_export(model.name, backbone, path)
        return BackboneWeights("export", True, f"the backbone starts from the exported model {path}")
    _load_file(model.name, backbone, path)
    return BackboneWeights("file", True, f"the backbone starts from the weights in {path}")


def _load_best(arch: str, backbone: keras.Model, saved_models: Path) -> BackboneWeights:
    try:
        _load_imagenet(arch, backbone)
    except ModelError:
        reason = "ImageNet weights can't be downloaded here and are not cached"
    else:
        return BackboneWeights("imagenet", True, f"the backbone starts from ImageNet weights ({_imagenet_file(arch)})")
    for path in shipped_exports(arch, saved_models):
        try:
            _load_export(arch, backbone, path)
        except FerError:
            continue  # a folder that does not load is as good as none: auto means the best that works
        return BackboneWeights("export", True, f"{reason}, so the backbone starts from the exported model {path}")
    hint = f"to use them, put {_imagenet_file(arch)} into {_keras_models()} or give --weights PATH"
    return BackboneWeights(
        "none",
        False,
        f"{reason} and no {arch} is shipped, so the backbone starts from random weights; {hint}",
    )


def shipped_exports(arch: str, saved_models: Path) -> list[Path]:
    """The shipped models of an architecture that are there, better ones first: in `saved_models`, or the repository's own."""
    from fer_keras.models.exported import read_metadata

    found = []
    for path in (folder / name for name in SHIPPED for folder in model_folders(saved_models)):
        try:
            if read_metadata(path)["spec"]["name"] == arch:
                found.append(path)
        except FerError:
            continue
    return found


def backbone_export(weights: str, saved_models_dir: str | os.PathLike, arch: str) -> Path | None:
    """The exported model that `load_backbone_weights` takes a backbone from; None where it is another file, or none.

    For "auto" that is the shipped one unless ImageNet weights are cached: whether they can be downloaded shows later.
    """
    if weights == "auto":
        return None if imagenet_cached(arch) else next(iter(shipped_exports(arch, Path(saved_models_dir))), None)
    if weights in ("imagenet", "none"):
        return None
    path = find_model(weights, saved_models_dir, expected=WEIGHTS)
    return path if path.is_dir() else None


def learnt_size(export: Path, image_size: int) -> dict[str, Any]:
    """The options with which a backbone sees faces of `image_size` px as large as those that the exported one has learnt.

    {"input_size": side} enlarges them inside the model. {} where they are as large or larger: making them smaller loses details.
    """
    from fer_keras.models.exported import read_metadata

    spec = read_metadata(export)["spec"]
    side = spec["options"].get("input_size") or spec["image_size"]
    return {"input_size": side} if side > image_size else {}


# ImageNet


def imagenet_cached(arch: str) -> bool:
    """Whether the ImageNet weights of keras.applications are on this machine."""
    return (_keras_models() / _imagenet_file(arch)).is_file()


def _imagenet_file(arch: str) -> str:
    return f"{arch}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def _keras_models() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"


def _load_imagenet(arch: str, backbone: keras.Model) -> None:
    try:
        if not imagenet_cached(arch):
            _probe(_IMAGENET_URL + _imagenet_file(arch))
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_STALL_S)  # keras gives none: a connection that goes silent would hang for ever
        try:
            # Keras checks the file's hash, fetches a wrong one again, and removes what a failed download left.
            network = _application(arch)(include_top=False, weights="imagenet", input_shape=(64, 64, 3), pooling="avg")
        finally:
            socket.setdefaulttimeout(before)
    except Exception as error:
        raise ModelError(
            f"ImageNet weights for {arch} could not be downloaded from {_IMAGENET_URL} ({_one_line(error)}); copy "
            f"{_imagenet_file(arch)} from a machine with network into {_keras_models()}, or give --weights PATH (that file), "
            "--weights NAME (an exported model), or --weights none"
        ) from error
    backbone.set_weights(network.get_weights())


def _probe(url: str) -> None:
    """Raise OSError within seconds where a URL can't be reached.

    In a thread of its own, because looking up a host name has no timeout and takes long where no name server answers.
    """
    errors: list[Exception] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_S).close()  # noqa: S310
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    if thread.is_alive():
        raise OSError(f"no answer within {_PROBE_S} s")
    if errors:
        raise OSError(_one_line(errors[0]))


def _one_line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


# Files and exported models


def _load_export(arch: str, backbone: keras.Model, path: Path) -> None:
    from fer_keras.models.exported import read_metadata, read_weights

    found = read_metadata(path)["spec"]["name"]
    if found != arch:
        raise ModelError(f"{path} is a {found}, its backbone does not fit {arch}; use it with --arch {found}, or other weights")
    expected = [tuple(weight.shape) for weight in backbone.weights]
    values = read_weights(path)[: len(expected)]  # the backbone comes first in the model, so its weights do too
    if [value.shape for value in values] != expected:
        raise ModelError(f"the weights in {path} do not have the shapes of a {arch} backbone; export the model again")
    backbone.set_weights(values)


def _load_file(arch: str, backbone: keras.Model, path: Path) -> None:
    if not path.name.endswith((".h5", ".hdf5", ".keras")):
        raise ModelError(f"weights file {path} must end with .h5, .weights.h5 or .keras")
    before = backbone.get_weights()
    try:
        expected = sorted(tuple(weight.shape) for weight in backbone.weights)
        found = sorted(_shapes_in_file(path))
        if found != expected:
            raise ValueError(f"it holds {len(found)} arrays, the backbone has {len(expected)}, or their shapes differ")
        backbone.load_weights(path)
    except Exception as error:
        backbone.set_weights(before)
        raise ModelError(
            f"weights file {path} does not fit the backbone of {arch} ({_one_line(error)}); "
            f"expected weights of keras.applications {arch} without top"
        ) from error


def _shapes_in_file(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the weights in a .h5 (either format) or .keras file, an optimizer's left out."""
    import io
    import zipfile

    import h5py

    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            shapes.append(tuple(item.shape))

    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source: Any = io.BytesIO(archive.read("model.weights.h5"))
    else:
        source = path
    with h5py.File(source, "r") as file:
        file.get("model_weights", file).visititems(visit)
    return shapes
