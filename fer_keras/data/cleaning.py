"""Which pictures not to learn from, and why. Nothing is deleted: the manifest keeps every row with its reason.

Rows are judged in the order of REASONS, and a row has the first reason that applies. Rows of a published benchmark's
validation and test splits can be protected: what is found there is noted, and they are kept, so that figures stay
comparable with published ones; their copies in the training split go.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.data.dataset import VOTE_COLUMNS
from fer_keras.data.targets import majority, merge_votes
from fer_keras.errors import ConfigError
from fer_keras.labels import VOTE_NAMES

if TYPE_CHECKING:
    import pandas as pd

#: Every reason for which a row is dropped, in the order in which they are looked for.
REASONS = {
    "unreadable": "the file is missing, truncated, or no picture",
    "wrong_shape": "the number of pixels differs from the other rows', or the picture is a thin strip or a dot",
    "no_label": "the row has no label, or no vote for any emotion",
    "label_dropped": "the label map drops this label",
    "no_face": "most taggers saw no face (FER+ NF), or the detector found none",
    "blank": "all pixels are nearly the same",
    "ambiguous": "the votes have no majority for one emotion (FER+'s filter)",
    "conflicting_labels": "the same picture (by near_duplicate: or nearly the same) occurs with different labels; all go",
    "leakage": "the same picture is in validation or test as well",
    "duplicate": "the same picture occurs earlier in this split",
    "near_duplicate": "nearly the same picture occurs earlier in this split: re-encoded, resized, lit otherwise or mirrored",
}

#: There is nothing to keep in these rows, so they can't be switched off.
ALWAYS_DROPPED = ("unreadable", "wrong_shape", "no_label", "label_dropped")
DEFAULT_DROPPED = (*ALWAYS_DROPPED, "no_face", "blank", "conflicting_labels", "leakage", "duplicate")

#: Standard deviation, in grey levels, below which a picture is blank.
BLANK_CONTRAST = 4.0
#: Sides under this many pixels, or longer than this many times the other, are no face picture.
MIN_SIDE_PX, MAX_ASPECT = 8, 4
#: Bits in which each hash of near pictures may differ. FER+'s pairs in two splits, looked at one by one, are all one photograph
#: (re-encoded, relit, marked, hardly moved); at 7, most of those that are alike when mirrored are different faces.
NEAR_DISTANCE = 4
#: Up to this distance bands are wide enough (7 bits) to look for pairs by those of both hashes.
_FEW_BANDS = 8

_STRENGTH = {"train": 0, "validation": 1, "test": 2}  # of two copies, the one in the weaker split goes


def dropped_reasons(keep: Collection[str] = (), drop: Collection[str] = ()) -> frozenset[str]:
    """The reasons for which rows are dropped: the default ones, without `keep`, with `drop`. Raises ConfigError."""
    for reason in (*keep, *drop):
        if reason not in REASONS:
            raise ConfigError(f"unknown cleaning reason {reason!r}; choose from {', '.join(REASONS)}")
    if fixed := [reason for reason in keep if reason in ALWAYS_DROPPED]:
        raise ConfigError(f"rows that are {fixed[0]} can't be kept, there is nothing to learn from in them ({REASONS[fixed[0]]})")
    if both := set(keep) & set(drop):
        raise ConfigError(f"{sorted(both)[0]!r} is in both --keep and --drop; name it once")
    return frozenset(DEFAULT_DROPPED) - frozenset(keep) | frozenset(drop)


@dataclass
class Features:
    """What cleaning has to know of each picture before it is resized: 12 bytes a picture, gathered while they pass by."""

    _digests: array = field(default_factory=lambda: array("Q"))
    _contrasts: array = field(default_factory=lambda: array("f"))

    def add(self, picture: np.ndarray | None) -> None:
        """Take one picture, uint8 (h, w, c); None where there is none."""
        if picture is None:
            self._digests.append(0)
            self._contrasts.append(0.0)
        else:
            digest = hashlib.blake2b(np.ascontiguousarray(picture), digest_size=8, key=str(picture.shape).encode()).digest()
            self._digests.append(int.from_bytes(digest, "little"))
            self._contrasts.append(float(picture.std()))

    @property
    def digests(self) -> np.ndarray:
        """uint64 (n,): equal where the pixels are."""
        return np.array(self._digests, np.uint64)

    @property
    def contrasts(self) -> np.ndarray:
        """float32 (n,): standard deviation in grey levels."""
        return np.array(self._contrasts, np.float32)


def perceptual_hashes(faces: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Difference hashes of some of uint8 (n, h, w, 1 or 3) faces: uint64 (len(rows), 4), two of each and two of its mirror image.

    The bits of the two say which of 8x8 areas are brighter than that to their left, and above. One alone is not enough for faces,
    which all have dark eyes at the same height: of the pairs in FER2013 that differ in at most 4 bits of the first, three
    quarters are different pictures; of those that do in both, nearly none.
    faces may be memory-mapped; they are read a few at a time.
    """
    height, width, channels = faces.shape[1:]
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    columns, rows_of_8, rows_of_9 = np.concatenate([_areas(width, 9), _areas(width, 8)]).T, _areas(height, 8), _areas(height, 9)
    hashes = np.empty((len(rows), 4), np.uint64)
    at_once = max(1, 2**16 // (height * width))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        pixels = faces[rows[part]].astype(np.float32)
        narrow = (pixels @ luma if channels == 3 else pixels[..., 0]) @ columns
        # In whole grey levels, so that areas as bright as each other are so after a re-encoding too.
        across, down = np.rint(rows_of_8 @ narrow[..., :9]), np.rint(rows_of_9 @ narrow[..., 9:])
        for half, (right, below) in enumerate(((across, down), (across[..., ::-1], down[..., ::-1]))):
            hashes[part, 2 * half] = _packed(right[..., 1:] > right[..., :-1])
            hashes[part, 2 * half + 1] = _packed(below[:, 1:] > below[:, :-1])
    return hashes


def _areas(pixels: int, parts: int) -> np.ndarray:
    """float32 (parts, pixels): by which the mean of each of equal parts of a row of pixels is had."""
    edges, left = np.linspace(0, pixels, parts + 1), np.arange(pixels)
    shared = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    return (np.clip(shared, 0, None) * parts / pixels).astype(np.float32)


def _packed(bits: np.ndarray) -> np.ndarray:
    """bool (n, 8, 8) -> uint64 (n,)."""
    return np.packbits(bits.reshape(len(bits), 64), axis=1).view(">u8")[:, 0]


def near_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of uint64 (n, 2) that differ in at most `distance` bits of each hash: int64 (m, 2), the smaller position first.

    Two such hashes agree wholly in at least one of distance + 1 bands of bits, so only rows that share a band are compared: one
    of each hash, or, where bands are so narrow that all pairs of them cost more than they spare, one of the first.
    """
    found = [np.empty((0, 2), np.int64)]
    edges = np.linspace(0, 64, distance + 2).round().astype(int).tolist()
    bands = [
        [(hashes[:, half] >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in pairwise(edges)]
        for half in (0, 1)
    ]
    if distance > _FEW_BANDS:
        bands[1] = [np.zeros(len(hashes), np.uint64)]
    for first, second in product(*bands):
        band = first << np.uint64(32) ^ second
        order = np.argsort(band, kind="stable")
        in_order = band[order]
        left = np.arange(len(order))
        for step in range(1, len(order)):  # each row with its next, next but one, ... neighbour in the same band
            left = left[left + step < len(order)]
            left = left[in_order[left] == in_order[left + step]]
            if not len(left):
                break
            pairs = np.stack([order[left], order[left + step]], axis=1)
            for half in (0, 1):
                pairs = pairs[np.bitwise_count(hashes[pairs[:, 0], half] ^ hashes[pairs[:, 1], half]) <= distance]
            found.append(pairs)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def near_links(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Enough pairs of uint64 (n, 4) `perceptual_hashes` to connect what is near, mirrored or not: int64 (m, 2).

    Equal ones are one to `near_pairs`, since a picture that is there n times would have n * (n - 1) / 2 pairs.
    """
    both = np.concatenate([hashes[:, :2], hashes[:, 2:]])
    distinct, first, number = np.unique(both, axis=0, return_index=True, return_inverse=True)
    pairs = first[near_pairs(distinct, distance)]
    # Two mirror images differ as their pictures do but for areas that are as bright as each other, by which more would pass.
    pairs = pairs[(pairs < len(hashes)).any(axis=1)]
    return np.concatenate([pairs, chains(number.reshape(-1))]) % max(1, len(hashes))  # a mirror image stands for its picture


def near_groups(hashes: np.ndarray, copies: np.ndarray, among: np.ndarray, distance: int = NEAR_DISTANCE) -> np.ndarray:
    """Group number of each row, where near pictures and those near to them are in one group: int32 (n,).

    hashes: uint64 (n, 4). copies: int (n,), equal where the pixels are. among: bool (n,), the rows of which hashes are compared.
    """
    rows = np.flatnonzero(among)
    return connected(len(copies), np.concatenate([rows[near_links(hashes[rows], distance)], chains(copies)]))


def near_copies_across(near: np.ndarray, copies: np.ndarray, sides: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Rows whose near copies reach sides that copies with equal pixels do not. bool (n,).

    near, copies, sides: (n,), groups of near pictures, groups of equal pixels, and the side that each row is on, such as its
    split. among: bool (n,), the rows that count.
    """
    return among & (_kinds(near, sides, among) > _kinds(copies, sides, among))


def connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """Group number of each of `count` rows, where each of the pairs int (m, 2) is in one group. int32 (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), bool)
    return connected_components(coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count)), directed=False)[1]


