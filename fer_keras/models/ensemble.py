"""Several models as one: a network that feeds its members and combines what they say.

It is an architecture like any other (the specs of the members and how they are combined are its options), so that it is
exported, loaded, converted and evaluated as a single model is. It takes pictures of the largest member's size, in colour
where a member takes colour; each member gets them resized and in its own colour just as `fer_keras.data.images` would do
it, and labels that members have in another order are put in that of the ensemble.

`fer_keras.inference.ensemble.combine` is the same arithmetic on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError, FerError, ModelError
from fer_keras.models.registry import ModelSpec, Option, flag, one_of, register

if TYPE_CHECKING:
    import keras

#: How members can be combined. "greedy" is "weighted" by how often each member was chosen.
COMBINATIONS = ("mean", "vote", "weighted", "greedy")


def mean_share(members: int) -> float:
    """What the mean probability counts for beside the votes: less than one vote of `members`, so that it breaks ties alone."""
    return 1 / (members + 1)


def _members(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of members")
    members = []
    for one in value:
        if not isinstance(one, Mapping) or set(one) != {"spec", "order"}:
            raise ValueError('a list of members, each {"spec": a model spec, "order": label positions or null}')
        try:
            spec = ModelSpec.from_dict(one["spec"])
        except FerError as error:
            raise ValueError(f"a list of members with model specs that are known ({error})") from None
        order = one["order"]
        if order is not None and sorted(order) != list(range(spec.classes)):
            raise ValueError(f"a list of members whose orders hold each of 0 to {spec.classes - 1} once")
        members.append({"spec": spec.to_dict(), "order": None if order is None else [int(index) for index in order]})
    return members


def _weights(value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(one, (int, float)) and 0 <= one < float("inf") for one in value
    ):
        raise ValueError("a list of numbers of 0 or more")
    return [float(one) for one in value]


OPTIONS = {
    "members": Option([], _members, "spec and label order of each member"),
    "combine": Option("mean", one_of(*COMBINATIONS), "how what the members say becomes one answer"),
    "weights": Option([], _weights, "weight of each member, sum 1; equal ones for mean and vote"),
    "mirror": Option(False, flag, "each member answers for the face and its mirror image, and the mean of both counts"),
}


def _check(spec: ModelSpec) -> None:
    members, weights = spec.options["members"], spec.options["weights"]
    if not members:
        raise ConfigError("an ensemble is made of models that exist; make one with python -m training.ensemble")
    if len(weights) != len(members) or not np.isclose(sum(weights), 1, atol=1e-6):
        raise ConfigError(f"an ensemble of {len(members)} members needs as many weights with sum 1, got {weights}")
    if spec.options["combine"] in ("mean", "vote") and not np.allclose(weights, weights[0]):
        raise ConfigError(f"an ensemble by {spec.options['combine']} has equal weights, got {weights}")
    for index, member in enumerate(members, start=1):
        if member["spec"]["classes"] != spec.classes:
            raise ConfigError(f"member {index} has {member['spec']['classes']} classes and the ensemble {spec.classes}")


def common_labels(labels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The labels of an ensemble: those of its first member, which all others must have too, in any order.

    labels: member name -> label names. Raises ModelError naming the member and the labels that differ.
    """
    (first, wanted), *others = labels.items()
    for name, found in others:
        lacking, more = [one for one in wanted if one not in found], [one for one in found if one not in wanted]
        if lacking or more:
            differ = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"also has {', '.join(more)}"] * bool(more)
            raise ModelError(
                f"models of different labels can't be combined: {name} {' and '.join(differ)}, compared with {first} "
                f"({', '.join(wanted)}); leave it out, or train it on data with the same labels (training.prepare --map)"
            )
    return tuple(wanted)


def label_order(wanted: Sequence[str], found: Sequence[str]) -> list[int] | None:
    """Where a member has each label of the ensemble, or None where it has them in that order."""
    order = [list(found).index(label) for label in wanted]
    return None if order == list(range(len(wanted))) else order


def input_of(specs: Sequence[ModelSpec]) -> tuple[int, int]:
    """(image_size, channels) that an ensemble takes: the largest of its members', so that none of them loses anything."""
    return max(spec.image_size for spec in specs), max(spec.channels for spec in specs)


