"""Starting a training from the weights of an exported model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fer_keras.errors import ConfigError, ModelError
from fer_keras.models.finding import find_model

if TYPE_CHECKING:
    import keras

#: What weights may be besides the name of a model, for the message of `find_model`.
WEIGHTS = "auto, imagenet, none, a file, a model's folder"

#: Kernel and bias of the last layer, which are the last weights of every model.
_LAST_LAYER = 2


def exported_options(weights: str, saved_models_dir: str | os.PathLike, arch: str) -> dict[str, Any]:
    """The options that an exported model was built with, which one that starts from it shares; {} for "auto" and "none".

    Raises ConfigError where the model has another architecture, or weights are asked for that `arch` has not; ModelError where
    there is no such model.
    """
    if weights in ("auto", "none"):
        return {}
    if weights == "imagenet":
        raise ConfigError(f"there are no ImageNet weights for {arch}, only for densenet; give an exported {arch}, or none")
    from fer_keras.models.exported import read_metadata

    path = find_model(weights, saved_models_dir, expected=WEIGHTS)
    spec = read_metadata(path)["spec"]
    if spec["name"] != arch:
        raise ConfigError(f"{path} is a {spec['name']}, its weights do not fit {arch}; use it with --arch {spec['name']}")
    return dict(spec["options"])


def load_exported_weights(model: keras.Model, labels: Sequence[str], path: str | os.PathLike) -> str:
    """Give a model the weights of an exported one of the same architecture and options; says in a sentence which.

    labels: the classes of `model`. The last layer is taken over where they are those of the exported model, in whatever order;
    for other classes it stays as it is, and all else is taken over.
    Raises ModelError where the weights do not fit; the model is as before then.
    """
    from fer_keras.models.exported import read_metadata, read_weights

    values, learnt = read_weights(path), list(read_metadata(path)["labels"])
    same = sorted(learnt) == sorted(labels)
    if same:
        order = [learnt.index(label) for label in labels]
        values[-_LAST_LAYER:] = [value[..., order] for value in values[-_LAST_LAYER:]]
    count = len(values) if same else len(values) - _LAST_LAYER
    if len(values) != len(model.weights) or any(
        value.shape != tuple(weight.shape) for value, weight in zip(values[:count], model.weights, strict=False)
    ):
        raise ModelError(
            f"the weights of {path} do not fit this model; leave its options out, which are then those of {path}, and give "
            "faces with as many channels"
        )
    for weight, value in zip(model.weights, values[:count], strict=False):
        weight.assign(value)
    return f"the weights start from the exported model {path}" + ("" if same else ", but for the last layer: other classes")