def judge(
    rows: pd.DataFrame,
    features: Features,
    reasons: list[str],
    notes: list[str],
    *,
    dropped: Collection[str],
    protected: np.ndarray,
    faceless: np.ndarray,
    hashes: np.ndarray | None = None,
    near_distance: int = NEAR_DISTANCE,
    label_map: Mapping[str, str | None] | None = None,
) -> np.ndarray:
    """Fill in why rows are dropped. Returns which rows counted as one picture: int (n,), equal for those.

    rows: columns label and split ("" where the tool will split), and votes_* where there are votes.
    reasons, notes: one entry a row, changed in place; rows that have a reason already are left alone.
    dropped: the reasons to look for; without conflicting_labels, copies with another label are no duplicates.
    protected: bool (n,), rows in which findings are noted only.
    faceless: bool (n,), rows in which a detector found no face.
    hashes: uint64 (n, 4), `perceptual_hashes`, for near_duplicate. near_distance: bits in which each of those of near duplicates
    may differ.
    label_map: from each emotion to its label; votes for merged emotions are counted together. None: nothing is merged.
    """
    alive = np.array([not reason for reason in reasons])
    splits = rows["split"].to_numpy(str)

    def apply(reason: str, found: np.ndarray, note: Callable[[int], str] = lambda row: "") -> None:
        for row in np.flatnonzero(found & alive):
            remark = note(int(row))
            if protected[row]:
                _append(notes, row, f"{reason}{' ' if remark else ''}{remark}")
            else:
                reasons[row] = reason
                alive[row] = False
                _append(notes, row, remark)

    if "no_face" in dropped:
        apply("no_face", faceless, lambda row: "by the detector")
    if VOTE_COLUMNS[0] in rows:
        votes = rows[list(VOTE_COLUMNS)].to_numpy(np.int64)
        merged = merge_votes(votes, label_map or {})
        if "no_face" in dropped:
            most_see_none = (votes.argmax(axis=1) == VOTE_NAMES.index("NF")) & (votes.max(axis=1) > 0)
            apply("no_face", most_see_none & (merged[:, -1] > merged[:, :-2].max(axis=1)))
    if "blank" in dropped:
        apply("blank", features.contrasts < BLANK_CONTRAST)
    if VOTE_COLUMNS[0] in rows and "ambiguous" in dropped:
        apply("ambiguous", majority(merged, emotions=merged.shape[1] - 2) < 0)

    near = same = _group_numbers(features.digests)
    if "near_duplicate" in dropped:
        near = near_groups(hashes, same, alive, near_distance)
    if "conflicting_labels" in dropped:
        labels = rows["label"].to_numpy(str)
        before, exact = alive.copy(), copies_differ(same, labels, alive)

        def against(row: int) -> str:
            if exact[row]:
                return ""
            other = before & (near == near[row]) & (labels != labels[row])
            return f"nearly the same as row {np.argmax(other)}"

        apply("conflicting_labels", copies_differ(near, labels, alive), against)
    if "leakage" in dropped:
        strength = np.array([_STRENGTH.get(split, 0) for split in splits], np.int64)
        strongest = np.full(len(near), -1)
        np.maximum.at(strongest, near[alive], strength[alive])
        holder = _first_rows(near, alive & (strength == strongest[near]))
        apply("leakage", strength < strongest[near], lambda row: f"same as row {holder[near[row]]}")
    sides = _group_numbers(splits)
    if "conflicting_labels" not in dropped:  # else the label of the first copy would win, though both were asked for
        kinds = _group_numbers(rows["label"].to_numpy(str))
        sides = sides * (kinds.max(initial=0) + 1) + kinds
    for reason, groups in (("duplicate", same), ("near_duplicate", near)):
        if reason in dropped:
            within = _group_numbers(groups * (sides.max(initial=0) + 1) + sides)
            first = _first_rows(within, alive)
            later = np.arange(len(rows)) > first[within]
            apply(reason, later, lambda row, first=first, within=within: f"same as row {first[within[row]]}")
    return near


