"""Exported models: saved_models/NAME, what everything after training uses.

    NAME/saved_model.pb, variables/   SavedModel, computes in float32. Signature serving_default takes uint8 `pixels` (n, h, w, c)
                                      0..255, signature serve_float float32 ones; both give float32 `probabilities`
    NAME/metadata.json                labels in order, input, crop margin, temperature, spec, data, figures, versions
    NAME/README.md                    model card

The folder needs TensorFlow alone: no Keras object is in it. `load_keras_model` makes a Keras model of it again.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fer_keras
from fer_keras.errors import ConfigError, FerError, ModelError
from fer_keras.files import may_be_replaced, read_json, whole_folder, write_json
from fer_keras.models.finding import find_model
from fer_keras.models.registry import ModelSpec

if TYPE_CHECKING:
    import keras

FORMAT_VERSION = 1

#: How far probabilities of the exported and the Keras model may lie apart: float32 sums in another order.
TOLERANCE = 1e-4

_LARGEST_INT16 = 2**15 - 1

# Floats up to this are black by either scale, 0..255 or 0..1: half a step of an 8 bit picture divided by 255.
_BLACK = 0.5 / 255

#: Files by which a folder is known as an exported model, damaged perhaps.
MODEL_FILES = ("metadata.json", "saved_model.pb")

#: What metadata.json must have. `export_model` fills in those that it can know.
METADATA_KEYS = (
    "format_version",
    "name",
    "labels",
    "input",
    "crop_margin",
    "temperature",
    "spec",
    "trained_on",
    "figures",
    "versions",
    "git_revision",
    "seed",
    "created",
)

# The weights as the SavedModel has them. All vectors (biases, batch normalisation) are packed into one variable: DenseNet121
# then has 124 variables instead of 608, and loads three times as fast.
_VECTORS = "vectors"  # float32: all weights of rank 1, end to end
_ARRAYS = "arrays"  # a list of the others, float32, or int16 where they were rounded
_SCALES = "scales"  # float32, only where they were rounded: what to multiply each of them by
_LENGTHS = "lengths"  # int32, one number for each weight in the order of keras.Model.weights: its length, or -1 for an array


def export_model(
    model: keras.Model,
    spec: ModelSpec,
    path: str | os.PathLike,
    metadata: Mapping[str, Any],
    overwrite: bool = False,
    half: bool = False,
) -> Path:
    """Write a model as an exported model, whole or not at all, and return its folder.

    model: a model built from `spec`, in any precision; a float32 twin with its weights is what is written, so that
        machines without 16 bit arithmetic run it well.
    metadata: labels (in the order of the outputs) and trained_on (a sentence, or a dict of facts) must be there.
        May have: crop_margin (share of the face box added on each side before cropping, default 0), temperature (divides
        the logits for calibrated confidence, default 1), figures (list of {"dataset", "split", "protocol", "n",
        "accuracy", "accuracy_ci95": [low, high], "accuracy_ci95_identities": that over persons, where some have several faces,
        "macro_f1", "ece", "n_learnt": how many of these n faces it learnt from, "n_persons_learnt": of how many of the persons
        on them it learnt from other faces, where it did}), seed, git_revision, name (default: the folder's), licence, and more;
        for an ensemble: members (list of {"name", "architecture", "weight", "accuracy", ...}), combine.
    overwrite: replace an exported model of that name.
    half: round the weights as `rounded_to_half` does and keep them in 16 bits, which takes half the room. All that reads the
        model computes in float32 with them, as with others.

    Before it takes its place the SavedModel is loaded and must give the twin's probabilities within TOLERANCE.
    Raises ModelError where the folder exists (with overwrite: where it is something else), labels and outputs differ in
    number, weights don't fit the spec, or the SavedModel gives something else.
    """
    path = Path(path)
    taken = f"{path} exists already; choose another name, or overwrite it on purpose"
    if not overwrite and not may_be_replaced(path):
        raise ModelError(taken)
    if not may_be_replaced(path, *MODEL_FILES):
        raise ModelError(f"{path} is not an exported model, so it is not overwritten; choose another name, or remove it")
    complete = _complete_metadata(spec, path, metadata)
    _check_metadata(complete, path)
    twin = _float32_twin(model, spec, half)
    if half:
        complete["kernels"] = "int16"

    try:
        with whole_folder(path, overwrite=overwrite) as folder:
            _write_saved_model(twin, spec, folder, half)
            # What this model says of the probe batch, so that another runtime can be checked without TensorFlow.
            probed = np.asarray(twin(probe_pixels(spec.image_size, spec.channels).astype(np.float32), training=False))
            complete["probe"] = {"probabilities": [[round(float(value), 6) for value in row] for row in probed]}
            write_json(folder / "metadata.json", complete)
            (folder / "README.md").write_text(model_card(complete), encoding="utf-8")
            _verify(load_exported(folder), twin)
    except FileExistsError:
        raise ModelError(taken) from None  # another process exported under this name meanwhile
    return path


def _complete_metadata(spec: ModelSpec, path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    return {
        "format_version": FORMAT_VERSION,
        "name": path.name,
        "labels": [],
        "input": {
            "height": spec.image_size,
            "width": spec.image_size,
            "channels": spec.channels,
            "dtype": "uint8",
            "range": [0, 255],
        },
        "crop_margin": 0.0,
        "temperature": 1.0,
        "spec": spec.to_dict(),
        "trained_on": "",
        "figures": [],
        "versions": {
            "fer_keras": fer_keras.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "git_revision": git_revision(),
        "seed": None,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **{key: list(value) if key == "labels" else value for key, value in given.items()},
    }


def git_revision() -> str | None:
    """Commit of the checkout that this code is in, with "-dirty" where files were changed; None outside of one."""
    here = Path(__file__).resolve()
    try:
        # An environment with this package in it may lie in the folder of another project, whose commit says nothing of it.
        for words in (f"ls-files --error-unmatch {here.name}", "describe --always --dirty --abbrev=40 --exclude=*"):
            command = ["git", "-C", str(here.parent), *words.split()]
            found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _float32_twin(model: keras.Model, spec: ModelSpec, half: bool) -> keras.Model:
    twin = spec.build(seed=0, precision="float32")
    values = model.get_weights()
    _set_weights(twin, rounded_to_half(values) if half else values, f"model {model.name}")
    return twin


def rounded_to_half(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Weights with each kernel rounded to 16 bits, biases and batch statistics, which take little room, as they are.

    A weight moves by 1/32767 of the largest in its kernel at most, and not at all where it was rounded before.
    weights: float32, in the order of `keras.Model.weights`. Returns float32 of the same shapes.
    Raises ModelError where a kernel has numbers that are not finite.
    """
    return [value if value.ndim == 1 else np.float32(scale) * whole for value in weights for whole, scale in [_in_16_bits(value)]]


def _in_16_bits(kernel: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 of any shape as int16 and the power of two by which to multiply them, so that nothing is rounded twice.

    Not float16: TensorFlow complains of it on processors for which oneDNN has none, and it has 11 bits for a kernel's largest.
    """
    largest = float(np.abs(kernel).max(initial=0))
    if not np.isfinite(largest):
        raise ModelError("the model has weights that are no finite numbers; its training has failed")
    scale = 2.0 ** math.ceil(math.log2(largest / _LARGEST_INT16)) if largest else 1.0
    return np.rint(kernel / np.float32(scale)).astype(np.int16), scale


def _set_weights(model: keras.Model, values: list[np.ndarray], origin: str) -> None:
    expected = [tuple(weight.shape) for weight in model.weights]
    received = [tuple(value.shape) for value in values]
    if expected != received:
        differing = next((i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b), None)
        where = "" if differing is None else f"; number {differing} is {received[differing]} instead of {expected[differing]}"
        raise ModelError(
            f"the weights of {origin} do not fit its spec: expected {len(expected)} arrays, got {len(received)}{where}; "
            "use the spec that the model was built from"
        )
    model.set_weights(values)


def _write_saved_model(twin: keras.Model, spec: ModelSpec, folder: Path, half: bool) -> None:
    import keras
    import tensorflow as tf

    vectors = [weight for weight in twin.weights if len(weight.shape) == 1]
    arrays = [weight for weight in twin.weights if len(weight.shape) != 1]
    lengths = [weight.shape[0] if len(weight.shape) == 1 else -1 for weight in twin.weights]
    # Bare variables in a bare module: no optimizer, no Keras configuration, nothing that another Keras can't read.
    module = tf.Module()
    setattr(module, _VECTORS, tf.Variable(np.concatenate([weight.numpy() for weight in vectors]), trainable=False))
    kept = [_in_16_bits(weight.numpy()) if half else (weight.numpy(), 1.0) for weight in arrays]
    setattr(module, _ARRAYS, [tf.Variable(values, trainable=False) for values, _ in kept])
    if half:
        setattr(module, _SCALES, tf.Variable(np.array([scale for _, scale in kept], np.float32), trainable=False))
    setattr(module, _LENGTHS, tf.Variable(np.array(lengths, np.int32), trainable=False))
    shape = (None, spec.image_size, spec.image_size, spec.channels)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32, name="pixels")])
    def serve_float(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        unpacked = tf.split(getattr(module, _VECTORS), [length for length in lengths if length >= 0])
        values = [tf.cast(variable, tf.float32) for variable in getattr(module, _ARRAYS)]
        if half:
            values = [each * scale for each, scale in zip(values, tf.unstack(getattr(module, _SCALES)), strict=True)]
        with keras.StatelessScope(state_mapping=[*zip(vectors, unpacked, strict=True), *zip(arrays, values, strict=True)]):
            return {"probabilities": twin(pixels, training=False)}

    # Calls the other one, so that the network is in the file once.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec(shape, tf.uint8, name="pixels")])
    def serve_uint8(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return serve_float(tf.cast(pixels, tf.float32))

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve_uint8, "serve_float": serve_float})


def probe_pixels(size: int, channels: int) -> np.ndarray:
    """Pictures to compare runtimes on: a texture, a ramp, black and white. uint8 (5, size, size, channels), always the same."""
    y, x, channel = np.ogrid[:size, :size, :channels]
    texture = [(x * x * 7 + y * y * 13 + x * y * factor + channel * 29) % 256 for factor in (3, 11)]
    ramp = np.broadcast_to((255 * x) // max(size - 1, 1), (size, size, channels))
    return np.stack([*texture, ramp, np.zeros_like(ramp), np.full_like(ramp, 255)]).astype(np.uint8)


def _verify(exported: ExportedModel, keras_model: keras.Model) -> None:
    """Compare with the Keras model on the probe batch."""
    pixels = probe_pixels(exported.image_size, exported.channels)
    expected = np.asarray(keras_model(pixels.astype(np.float32), training=False))
    # One signature is enough: the one for uint8 calls the other.
    difference = float(np.abs(exported.predict(pixels) - expected).max())
    if not difference <= TOLERANCE:  # "not <=" is true for NaN as well
        raise ModelError(
            f"{exported.name}: the SavedModel's probabilities differ from the Keras model's by {difference:.2g}, "
            f"allowed is {TOLERANCE:g}; the model is not to be trusted (are its weights finite?)"
        )


class Described:
    """What metadata.json says of an exported model, as properties. metadata: as `read_metadata` gives it."""

    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.metadata["name"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return tuple(self.metadata["labels"])

    @property
    def image_size(self) -> int:
        """Height and width of the pictures that it takes, in pixels."""
        return int(self.metadata["input"]["height"])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.metadata["input"]["channels"])

    @property
    def temperature(self) -> float:
        """Divides the logits for calibrated confidence; `predict` does not apply it."""
        return float(self.metadata["temperature"])

    @property
    def crop_margin(self) -> float:
        """Share of the face box to add on each side before cropping."""
        return float(self.metadata["crop_margin"])


@dataclass(frozen=True)
class ExportedModel(Described):
    """An exported model, ready to use. Made by `load_exported`.

    metadata: metadata.json, checked.
    """

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    _signatures: Mapping[str, Any] = field(repr=False)

    def predict(self, pixels: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Class probabilities of pictures.

        pixels: (n, image_size, image_size, channels), 0..255, any number type; uint8 is what it was made for.
        batch_size: how many pictures go through the network at once, 1 or more; the answers do not depend on it.
        Returns float32 (n, classes); each row sums to 1.
        Raises ModelError for another shape, values outside 0..255 or floats that look like 0..1, and ConfigError for a
        batch_size that is no whole number of 1 or more.
        """
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ConfigError(f"batch_size is a whole number of 1 or more, got {batch_size!r}")
        pixels = np.asarray(pixels)
        expected = (self.image_size, self.image_size, self.channels)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ModelError(
                f"model {self.name} takes pixels of shape (n, {', '.join(map(str, expected))}), got {pixels.shape}; "
                "resize and convert the faces first"
            )
        signature = self._signatures["serving_default"]
        if pixels.dtype != np.uint8:
            if pixels.dtype.kind not in "iuf":
                raise ModelError(f"model {self.name} takes pixels as numbers 0..255, got {pixels.dtype}")
            if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
                raise ModelError(
                    f"model {self.name} takes pixels 0..255, got {pixels.min():g}..{pixels.max():g}; do not normalise them before"
                )
            if pixels.size and pixels.dtype.kind == "f" and _BLACK < pixels.max() <= 1:
                raise ModelError(
                    f"model {self.name} takes pixels 0..255, got {pixels.min():g}..{pixels.max():g}, which look like 0..1; "
                    "do not divide them by 255 before, and give pictures that are really so dark as uint8"
                )
            signature = self._signatures["serve_float"]
            pixels = pixels.astype(np.float32)
        result = np.empty((len(pixels), len(self.labels)), np.float32)
        for start in range(0, len(pixels), batch_size):
            # The signature was traced once for any number of pictures, so a short last batch costs nothing.
            rows = slice(start, start + batch_size)
            result[rows] = signature(pixels=np.ascontiguousarray(pixels[rows]))["probabilities"].numpy()
        return result


def load_exported(path: str | os.PathLike) -> ExportedModel:
    """Open an exported model.

    path: its folder, or its name in ./saved_models or among the shipped ones; see `finding.find_model`.
    Raises ModelError where there is none, the folder is not one, or its metadata is incomplete, from a newer version, or does
    not fit the SavedModel.
    """
    path = find_model(path)
    metadata = read_metadata(path)
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        signatures = {name: loaded.signatures[name] for name in ("serving_default", "serve_float")}
        outputs = signatures["serving_default"].structured_outputs["probabilities"].shape
        inputs = signatures["serving_default"].structured_input_signature[1]["pixels"].shape
    except Exception as error:  # TensorFlow raises a dozen kinds for a damaged folder
        raise ModelError(f"the SavedModel in {path} can't be loaded ({_first_line(error)}); export the model again") from error
    labels, size = metadata["labels"], metadata["input"]
    if outputs[-1] != len(labels):
        raise ModelError(
            f"{path}/metadata.json has {len(labels)} labels ({', '.join(labels)}) and the SavedModel gives {outputs[-1]} "
            "probabilities; they are not of the same model"
        )
    expected = (size["height"], size["width"], size["channels"])
    if tuple(inputs[1:]) != expected:
        raise ModelError(
            f"{path}/metadata.json says that pictures are {expected}, the SavedModel takes {tuple(inputs[1:])}; "
            "they are not of the same model"
        )
    return ExportedModel(path, metadata, signatures)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The checked metadata.json in the folder of an exported model, without loading TensorFlow. Raises ModelError."""
    path = Path(path)
    file = path / "metadata.json"
    if not file.is_file() or not (path / "saved_model.pb").is_file():
        if not path.is_dir():
            what = "there is no such folder"
        else:
            what = f"it lacks {'metadata.json' if not file.is_file() else 'saved_model.pb'}"
        raise ModelError(f"{path} is not an exported model: {what}; make one with python -m training.train --export NAME")
    try:
        metadata = read_json(file)
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} can't be read as JSON ({_first_line(error)}); export the model again") from error
    _check_metadata(metadata, path)
    return metadata


def _check_metadata(metadata: Any, path: Path) -> None:
    def fail(problem: str, remedy: str = "export the model again") -> ModelError:
        return ModelError(f"{path}/metadata.json {problem}; {remedy}")

    if not isinstance(metadata, dict):
        raise fail("must hold a JSON object")
    version = metadata.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise fail(
            f"has format_version {version}, this fer_keras reads up to {FORMAT_VERSION}", "update fer_keras, or export it again"
        )
    if missing := [key for key in METADATA_KEYS if key not in metadata]:
        raise fail(f"lacks {', '.join(missing)}")
    labels = metadata["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise fail(f"must have labels as a list of different names, got {labels!r}")
    try:
        spec = ModelSpec.from_dict(metadata["spec"])
        size = {key: int(metadata["input"][key]) for key in ("height", "width", "channels")}
        temperature, margin = float(metadata["temperature"]), float(metadata["crop_margin"])
    except FerError as error:
        raise fail(f"has a spec that this fer_keras does not know ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise fail(f"has a wrong input, temperature or crop_margin ({type(error).__name__}: {error})") from error
    if len(labels) != spec.classes:
        raise fail(f"has {len(labels)} labels ({', '.join(labels)}) and a spec of {spec.classes} classes")
    if size != {"height": spec.image_size, "width": spec.image_size, "channels": spec.channels}:
        raise fail(f"says that pictures are {size}, its spec says {spec.image_size} px with {spec.channels} channels")
    if not temperature > 0:
        raise fail(f"has temperature {temperature}, expected more than 0")
    if not margin >= 0:
        raise fail(f"has crop_margin {margin}, expected 0 or more")


def read_weights(path: str | os.PathLike) -> list[np.ndarray]:
    """The weights in the folder of an exported model, in the order of `keras.Model.weights`, without loading its graph.

    Raises ModelError where they can't be read.
    """
    import tensorflow as tf

    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    try:
        reader = tf.train.load_checkpoint(str(Path(path) / "variables" / "variables"))
        vectors = reader.get_tensor(_VECTORS + suffix)
        scales = reader.get_tensor(_SCALES + suffix) if reader.has_tensor(_SCALES + suffix) else None
        weights, taken, arrays = [], 0, 0
        for length in reader.get_tensor(_LENGTHS + suffix):
            if length >= 0:
                weights.append(vectors[taken : taken + length])
                taken += length
            else:
                kernel = reader.get_tensor(f"{_ARRAYS}/{arrays}{suffix}")
                weights.append(kernel if scales is None else kernel * scales[arrays])
                arrays += 1
    except Exception as error:  # as above: many kinds
        raise ModelError(f"the weights in {path} can't be read ({_first_line(error)}); export the model again") from error
    return weights


def load_keras_model(path: str | os.PathLike) -> keras.Model:
    """The Keras model (float32) of an exported model, rebuilt from its spec, for training it further.

    path: as for `load_exported`.
    Raises ModelError where it raises one, weights and spec do not fit, or the rebuilt model gives other probabilities.
    """
    exported = load_exported(path)
    model = ModelSpec.from_dict(exported.metadata["spec"]).build()
    _set_weights(model, read_weights(exported.path), str(exported.path))
    _verify(exported, model)
    return model


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def model_card(metadata: Mapping[str, Any]) -> str:
    """The model card (Markdown) that goes beside an exported model, made from its metadata."""
    size = metadata["input"]
    kind = "grey" if size["channels"] == 1 else "RGB"
    lines = [
        f"# {metadata['name']}",
        "",
        f"Facial expression classifier made with fer_keras {metadata['versions']['fer_keras']}: one face in, one probability for "
        f"each of {len(metadata['labels'])} classes out.",
        "",
        f"- Classes, in order: {', '.join(metadata['labels'])}",
        f"- Input: {kind} face, {size['height']}x{size['width']} pixels, uint8 0..255, not normalised (that happens inside)",
        f"- Crop: the face box with {100 * metadata['crop_margin']:g}% of its size added on each side",
        f"- Temperature: {metadata['temperature']:g} (divide the logarithm of the probabilities by it, then softmax again, "
        "where confidence is to be calibrated)",
        f"- Architecture: {_architecture(metadata)}",
        *(["- Kernels are kept in 16 bits and used in 32"] if metadata.get("kernels") == "int16" else []),
        f"- Made: {metadata['created']}, seed {metadata['seed']}, revision {metadata['git_revision'] or 'unknown'}, "
        + ", ".join(f"{key} {value}" for key, value in metadata["versions"].items()),
        "",
        "## Use",
        "",
        "```python",
        "from fer_keras.models.exported import load_exported",
        "",
        f'model = load_exported("{metadata["name"]}")  # its name in saved_models/, or the path of this folder',
        "probabilities = model.predict(faces)  "
        f"# uint8 (n, {size['height']}, {size['width']}, {size['channels']}) -> float32 (n, {len(metadata['labels'])})",
        "```",
        "",
        "These are as the network gives them. `fer_keras.inference.recognizer.Recognizer(path).predict(faces)`, the server and",
        "`serving.predict` apply the temperature, as all confidences that are told here do.",
        "",
        "Without fer_keras: it is a TensorFlow SavedModel; signature `serving_default` takes `pixels` and gives `probabilities`.",
        "",
        *_members(metadata.get("members") or ()),
        "## Trained on",
        "",
        *_facts(_without_rows(metadata["trained_on"])),
        "",
        "## Figures",
        "",
        *_figures_table(metadata["figures"]),
        *_protocol_notes(metadata["figures"]),
        "",
        "## Limits",
        "",
        "- It tells which expression a face shows as annotators would name it, not what a person feels.",
        f"- Annotators disagree with each other, and rare classes{_rare(metadata['labels'])} rest on few pictures.",
        "- It expects one cropped face that looks roughly at the camera; on anything else its answer means nothing.",
        "- Accuracy differs between groups of people and was measured on the data above only; groups of which nothing is said "
        "here (age, skin colour...) were not looked at. Measure it on your own before use.",
        "",
        "## Intended use",
        "",
        "Research, teaching, and software in which people take part knowingly and nothing is decided about them.",
        "",
        "Not for: inferring emotions of people at work or in education, which the EU AI Act, Article 5(1)(f), prohibits save for "
        "medical or safety reasons; hiring, policing, border control, credit, or any decision about a person; diagnosis.",
        "",
        "## Licence",
        "",
        str(metadata.get("licence") or "Not recorded; on what terms the weights may be used is for whoever trained them to say."),
        "The pictures that it was trained on are not included; their own terms hold for them.",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _architecture(metadata: Mapping[str, Any]) -> str:
    spec = metadata["spec"]
    if spec["name"] != "ensemble":
        return f"{spec['name']}, {json.dumps(spec['options'])}"
    both = ", each on the face and its mirror image" if spec["options"].get("mirror") else ""
    return f"{len(spec['options']['members'])} models as one, combined by {spec['options']['combine']}{both}"


def _members(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """The members of an ensemble as a section, or nothing."""
    if not members:
        return []
    lines = ["## Members", "", "| member | architecture | weight | accuracy |", "|---|---|---|---|"]
    for member in members:
        cells = (member.get("name"), member.get("architecture"), member.get("weight"), member.get("accuracy"))
        lines.append("| " + " | ".join(map(_number, cells)) + " |")
    return [*lines, ""]


def _without_rows(trained_on: Any) -> Any:
    """What the card tells of the training data; "rows" is for programs."""
    if isinstance(trained_on, Mapping):
        return {key: fact for key, fact in trained_on.items() if key != "rows"}
    return trained_on


def _facts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"- {str(key).replace('_', ' ')}: {_plain(fact)}" for key, fact in value.items()] or ["Not recorded."]
    return [str(value) or "Not recorded."]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def interval_to_state(figures: Mapping[str, Any]) -> Sequence[float]:
    """[low, high] of an accuracy: over persons, where some have several faces, else over faces; empty where neither is there."""
    return figures.get("accuracy_ci95_identities") or figures.get("accuracy_ci95") or ()


def _figures_table(figures: list[Mapping[str, Any]]) -> list[str]:
    if not figures:
        return ["None were measured."]
    rows = [
        "| data | split | protocol | n | accuracy | 95% interval | macro F1 | ECE, no temperature |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        interval = " to ".join(_number(bound) for bound in interval_to_state(figure))
        told = (("n_learnt", "learnt"), ("n_persons_learnt", "persons known"))
        known = ", ".join(f"{figure[key]} {word}" for key, word in told if figure.get(key))
        learnt = f" ({known})" if known else ""
        cells = [figure.get("dataset"), figure.get("split"), figure.get("protocol"), f"{_number(figure.get('n'))}{learnt}"]
        cells += [figure.get("accuracy"), interval, figure.get("macro_f1"), figure.get("ece")]
        rows.append("| " + " | ".join(map(_number, cells)) + " |")
    return rows


def _protocol_notes(figures: list[Mapping[str, Any]]) -> list[str]:
    """What the words in the table of figures mean."""
    notes = {
        "validation": "`validation` are the faces by which the best epoch was chosen, so these figures flatter a little",
        "majority": "`majority` counts the faces whose first expression has more than half of the votes (single ones ignored)",
        "plurality": "`plurality` takes the label that most annotators gave, with or without more than half of them",
        "label": "`label` takes the one label that the data has",
        "learnt": "`learnt` are faces that the model, or one that it builds on, was trained on, so these figures flatter it",
        "persons": "the 95% interval draws whole persons, not faces, where some have several",
        "known": "`persons known` are those of whom it was trained on other faces, so these figures flatter it",
    }
    used = {word for figure in figures for word in (figure.get("split"), figure.get("protocol"))}
    used |= {"learnt" for figure in figures if figure.get("n_learnt")}
    used |= {"persons" for figure in figures if figure.get("accuracy_ci95_identities")}
    used |= {"known" for figure in figures if figure.get("n_persons_learnt")}
    told = [note for word, note in notes.items() if word in used]
    return ["", "; ".join(told) + "."] if told else []


def _rare(labels: Sequence[str]) -> str:
    """The emotions of a model that every known data set has few pictures of, in brackets."""
    rare = [name for name in ("disgust", "contempt", "fear") if name in labels]
    return f" ({', '.join(rare)})" if rare else ""


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
