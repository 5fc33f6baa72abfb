"""What the hardware decides, and weights that are on disk whole or not at all."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.cli import import_tensorflow
from fer_keras.errors import WriteError
from fer_keras.files import writing_whole

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


#: What an array takes in a file of Keras beside its numbers; 1.4 to 3.8 kB were measured.
_HDF5_BYTES = 4096


def choose_precision(requested: str) -> str:
    """The dtype policy to train with. "auto" takes mixed_bfloat16 where it is faster.

    Those are CPUs that compute in it (AMX, AVX512-BF16: docs/results.md) and GPUs since Ampere. Asked once a run, when it is
    made (`RunFolder.precision`): another machine may answer otherwise.
    """
    if requested != "auto":
        return requested
    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "float32"
    return "mixed_bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


@functools.cache
def choose_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy where a machine has several GPUs, else the default one; one a process, since two don't go together."""
    import tensorflow as tf

    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def can_not_write(path: Path, error: OSError) -> WriteError:
    """What to tell of a file that can't be written: in the words of the system, since HDF5 has many lines of its own."""
    reason = os.strerror(error.errno) if error.errno else error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return WriteError(f"can't write {path}: {reason}" + ("; make room" if full else ""))


def save_weights(model: keras.Model, path: Path) -> None:
    """Write Keras weights (and the optimizer, where compiled) whole or not at all."""
    part = path.with_name("part-" + path.name)  # the name must end as Keras expects
    try:
        _try_for_room(part, model)
        model.save_weights(part)
        part.replace(path)
    except OSError as error:
        raise can_not_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _try_for_room(part: Path, model: keras.Model) -> None:
    """Write as many bytes as the weights will take. Raises OSError where there is no room.

    HDF5 prints tracebacks of its own where a disk gets full, some of them at the end of the process.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    size = sum(4 * int(np.prod(variable.shape)) + _HDF5_BYTES for variable in variables)
    with part.open("wb") as file:
        for _ in range(0, size, 2**20):
            file.write(bytes(2**20))


def copy_weights(source: Path, target: Path) -> None:
    """Copy a file of weights, whole or not at all."""
    try:
        with source.open("rb") as original, writing_whole(target) as copy:
            shutil.copyfileobj(original, copy)
    except OSError as error:
        raise can_not_write(target, error) from error


def save_state(net: keras.Model, path: Path) -> None:
    """Write the weights of a compiled model and its optimizer's, whole or not at all, for `load_state` of the same code.

    Each epoch writes one, and Keras's own format takes two to three times as long.
    """
    arrays = {str(number): array for number, array in enumerate(arrays_of(_variables(net)))}
    try:
        with writing_whole(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise can_not_write(path, error) from error


def load_state(net: keras.Model, path: Path) -> None:
    """Give a compiled model and its optimizer what `save_state` wrote."""
    with np.load(path) as arrays:
        for number, variable in enumerate(_variables(net)):
            variable.assign(arrays[str(number)])


def _variables(net: keras.Model) -> list:
    return [*net.weights, *net.optimizer.variables]


def arrays_of(variables: Iterable) -> list[np.ndarray]:
    """The values of Keras variables."""
    import keras

    return [keras.ops.convert_to_numpy(variable) for variable in variables]