def copies_differ(copies: np.ndarray, values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Rows of pictures whose copies have different values; those marked in `among` are compared. bool (n,).

    copies: (n,), digests or groups, equal for copies.
    """
    return _kinds(copies, values, among) > 1


def _kinds(groups: np.ndarray, values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How many different values the group of each row has, in rows that are marked. int64 (n,)."""
    same, kinds = _group_numbers(groups), _group_numbers(values)
    found = np.unique(np.stack([same[among], kinds[among]], axis=1), axis=0)[:, 0]
    return np.bincount(found, minlength=len(same))[same]


def _append(notes: list[str], row: int, text: str) -> None:
    if text:
        notes[row] = f"{notes[row]}; {text}" if notes[row] else text


def _group_numbers(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _first_rows(groups: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The first row of each group among those marked; len(groups) where it has none. int64 (number of groups,)."""
    first = np.full(groups.max(initial=-1) + 1, len(groups))
    rows = np.flatnonzero(among)
    np.minimum.at(first, groups[rows], rows)
    return first


def chains(groups: np.ndarray) -> np.ndarray:
    """Pairs that connect the rows of each group."""
    order = np.argsort(groups, kind="stable")
    linked = groups[order[1:]] == groups[order[:-1]]
    return np.stack([order[:-1][linked], order[1:][linked]], axis=1)
