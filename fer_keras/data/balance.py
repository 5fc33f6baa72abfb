"""Ways to make short cells (a rare emotion, a small group, an emotion of a group) count as much as the others.

    weight       each face weighs inversely to the size of its cell
    resample     faces of short cells are drawn more often
    augment      short cells are brought up with new pictures: mirrored, turned, shifted, lighter or darker copies
    mean-flip    large cells are cut to the mean size, short ones brought up to it with mirrored copies
    dro          group DRO: cells on which the model is worse weigh more, see training/dro.py

What is known of nobody is balanced for nobody: a face whose group is "unknown" keeps its natural share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.data.dataset import UNKNOWN, FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import joined_names

if TYPE_CHECKING:
    from fer_keras.data.pipeline import Augmentation

#: The cell of a face of which a group is not known.
NO_CELL = ""
#: What is changed in a new picture; all 0 is the picture as it was. mirror: 0 or 1. shift_x, shift_y: share of the side.
#: brightness: share of 255. contrast: share.
CHANGES = ("mirror", "rotate_deg", "shift_x", "shift_y", "brightness", "contrast")


def check_columns(dataset: FaceDataset, columns: Sequence[str]) -> None:
    """Raise ConfigError where a column is neither "label" nor a group column of the data set."""
    known = ("label", *dataset.group_columns)
    if bad := [column for column in columns if column not in known]:
        raise ConfigError(f"can't balance by {', '.join(bad)}; {dataset.path} has {', '.join(known)}")


def cells(dataset: FaceDataset, rows: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """The cell of each row: its values of the columns ("label", "gender", ...) joined. str (len(rows),).

    Where a group is unknown the cell is NO_CELL. Raises ConfigError where a column is neither "label" nor a group column of
    the data set, DataError where no row has a cell.
    """
    check_columns(dataset, columns)
    parts = [dataset.manifest[column].to_numpy(str)[rows] for column in columns]
    joined = joined_names(parts, "x")
    unknown = np.zeros(len(joined), bool)
    for column, part in zip(columns, parts, strict=True):
        unknown |= (column != "label") & (part == UNKNOWN)
    if len(unknown) and unknown.all():
        raise DataError(f"no face here has a known {' and '.join(columns)} in {dataset.path}; balance by something that is known")
    return np.where(unknown, NO_CELL, joined)


def balanced_weights(cell_of: np.ndarray, power: float = 1.0) -> np.ndarray:
    """A weight for each row, inverse to the size of its cell. str (n,) -> float32 (n,), mean 1; NO_CELL weighs 1.

    power: 1 gives every cell the same total weight, 0 changes nothing, 0.5 lies between (the square root).
    """
    weights = np.ones(len(cell_of))
    known = cell_of != NO_CELL
    _, index, counts = np.unique(cell_of[known], return_inverse=True, return_counts=True)
    inverse = (1.0 / counts[index]) ** power
    weights[known] = inverse / inverse.mean()
    return weights.astype(np.float32)


@dataclass(frozen=True)
class CellPlan:
    """Training rows after balancing.

    positions: int64 (m,), which of the rows given; one that is repeated is a new picture of that row.
    changes: float32 (m, 6), what is changed in each, by the columns of CHANGES.
    """

    positions: np.ndarray
    changes: np.ndarray

    @property
    def made(self) -> np.ndarray:
        """bool (m,): the new pictures."""
        return (self.changes != 0).any(axis=1)


def check_strengths(strengths: Augmentation) -> None:
    """Raise ConfigError where all strengths are 0: there would be nothing new about the new pictures."""
    if not strengths.flip and not any(_amounts(strengths)):
        raise ConfigError("new pictures are made by flip, rotate, shift, brightness and contrast, which are all off; set one")


def _amounts(strengths: Augmentation) -> tuple[float, ...]:
    """The largest change in each of CHANGES but the mirror."""
    return (strengths.rotate_deg, strengths.shift, strengths.shift, strengths.brightness, strengths.contrast)


def augmented_cells(
    cell_of: np.ndarray, strengths: Augmentation, *, target: int | None = None, power: float = 1.0, seed: int = 0
) -> CellPlan:
    """Bring short cells up with new pictures: all rows in order, then the new ones.

    cell_of: str (n,). strengths: flip, rotate_deg, shift, brightness and contrast are used. target: faces that a cell is
    brought up to; None: as many as the largest has. Larger cells stay whole. power: how far, as in `balanced_weights`.
    Within a cell every face is used equally often (give or take one); every other new picture of a face is mirrored.
    Raises ConfigError as `check_strengths` does.
    """
    check_strengths(strengths)
    amounts = _amounts(strengths)
    random = np.random.RandomState([seed, 0xF1E1])
    origins, copies = [], []
    for members, wanted in _wanted(cell_of, target, power):
        extra, copy = _repeats(members, max(0, wanted - len(members)), random)
        origins.append(extra)
        copies.append(copy)
    origin, copy = np.concatenate(origins), np.concatenate(copies)
    changes = np.zeros((len(cell_of) + len(origin), len(CHANGES)), np.float32)
    drawn = random.uniform(-1, 1, (len(origin), len(amounts))) * amounts
    # With nothing but the mirror, a copy that is not mirrored would be the picture itself.
    changes[len(cell_of) :, 0] = strengths.flip & ((copy % 2 == 0) | (not any(amounts)))
    changes[len(cell_of) :, 1:] = drawn
    return CellPlan(np.concatenate([np.arange(len(cell_of)), origin]), changes)


def levelled_cells(cell_of: np.ndarray, *, power: float = 1.0, seed: int = 0) -> CellPlan:
    """Cut large cells to the mean size of all cells, at random, and bring short ones up to it with mirrored copies.

    cell_of: str (n,). power: how far, as in `balanced_weights`. A cell of less than half the mean has each face plain and
    mirrored more than once. Rows of NO_CELL stay.
    """
    random = np.random.RandomState([seed, 0xF11B])
    known = cell_of[cell_of != NO_CELL]
    mean = round(len(known) / len(np.unique(known)))
    kept, origins, mirrors = [np.flatnonzero(cell_of == NO_CELL)], [], []
    for members, wanted in _wanted(cell_of, mean, power):
        chosen = members if len(members) <= wanted else np.sort(random.permutation(members)[:wanted])
        extra, copy = _repeats(members, max(0, wanted - len(members)), random)
        kept.append(chosen)
        origins.append(extra)
        mirrors.append(copy % 2 == 0)
    first = np.sort(np.concatenate(kept))
    origin = np.concatenate(origins)
    changes = np.zeros((len(first) + len(origin), len(CHANGES)), np.float32)
    changes[len(first) :, 0] = np.concatenate(mirrors)
    return CellPlan(np.concatenate([first, origin]), changes)


def _wanted(cell_of: np.ndarray, target: int | None, power: float) -> list[tuple[np.ndarray, int]]:
    """(positions int64 ascending, wanted size) of each cell, by name."""
    names, counts = np.unique(cell_of[cell_of != NO_CELL], return_counts=True)
    target = int(counts.max()) if target is None else target
    # target * (count / target)^(1 - power): the target at power 1, the size as it is at power 0.
    sizes = np.round(target ** float(power) * counts ** (1.0 - power)).astype(np.int64)
    return [(np.flatnonzero(cell_of == name), int(size)) for name, size in zip(names, sizes, strict=True)]


def _repeats(members: np.ndarray, count: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """`count` members in random order, none a second time before all were once; and how often each was before."""
    order = random.permutation(members)
    number = np.arange(count)
    return order[number % len(members)], number // len(members)
