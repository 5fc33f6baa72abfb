"""Weights that make short cells (a rare emotion, a small group) count as much as the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError


def cells(dataset: FaceDataset, rows: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """The cell of each row: its values of the columns ("label", "gender", ...) joined. str (len(rows),).

    Raises ConfigError where a column is neither "label" nor a group column of the data set.
    """
    known = ("label", *dataset.group_columns)
    if bad := [column for column in columns if column not in known]:
        raise ConfigError(f"can't balance by {', '.join(bad)}; {dataset.path} has {', '.join(known)}")
    part = dataset.manifest.loc[rows, list(columns)].astype(str)
    return part.agg(" x ".join, axis=1).to_numpy(str)


def balanced_weights(cell_of: np.ndarray, power: float = 1.0) -> np.ndarray:
    """A weight for each row, inverse to the size of its cell. str (n,) -> float32 (n,), mean 1.

    power: 1 gives every cell the same total weight, 0 changes nothing, 0.5 lies between (the square root).
    """
    _, index, counts = np.unique(cell_of, return_inverse=True, return_counts=True)
    weights = (1.0 / counts[index]) ** power
    return (weights / weights.mean()).astype(np.float32)
