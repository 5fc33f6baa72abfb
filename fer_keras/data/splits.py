"""Who learns from what: stratified splits and folds, with an identity on one side only.

Rows are shuffled by numpy's RandomState, whose stream is frozen for good: the same seed gives the same split on every
machine and with every version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fer_keras.data.dataset import SPLITS
from fer_keras.errors import ConfigError, DataError

Tell = Callable[[str], None]


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Fractions of train, validation and test as they are used, summing to 1. 70,15,15 and 0.7,0.15,0.15 are the same."""
    if (
        len(fractions) != 3
        or not all(np.isfinite(part) and part >= 0 for part in fractions)
        or sum(fractions) <= 0
        or not fractions[0]
    ):
        raise ConfigError(
            f"fractions are three numbers for train, validation and test, train above 0, such as 70,15,15; got {list(fractions)}"
        )
    total = sum(fractions)
    return (fractions[0] / total, fractions[1] / total, fractions[2] / total)


def strata_of(labels: Sequence[str], groups: Sequence[Sequence[str]], smallest: int, tell: Tell = print) -> np.ndarray:
    """One stratum a row: its label, with its group values where enough rows have the same ones.

    labels: (n,). groups: columns of length n. smallest: cells of label x groups with fewer rows count by label alone, and
    `tell` hears of it. Returns str (n,).
    """
    labels = np.asarray(labels, dtype=str)
    cells = labels
    for column in groups:
        cells = np.char.add(np.char.add(cells, " / "), np.asarray(column, dtype=str))
    names, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
    small = counts < smallest
    if len(groups) and small.any():
        shown = ", ".join(f"{name} ({count})" for name, count in list(zip(names[small], counts[small], strict=True))[:5])
        tell(f"{small.sum()} of {len(names)} cells have fewer than {smallest} faces and are split by label alone: {shown}")
        cells = np.where(small[inverse.reshape(-1)], labels, cells)
    return cells


def check_classes(labels: Sequence[str], tell: Tell = print, dropped: Mapping[str, str] | None = None) -> None:
    """Refuse to split a class of one face, and tell of classes too small to be in every split. Raises DataError.

    dropped: what became of the other faces of a class, in words, for the error.
    """
    names, counts = np.unique(np.asarray(labels, dtype=str), return_counts=True)
    for name, count in zip(names, counts, strict=True):
        if count < 2:
            others = f" (dropped: {dropped[name]})" if dropped and name in dropped else ""
            raise DataError(
                f"class '{name}' has only {count} face{others} and can't be split into train, validation and test; "
                f"add faces, or merge or drop it with --map {name}=OTHER or --map {name}="
            )
    if small := [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < 7]:
        tell(f"few faces to split, train has its share first: {', '.join(small)}")


def unlearnable(labels: Sequence[str], sides: Sequence[str]) -> list[str]:
    """A remark where classes have faces and none of them is in train; none where nothing is in train, as in test sets.

    labels, sides: (n,), the class and the split of each face.
    """
    labels, sides = np.asarray(labels, dtype=str), np.asarray(sides, dtype=str)
    missing = sorted(set(labels) - set(labels[sides == "train"]))
    if not missing or not (sides == "train").any():
        return []
    shown = ", ".join(f"{name} ({(labels == name).sum()} elsewhere)" for name in missing)
    return [f"no training face of {shown}, which can't be learnt; --split random gives train its share, --map drops a class"]


