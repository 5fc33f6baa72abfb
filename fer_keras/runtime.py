"""Which engine runs a network: TensorFlow, which is always there, or OpenVINO, several times faster on a CPU, where installed."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from fer_keras.errors import ConfigError

#: "openvino-bf16" is OpenVINO computing in bfloat16.
RUNTIMES = ("tensorflow", "openvino", "openvino-bf16")


def choose_runtime(wanted: str = "auto") -> str:
    """The engine to use: "openvino" or "tensorflow".

    wanted: one of RUNTIMES, or "auto": OpenVINO where it can be imported, else TensorFlow.
    Raises ConfigError for another name, or where OpenVINO is wanted and can't be imported.
    """
    if wanted not in ("auto", *RUNTIMES):
        raise ConfigError(f"unknown runtime {wanted!r}; choose from auto, {', '.join(RUNTIMES)}")
    if wanted == "tensorflow":
        return wanted
    try:
        import openvino  # noqa: F401
    except ModuleNotFoundError as error:
        if wanted != "auto":
            raise ConfigError(f"OpenVINO can't be imported ({error}); pip install openvino, or use tensorflow") from error
        return "tensorflow"
    except ImportError as error:  # it is there and broken, which its owner would like to know
        if wanted != "auto":
            raise ConfigError(f"OpenVINO can't be imported ({error}); reinstall it, or use tensorflow") from error
        warnings.warn(f"OpenVINO can't be imported ({error}); TensorFlow runs instead, slower", stacklevel=2)
        return "tensorflow"
    return "openvino"


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's one Core; making it looks for devices, which takes a moment."""
    import openvino

    return openvino.Core()


def computes_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself (AMX, AVX512-BF16), and so faster than in float32: OpenVINO knows."""
    try:
        return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception:  # what is broken is told where a model is compiled
        return False


def compile_openvino(model: Any, precision: str = "f32") -> Any:
    """Compile an openvino.Model for the CPU, for the shortest answer time.

    precision: "f32" or "bf16". Left to themselves some processors would compute in bfloat16 unasked, and then no longer give what
    TensorFlow gives; others compute in it by a detour, slowly.
    """
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    return openvino_core().compile_model(model, "CPU", options)
