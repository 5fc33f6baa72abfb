"""Which engine runs a network: TensorFlow, which is always there, or OpenVINO, several times faster on a CPU, where installed."""

from __future__ import annotations

import functools
import os
import threading
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


_one_at_a_time = threading.Lock()


def openvino_core() -> Any:
    """OpenVINO's one Core; making it looks for devices, which takes a moment."""
    with _one_at_a_time:
        return _new_openvino_core()


@functools.cache
def _new_openvino_core() -> Any:
    import numpy as np
    import openvino

    # Two threads whose arrays are the first that OpenVINO sees wait for each other for ever (2026.4: each for what NumPy's
    # binding prepares once, one of them with Python's lock in its hand). So it sees one here.
    openvino.Tensor(np.zeros(1, np.float32))
    return openvino.Core()


def computes_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself (AMX, AVX512-BF16), and so faster than in float32: OpenVINO knows."""
    try:
        return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception:  # what is broken is told where a model is compiled
        return False


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory of freed arrays for the next ones, up to 64 MB.

    glibc asks the system for the memory of large arrays, page by page, and gives it back when they are freed; what is large it
    learns from the largest array that was freed so far, up to 32 MB (mallopt(3), M_MMAP_THRESHOLD). So one of that size is made
    and freed here. Without, most processes asked for 2,800 pages anew in each frame of 640x480, which doubled a detection's time.
    """
    import numpy as np

    np.empty((32 << 20) - (64 << 10), np.uint8)


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_openvino(model: Any, precision: str = "f32", callers: int = 1) -> Any:
    """Compile an openvino.Model for the CPU, for the shortest answer time.

    precision: "f32" or "bf16". Left to themselves some processors would compute in bfloat16 unasked, and then no longer give what
    TensorFlow gives; others compute in it by a detour, slowly.
    callers: how many threads call at the same time. Of several each has its share of the cores, and on two cores computes by
    itself: threads that OpenVINO keeps on all cores would wait for each other wherever a caller is at something else.
    """
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if callers == 1:
        options["PERFORMANCE_HINT"] = "LATENCY"
    else:
        # Without streams a network runs in the thread that calls it.
        options |= {"NUM_STREAMS": 0, "INFERENCE_NUM_THREADS": max(1, usable_cores() // callers)}
    return openvino_core().compile_model(model, "CPU", options)
