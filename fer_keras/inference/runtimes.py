"""What runs an exported model: TensorFlow, or OpenVINO, which reads the same SavedModel folder and needs no TensorFlow."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_keras.errors import ModelError
from fer_keras.models.exported import load_exported, probe_pixels
from fer_keras.runtime import choose_runtime, compile_openvino, computes_bfloat16, openvino_core

#: How far probabilities may lie from TensorFlow's. In bfloat16 those of shipped models lay 0.022 apart at most (docs/results.md).
TOLERANCES = {"openvino": 1e-3, "openvino-bf16": 0.05}
#: A model is run in bfloat16 unasked if the label is the same for such a share of faces, as `benchmarks.runtimes --record` writes
#: into metadata.json: {"bfloat16": {"same_label": 0.998, "n": 3579, "data": "ferplus validation"}}.
SAME_LABEL = 0.995
#: Faces in one call at most, so that memory stays small.
MAX_BATCH = 64

#: uint8 (n, h, w, c) -> float32 (n, classes). May be called by several threads at once.
Predict = Callable[[np.ndarray], np.ndarray]


def open_runtime(path: Path, metadata: Mapping[str, Any], wanted: str = "auto") -> tuple[str, Predict]:
    """Open the SavedModel of an exported model: (one of `runtime.RUNTIMES`, its predict function).

    wanted: one of those, or "auto": OpenVINO where it is installed and gives what TensorFlow gives, in bfloat16 where the
    processor has it and metadata.json says that the model has been tried in it and nearly always gives the same label (see
    SAME_LABEL); else TensorFlow, with a warning. Compared are the probabilities of a probe batch: with those that TensorFlow
    gave when the model was exported, where metadata.json has them, else with what it gives now, which takes its loading.
    Raises ConfigError for an unknown runtime or one that is not installed, ModelError where the model can't be loaded, or
    OpenVINO is asked for by name and does not agree.
    """
    path = Path(path)
    if choose_runtime(wanted) == "tensorflow":
        return "tensorflow", _by_tensorflow(path)
    names = [wanted]
    if wanted == "auto":
        names = ["openvino-bf16", "openvino"] if _stands_bfloat16(metadata) and computes_bfloat16() else ["openvino"]
    size = metadata["input"]
    pixels = probe_pixels(size["height"], size["channels"])
    expected = _recorded(metadata, len(pixels))
    reference: Predict | None = None
    for name in names:
        try:
            predict = _by_openvino(path, metadata, name)
            if expected is None:
                reference = _by_tensorflow(path)
                expected = reference(pixels)
            _check(name, metadata["name"], predict(pixels), expected)
            return name, predict
        except ModelError as error:
            problem = error
    if wanted != "auto":
        raise problem
    fallback = reference or _by_tensorflow(path)  # a damaged model is told here, in its own words
    warnings.warn(f"{problem}. TensorFlow runs it instead, slower", stacklevel=3)
    return "tensorflow", fallback


def _stands_bfloat16(metadata: Mapping[str, Any]) -> bool:
    try:
        return bool(metadata["bfloat16"]["same_label"] >= SAME_LABEL)
    except (KeyError, TypeError):  # it was not tried
        return False


def _check(name: str, model: str, probabilities: np.ndarray, expected: np.ndarray) -> None:
    difference = float(np.abs(probabilities - expected).max())
    if not difference <= TOLERANCES[name]:  # "not <=" is true for NaN as well
        how = " in bfloat16" if name == "openvino-bf16" else ""
        raise ModelError(
            f"model {model}: OpenVINO's probabilities{how} differ from TensorFlow's by {difference:.2g}, allowed is "
            f"{TOLERANCES[name]:g}; run it with {'OpenVINO in float32' if how else 'TensorFlow'}"
        )


def _recorded(metadata: Mapping[str, Any], rows: int) -> np.ndarray | None:
    """What TensorFlow gave for the probe batch when the model was exported, or None where it was not recorded."""
    probe = metadata.get("probe")
    try:
        probabilities = np.asarray(probe["probabilities"], np.float32)
    except (TypeError, KeyError, ValueError):
        return None
    return probabilities if probabilities.shape == (rows, len(metadata["labels"])) else None


def _by_tensorflow(path: Path) -> Predict:
    model = load_exported(path)
    return lambda pixels: model.predict(pixels, batch_size=MAX_BATCH)


def _by_openvino(path: Path, metadata: Mapping[str, Any], name: str) -> Predict:
    size = metadata["input"]
    expected = [size["height"], size["width"], size["channels"]]
    try:
        model = openvino_core().read_model(str(path))
        inputs, outputs = model.inputs, model.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
        shape = [each.get_length() if each.is_static else None for each in inputs[0].get_partial_shape()]
        classes = outputs[0].get_partial_shape()[1].get_length()
        if shape[1:] != expected or classes != len(metadata["labels"]):
            raise ValueError(
                f"it takes pictures of {shape[1:]} and gives {classes} probabilities, metadata.json says {expected} and "
                f"{len(metadata['labels'])}"
            )
        request = compile_openvino(model, "bf16" if name == "openvino-bf16" else "f32").create_infer_request()
    except Exception as error:  # OpenVINO raises RuntimeError for all that it can't read or run
        raise ModelError(f"OpenVINO can't run the SavedModel in {path} ({' '.join(str(error).split())[:200]})") from error
    one_at_a_time = threading.Lock()

    def predict(pixels: np.ndarray) -> np.ndarray:
        result = np.empty((len(pixels), classes), np.float32)
        with one_at_a_time:
            for start in range(0, len(pixels), MAX_BATCH):
                rows = slice(start, start + MAX_BATCH)
                result[rows] = request.infer([np.ascontiguousarray(pixels[rows])], share_inputs=True, share_outputs=True)[0]
        return result

    return predict