def ensemble_spec(
    specs: Sequence[ModelSpec],
    labels: Sequence[Sequence[str]],
    combine: str,
    weights: Sequence[float] | None = None,
    mirror: bool = False,
) -> ModelSpec:
    """The spec of an ensemble; its labels are those of the first member, in that order.

    specs, labels: of each member. weights: of each member, 0 or more, normalised here; needed for "weighted" and "greedy".
    mirror: each member answers for the face and its mirror image, at twice the cost, and the mean of both counts.
    Raises ModelError where labels differ, ConfigError where the combination does not fit.
    """
    wanted = common_labels(
        {f"member {index} ({spec.name})": one for index, (spec, one) in enumerate(zip(specs, labels, strict=True), 1)}
    )
    image_size, channels = input_of(specs)
    shares = np.ones(len(specs)) if weights is None else np.asarray(weights, np.float64)
    if not shares.sum() > 0:
        raise ConfigError(f"the weights of an ensemble must be 0 or more and not all 0, got {list(shares)}")
    options = {
        "members": [{"spec": spec.to_dict(), "order": label_order(wanted, one)} for spec, one in zip(specs, labels, strict=True)],
        "combine": combine,
        "weights": (shares / shares.sum()).tolist(),
        "mirror": mirror,
    }
    return ModelSpec("ensemble", len(wanted), image_size, channels, options)


def assemble(spec: ModelSpec, members: Sequence[keras.Model]) -> keras.Model:
    """The Keras model (float32) of an ensemble with the weights of its members.

    members: one model for each member of the spec, built from its spec, in any precision.
    """
    model = spec.build()
    for index, member in enumerate(members, start=1):
        model.get_layer(f"member_{index}").set_weights(member.get_weights())
    return model


@register("ensemble", options=OPTIONS, check=_check, listed=False, help="several models as one")
def build(spec: ModelSpec) -> keras.Model:
    """Every member on the same picture, and the combination of their probabilities. See OPTIONS."""
    import keras
    from keras import ops

    precision = keras.config.dtype_policy().name
    pixels = keras.Input((spec.image_size, spec.image_size, spec.channels), dtype="float32", name="pixels")
    mirror = spec.options["mirror"]
    # Both sides in one call: half the graph to load, and one face takes three quarters of the time that two calls take.
    views = ops.concatenate([pixels, ops.flip(pixels, axis=2)], axis=0) if mirror else pixels
    answers = []
    for index, member in enumerate(spec.options["members"], start=1):
        inner = ModelSpec.from_dict(member["spec"])
        network = inner.build(seed=index, precision=precision)
        network.name = f"member_{index}"
        answer = network(_fitted(views, spec, inner))
        if mirror:
            answer = ops.mean(ops.reshape(answer, (2, -1, spec.classes)), axis=0)
        answers.append(answer if member["order"] is None else ops.take(answer, member["order"], axis=-1))
    return keras.Model(pixels, _combined(answers, spec), name=spec.name)


def _combined(answers: list[keras.KerasTensor], spec: ModelSpec) -> keras.KerasTensor:
    """Probabilities (n, classes) from those of each member. See `fer_keras.inference.ensemble.combine`."""

    if spec.options["combine"] != "vote":
        return sum(answer * weight for answer, weight in zip(answers, spec.options["weights"], strict=True))
    count, share = len(answers), mean_share(len(answers))
    return (sum(map(_vote, answers)) / count + sum(answers) * (share / count)) / (1 + share)


def _vote(answer: keras.KerasTensor) -> keras.KerasTensor:
    """1 for the most probable label, 0 for the others; by comparing, as argmax and one_hot do not convert to OpenVINO."""
    from keras import ops

    highest = ops.cast(ops.equal(answer, ops.max(answer, axis=-1, keepdims=True)), "float32")
    return highest / ops.sum(highest, axis=-1, keepdims=True)


def _fitted(pixels: keras.KerasTensor, outer: ModelSpec, inner: ModelSpec) -> keras.KerasTensor:
    """The ensemble's pixels as a member takes them: colour first, then size, rounded to whole brightnesses as in a picture."""
    from keras import ops

    x = pixels
    if inner.channels < outer.channels:
        luma = ops.convert_to_tensor(np.array([0.299, 0.587, 0.114], np.float32))  # ITU-R 601
        x = ops.round(ops.sum(x * luma, axis=-1, keepdims=True))
    elif inner.channels > outer.channels:
        x = ops.repeat(x, inner.channels, axis=-1)
    if inner.image_size != outer.image_size:
        filters = ops.convert_to_tensor(resize_matrix(outer.image_size, inner.image_size))
        # Pillow resizes the width first and keeps whole numbers in between.
        x = _whole(ops.einsum("nhwc,ow->nhoc", x, filters))
        x = _whole(ops.einsum("nhwc,oh->nowc", x, filters))
    return x


def _whole(x: keras.KerasTensor) -> keras.KerasTensor:
    from keras import ops

    return ops.clip(ops.round(x), 0.0, 255.0)


def resize_matrix(before: int, after: int) -> np.ndarray:
    """float32 (after, before): what resizing a picture's side does to it, as `fer_keras.data.images.resize` does it.

    Resizing is linear, so resizing the columns of the identity gives its matrix.
    """
    from PIL import Image

    filters = Image.Resampling.BOX if after <= before else Image.Resampling.BICUBIC
    identity = Image.fromarray(np.eye(before, dtype=np.float32))
    return np.ascontiguousarray(np.asarray(identity.resize((before, after), filters), np.float32))