def unlearnable_in_folds(labels: Sequence[str], folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """A remark for each class of which folds test faces and train on none, as where all its faces are of one person.

    labels: (n,), the class of each face. folds: bool (n,) each, which faces a fold trains on and which it tests.
    """
    labels = np.asarray(labels, dtype=str)
    lacking: dict[str, list[str]] = {}
    for number, (train, test) in enumerate(folds, start=1):
        for name in sorted(set(labels[test]) - set(labels[train])):
            lacking.setdefault(name, []).append(f"fold {number} (tests {(labels[test] == name).sum()})")
    return [
        f"no training face of {name} in {', '.join(where)}, which can't be learnt there; add faces, of other people too, or "
        f"prepare the data with --map {name}= (drops the class)"
        for name, where in lacking.items()
    ]


def unmeasurable(labels: Sequence[str], sides: Sequence[str]) -> list[str]:
    """A remark for each of validation and test that has faces, but none of some classes. labels, sides: as `unlearnable`."""
    labels, sides = np.asarray(labels, dtype=str), np.asarray(sides, dtype=str)
    remarks = []
    for split in ("validation", "test"):
        missing = sorted(set(labels) - set(labels[sides == split]))
        if missing and (sides == split).any():
            shown = ", ".join(f"{name} ({(labels == name).sum()} elsewhere)" for name in missing)
            remarks.append(f"no {split} face of {shown}, so figures on {split} say nothing about such faces")
    return remarks


def left_empty(sides: Sequence[str], fractions: Sequence[float]) -> list[str]:
    """A remark where a split that was to have a part of the faces got none. sides: (n,), the split of each of them."""
    parts = zip(SPLITS, check_fractions(fractions), strict=True)
    empty = [f"{split} ({part:.0%} wanted)" for split, part in parts if part and split not in set(sides)]
    if not empty:
        return []
    return [
        f"no face is in {' and '.join(empty)}: classes, or cells of --split-by, have too few faces or people for a part of "
        "theirs; add faces, merge classes by --map, or ask for a larger part by --fractions"
    ]


def stratified_split(
    strata: Sequence[str],
    fractions: Sequence[float] = (0.70, 0.15, 0.15),
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """The split of each row, so that every stratum is divided in the same proportions.

    strata: (n,), such as labels. fractions: of train, validation, test. groups: (n,) identities, never on two sides; ""
    is nobody's. Returns str (n,) of "train", "validation", "test". With groups the proportions are met as nearly as whole
    groups allow. Every stratum has a row in train. Where two splits may have a row with equal right, both come to their
    share of all rows, as far as such rows go.
    """
    shares = np.array(check_fractions(fractions))
    strata = np.asarray(strata, dtype=str)
    random = np.random.RandomState(seed)
    if groups is None:
        chosen = np.zeros(len(strata), np.int64)
        behind = np.zeros(3)  # rows that each split lacks after the strata so far
        for name in np.unique(strata):
            rows = np.flatnonzero(strata == name)
            parts = _whole_parts(len(rows), shares, behind)
            behind += len(rows) * shares - parts
            chosen[random.permutation(rows)] = np.repeat(np.arange(3), parts)
    else:
        chosen = _split_groups(strata, _numbers_of_groups(groups), shares, random)
    return np.array(SPLITS)[chosen]


def k_folds(
    strata: Sequence[str],
    folds: int,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    tell: Tell = print,
    labels: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """The test rows of each of k folds, stratified; every row is in exactly one. int64 arrays, ascending.

    groups: (n,) identities, never in two folds; "" is nobody's. Raises ConfigError where there are more folds than rows or
    identities; `tell` hears of labels (none: the strata are the labels) with fewer rows than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    strata = np.asarray(strata, dtype=str)
    units = len(strata) if groups is None else len(np.unique(_numbers_of_groups(groups)))
    if not 2 <= folds <= units:
        what = "faces" if groups is None else "identities"
        raise ConfigError(f"expected 2 to {units} folds for {units} {what}, got {folds}")
    _, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    # Not by stratum: one of few rows, what is left of a label, says nothing of that label's other rows.
    of_label = zip(*np.unique(np.asarray(strata if labels is None else labels, dtype=str), return_counts=True), strict=True)
    if small := [f"{name} ({count})" for name, count in of_label if count < folds]:
        tell(f"fewer faces than folds, so absent from some folds: {', '.join(small)}")
    if counts.max() < folds:
        raise ConfigError(f"expected at most {counts.max()} folds, the size of the largest class, got {folds}")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small classes have been told of already
        if groups is None:
            parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(codes, codes)
        else:
            parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(codes, codes, _numbers_of_groups(groups))
        return [np.sort(test).astype(np.int64) for _, test in parts]


def _whole_parts(count: int, shares: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """`count` divided in whole parts by largest remainder; the first part gets at least one.

    behind: rows that each part lacks so far. Of equal remainders it decides: else the same part would gain in every stratum.
    """
    exact = count * shares
    parts = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.round(exact - parts, 9)  # rounded, so that ties are ties on every machine
    by_remainder = np.lexsort((-np.round(behind, 9), -remainder))
    parts[by_remainder[: count - parts.sum()]] += 1
    if count and parts[0] == 0:
        parts[np.argmax(parts)] -= 1
        parts[0] = 1
    return parts


def _numbers_of_groups(groups: Sequence[str]) -> np.ndarray:
    """A number for each group; rows of nobody ("") are groups of their own. int64 (n,)."""
    names = np.asarray(groups, dtype=str)
    numbers = np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)
    nobody = names == ""
    numbers[nobody] = numbers.max(initial=0) + 1 + np.arange(nobody.sum())
    return np.unique(numbers, return_inverse=True)[1].reshape(-1)


def _split_groups(strata: np.ndarray, groups: np.ndarray, shares: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Large groups first, each to the split where the chi-square distance from the wanted counts grows least. int64 (n,).

    scikit-learn's group splitters don't stratify into unequal parts, hence this.
    """
    names, codes = np.unique(strata, return_inverse=True)
    codes = codes.reshape(-1)
    held = np.zeros((groups.max() + 1, len(names)))
    np.add.at(held, (groups, codes), 1)
    size = held.sum(axis=0)
    wanted = np.maximum(shares[:, None] * size[None, :], 1e-9)  # rows of each stratum that each split should have
    order = random.permutation(len(held))
    order = order[np.argsort(-held[order].sum(axis=1), kind="stable")]
    given = np.zeros_like(wanted)
    where = np.zeros(len(held), np.int64)
    for group in order:
        # (given + held - wanted)^2 / wanted grows by this; each stratum counts by its size, so that rare ones are heard.
        growth = held[group] * (2 * (given / wanted - 1) + held[group] / wanted)
        total = np.round((growth / size).sum(axis=1), 9)  # rounded, so that ties are ties on every machine
        total = np.where(shares > 0, total, np.inf)
        # Of equal ones the first that has room for the whole group, else the one with most room: without a look at the whole
        # the same split would gain in every stratum.
        room = np.minimum(np.round((wanted - given).sum(axis=1), 9), held[group].sum())
        where[group] = np.argmax(np.where(total == total.min(), room, -np.inf))
        given[where[group]] += held[group]
    chosen = where[groups]
    for code in range(len(names)):  # a class that train never sees can't be learnt
        if not (chosen[codes == code] == 0).any():
            chosen[groups == groups[np.flatnonzero(codes == code)[0]]] = 0
    return chosen
