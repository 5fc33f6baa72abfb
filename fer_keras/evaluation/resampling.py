"""Chance, by group: bootstrap intervals and permutation tests over faces or whole identities, all repeats at once.

Every figure of a classifier is a function of sums (how often was label i called label j). So a repeat is not a new table of
faces but a vector of weights, and a thousand repeats are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: Weights held at a time; bounds the memory at some 100 MB.
_CELLS = 4_000_000
#: Exchanges that can tell less than this of what all faces tell of two groups: the groups' people have other numbers of faces.
_LEAST_EXCHANGED = 0.5
#: With less than this exchanges repeat the observation, or nearly so.
_NEARLY_NONE = 0.1
#: With no more different exchanges than this no p value is below 0.05.
_LEAST_EXCHANGES = 20


@dataclass(frozen=True)
class Units:
    """What is drawn or exchanged whole: the faces of one identity in one group, or single faces where identities are unknown.

    of_row: int64 (n,), the unit of each face. group: int64 (u,), the group of each unit, 0..groups-1. stratum: int64 (u,):
    a permutation exchanges the groups of units of one stratum only. identities: whether any unit has more than one face.
    """

    of_row: np.ndarray
    group: np.ndarray
    stratum: np.ndarray
    groups: int
    identities: bool

    @property
    def name(self) -> str:
        """What is drawn: "identities" or "faces"."""
        return "identities" if self.identities else "faces"

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Values of faces added up for each unit: float (n, m) -> float32 (u, m)."""
        if not self.identities:
            return values.astype(np.float32)[np.argsort(self.of_row)]
        order = np.argsort(self.of_row, kind="stable")
        starts = np.searchsorted(self.of_row[order], np.arange(len(self.group)))
        return np.add.reduceat(values[order], starts, axis=0).astype(np.float32)


def make_units(group: np.ndarray, truth: np.ndarray | None = None, clusters: np.ndarray | None = None) -> Units:
    """Units of faces: int (n,) groups 0..g-1, all of them used; int (n,) true labels; str (n,) identities, "" or "unknown"
    where not known.

    Strata are the true labels, so that groups of a different mix of labels do not differ by that alone. An identity has
    several: its stratum is its commonest label and its number of faces (1, 2-3, 4-7, ...). An identity whose faces are in
    several groups counts as one unit in each. Where it is much alike in all of them, intervals of differences between groups are
    wider for that, but those of figures over all groups are far too narrow; `bootstrap_sums` draws it whole if told who is who.
    """
    count = len(group)
    truth = np.zeros(count, np.int64) if truth is None else np.unique(truth, return_inverse=True)[1]
    person = np.arange(count)
    if clusters is not None:
        names = np.asarray(clusters).astype(str)
        known = (names != "") & (names != "unknown")
        person = np.where(known, np.unique(names, return_inverse=True)[1] + count, person)
    pairs, first, unit = np.unique(person * (int(group.max()) + 1) + group, return_index=True, return_inverse=True)
    of_label = np.zeros((len(pairs), int(truth.max()) + 1), np.int64)
    np.add.at(of_label, (unit, truth), 1)
    size = np.floor(np.log2(of_label.sum(axis=1))).astype(np.int64)
    stratum = np.unique(size * of_label.shape[1] + of_label.argmax(axis=1), return_inverse=True)[1]
    return Units(unit, group[first], stratum, int(group.max()) + 1, len(pairs) < count)


def comparable_faces(units: Units, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The faces by which groups can be exchanged: bool (n,), all of them wherever that will do. truth: int (n,), true labels.

    Where the people of one group have many faces and those of another few, no stratum holds both, and no exchange would change
    anything. Strata of different sizes can't just be joined: people with many faces have shares that vary less, and who has them
    would decide the p value (a group of 10 persons with 8 faces each, another of 1,000 with one: 22% below 0.05 without any
    difference). So people keep only as many faces, drawn at random, as those with whom they are exchanged have: sizes are given
    up one by one, that which helps most first, until exchanges of each two groups tell half of what all faces would.
    """
    everything = np.ones(len(units.of_row), bool)
    of_label = _faces_of_labels(units, truth)
    classes, size = np.unique(np.floor(np.log2(of_label.sum(axis=1))).astype(np.int64), return_inverse=True)
    if len(classes) == 1:
        return everything
    table = np.zeros((len(classes), of_label.shape[1], units.groups))
    np.add.at(table, (size, of_label.argmax(axis=1), units.group), of_label.sum(axis=1))

    def told(starts: list[int]) -> float:
        shares = [_exchanged_share(np.add.reduceat(table, starts, axis=0), first, second) for first, second in pairs]
        return min((share for share in shares if share is not None), default=1.0)

    pairs = [(first, second) for first in range(units.groups) for second in range(first)]
    starts = list(range(len(classes)))
    while len(starts) > 1 and told(starts) < _LEAST_EXCHANGED:
        fewer = [starts[:place] + starts[place + 1 :] for place in range(1, len(starts))]
        # Where several help alike, that which takes the fewest faces: the highest.
        starts = max(fewer, key=lambda each: (told(each), each))
    if len(starts) == len(classes):
        return everything
    lowest = np.array(starts)[np.searchsorted(starts, size, side="right") - 1]
    most = np.where(lowest < size, 2 ** (classes[lowest] + 1) - 1, of_label.sum(axis=1))
    order = rng.permutation(len(everything))
    order = order[np.argsort(units.of_row[order], kind="stable")]
    mine = units.of_row[order]
    everything[order] = np.arange(len(order)) - np.searchsorted(mine, mine) < most[mine]
    return everything


def can_exchange(units: Units, counted: np.ndarray, truth: np.ndarray, first: int, second: int) -> bool:
    """Whether exchanges could show a difference between two groups: some of their units are in the same strata, and more
    than 20 exchanges are different.

    counted: bool (n,), the faces that a figure is of. truth: int (n,), true labels.
    """
    from scipy.special import gammaln

    labels = _faces_of_labels(units, truth, counted)
    faces = labels.sum(axis=1)
    table = np.zeros((int(units.stratum.max()) + 1, 1, units.groups))
    np.add.at(table, (units.stratum, 0, units.group), faces)
    every = np.stack([labels[units.group == group].sum(axis=0) for group in range(units.groups)], axis=-1)
    share = _exchanged_share(table, first, second, every)
    if share is None or share < _NEARLY_NONE:
        return False
    people = np.zeros((len(table), units.groups))
    np.add.at(people, (units.stratum[faces > 0], units.group[faces > 0]), 1)
    different = gammaln(people.sum(axis=1) + 1).sum() - gammaln(people + 1).sum()
    return bool(different > np.log(_LEAST_EXCHANGES) + 1e-9)


def _faces_of_labels(units: Units, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """How many faces of each label each unit has: int64 (u, k)."""
    found = np.zeros((len(units.group), int(truth.max()) + 1), np.int64)
    np.add.at(found, (units.of_row, truth), 1 if counted is None else counted.astype(np.int64))
    return found


def _exchanged_share(table: np.ndarray, first: int, second: int, every: np.ndarray | None = None) -> float | None:
    """What exchanges within strata tell of two groups' difference, of what all faces of the same labels would, by the weights of
    Mantel and Haenszel; None where the groups have no common label.

    table: float (sizes, k, g), faces. every: float (k, g), by default the sum over sizes.
    """

    def weight(one: np.ndarray, other: np.ndarray) -> float:
        return float((one * other / np.maximum(one + other, 1)).sum())

    every = table.sum(axis=0) if every is None else every
    whole = weight(every[:, first], every[:, second])
    return weight(table[..., first], table[..., second]) / whole if whole else None


def person_units(people: np.ndarray | None) -> Units | None:
    """Whole persons as units of one group: str (n,), who is on each face, "" where not known. None where nobody has two faces."""
    if people is None:
        return None
    units = make_units(np.zeros(len(people), np.int64), clusters=people)
    return units if units.identities else None


def bootstrap_sums(
    values: np.ndarray, units: Units, repeats: int, rng: np.random.Generator, persons: np.ndarray | None = None
) -> np.ndarray:
    """Sums of a stratified bootstrap: each group is drawn anew from its own units, with as many as it has.

    values: float32 (u, m). persons: int64 (u,), whose each unit is, 0, 1, ...; where somebody has units in several groups, whole
    persons are drawn from all, as many as there are, and each brings what is theirs in every group.
    Returns float64 (repeats, groups, m).
    """
    sums = np.empty((repeats, units.groups, values.shape[1]))
    members = [np.flatnonzero(units.group == group) for group in range(units.groups)]
    if persons is None or len(np.unique(persons)) == len(persons):
        for group, mine in enumerate(members):
            for part, weights in _drawn_weights(len(mine), repeats, rng):
                sums[part, group] = weights @ values[mine]
        return sums
    there = np.empty((repeats, units.groups), bool)
    for part, weights in _drawn_weights(int(persons.max()) + 1, repeats, rng):
        for group, mine in enumerate(members):
            each = weights[:, persons[mine]]
            sums[part, group], there[part, group] = each @ values[mine], each.any(axis=1)
    for group in range(units.groups):  # a small group may have nobody in a repeat, and then no share: it has another repeat's
        lacking = np.flatnonzero(~there[:, group])
        sums[lacking, group] = sums[rng.choice(np.flatnonzero(there[:, group]), len(lacking)), group]
    return sums


def _drawn_weights(count: int, repeats: int, rng: np.random.Generator) -> Iterator[tuple[slice, np.ndarray]]:
    """How often each of `count` is drawn in each repeat: (which repeats, float32 (some, count)), some repeats at a time."""
    step = max(1, _CELLS // count)
    for start in range(0, repeats, step):
        some = min(step, repeats - start)
        picks = rng.integers(0, count, (some, count)) + np.arange(some)[:, None] * count
        weights = np.bincount(picks.ravel(), minlength=some * count).reshape(some, count)
        yield slice(start, start + some), weights.astype(np.float32)


def permutation_sums(values: np.ndarray, units: Units, permutations: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Sums after the groups of units were exchanged at random within each stratum, some permutations at a time.

    values: float32 (u, m). Yields float64 (some, groups, m), `permutations` in all.
    """
    total = values.sum(axis=0, dtype=np.float64)
    strata = [np.flatnonzero(units.stratum == each) for each in range(int(units.stratum.max()) + 1)]
    strata = [members for members in strata if len(np.unique(units.group[members])) > 1]
    step = max(1, _CELLS // max(len(values), units.groups * values.shape[1]))
    for start in range(0, permutations, step):
        some = min(step, permutations - start)
        given = np.tile(units.group.astype(np.int16), (some, 1))
        for members in strata:
            given[:, members] = rng.permuted(given[:, members], axis=1)
        sums = np.empty((some, units.groups, values.shape[1]))
        for group in range(units.groups - 1):
            sums[:, group] = (given == group).astype(np.float32) @ values
        sums[:, -1] = total - sums[:, :-1].sum(axis=1)
        yield sums


def adjusted_means(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean outcome of each group as it would be with the same mix of labels.

    count, total: float (..., g, k): faces of each group and label, and the sum of their outcome. Returns float (..., g).

    Least squares with an effect for each label and each group; the weighted mean of the groups is that of all faces. For two
    groups the difference is the Mantel-Haenszel risk difference (Greenland and Robins 1985): labels count by what they can
    tell, so a label that one group lacks says nothing.
    """
    size, share = count.sum(axis=-1), _share_of_label(count)
    right = (total - share * total.sum(axis=-2, keepdims=True)).sum(axis=-1)
    effect = np.linalg.solve(_normal(count), right[..., None])[..., 0]
    every = size.sum(axis=-1, keepdims=True)
    overall = total.sum(axis=(-2, -1))[..., None] / every
    return overall + effect - (size * effect).sum(axis=-1, keepdims=True) / every


def pair_scale(count: np.ndarray) -> np.ndarray | None:
    """How uncertain the difference of each two adjusted means is, up to one factor: float (g, g); None where not comparable.

    count: float (g, k). Groups can't be compared where no chain of common labels links them.
    """
    if len(count) < 2 or np.linalg.matrix_rank(_laplacian(count), tol=1e-9 * count.sum(axis=-1).max()) < len(count) - 1:
        return None
    return _pair_scales(count)


def _pair_scales(count: np.ndarray) -> np.ndarray:
    """`pair_scale` of several at once: float (..., g, k) -> float (..., g, g); huge where not comparable."""
    inverse = np.linalg.inv(_normal(count))
    spread = np.diagonal(inverse, axis1=-2, axis2=-1)
    return np.sqrt(np.maximum(spread[..., :, None] + spread[..., None, :] - 2 * inverse, 1e-12))


def _share_of_label(count: np.ndarray) -> np.ndarray:
    of_label = count.sum(axis=-2, keepdims=True)
    return np.divide(count, of_label, out=np.zeros_like(count, dtype=float), where=of_label > 0)


def _laplacian(count: np.ndarray) -> np.ndarray:
    return count.sum(axis=-1)[..., None] * np.eye(count.shape[-2]) - count @ np.swapaxes(_share_of_label(count), -1, -2)


def _normal(count: np.ndarray) -> np.ndarray:
    """The matrix of the least squares. Effects are known up to a constant; the added ones choose the constant, the ridge the rest
    where groups share no label."""
    groups = count.shape[-2]
    scale = count.sum(axis=(-2, -1))[..., None, None] / groups
    return _laplacian(count) + scale * (1 + 1e-9 * np.eye(groups))


def largest_difference(count: np.ndarray, total: np.ndarray, less: float = 0.0) -> np.ndarray:
    """The largest |difference| of two adjusted means in units of its uncertainty: float (..., g, k) each -> float (...).

    The uncertainty is that of these very counts. Persons who are exchanged take all their faces along, so each exchange has
    its own; one for all would let the sizes of groups, which change by chance, into the p value (studentised permutation test:
    Janssen 1997, Chung and Romano 2013). less: events, or a part of one, that count as if they had fallen on the other group.
    """
    first, second = np.triu_indices(count.shape[-2], 1)
    means, scale = adjusted_means(count, total), _pair_scales(count)[..., first, second]
    return (np.abs(means[..., first] - means[..., second]) / scale - less * scale).max(axis=-1)


def gap_interval(estimate: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Half widths of 95% intervals that hold for all differences of two groups at once: float (g, g).

    estimate: float (g,). draws: float (repeats, g), the bootstrap of it. The interval of a gap is gap +- half width.

    The largest of many gaps is picked because it is large; intervals of single gaps would flatter it. So the deviations of all
    pairs, each in units of its own standard deviation, are taken together, and the 95% point of their maximum widens every
    interval (max-t bootstrap; Westfall and Young 1993, Romano and Wolf 2005). With two groups that is the usual interval.
    """
    count = len(estimate)
    first, second = np.triu_indices(count, 1)
    apart = draws[:, first] - draws[:, second]
    # A rare label can be missing from a repeat; and the calibration error of a resample is biased, so the centre is the mean.
    apart = apart[np.isfinite(apart).all(axis=1)]
    half = np.full((count, count), np.nan)
    if len(apart) < 2:
        return half
    apart = apart - apart.mean(axis=0)
    deviation = apart.std(axis=0, ddof=1)
    moving = np.where(deviation > 0, deviation, 1)
    widest = np.quantile((np.abs(apart) / moving).max(axis=1), 0.95)
    half[first, second] = half[second, first] = widest * deviation
    return half


def share_draws(draws: np.ndarray, hits: np.ndarray, trials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of shares, with those replaced that can't vary: all or none of the faces were hits, or the same share of
    each unit's.

    draws: float (repeats, g). hits, trials: float (g,), trials in units that are drawn. What stands in for a frozen share is
    drawn from Jeffreys' Beta(hits + 1/2, misses + 1/2) (Brown, Cai and DasGupta 2001).
    """
    draws = draws.copy()
    frozen = (hits == 0) | (hits == trials) | (np.ptp(draws, axis=0) < 1e-9)
    for group in np.flatnonzero((trials > 0) & frozen):
        draws[:, group] = rng.beta(hits[group] + 0.5, trials[group] - hits[group] + 0.5, len(draws))
    return draws


def share_interval(hits: np.ndarray, faces: np.ndarray) -> tuple[float, float]:
    """95% interval of a share where units such as persons are drawn whole: Wilson's, of as many faces as theirs are worth.

    hits, faces: float (u,) of each unit, two units or more of a face or more each. Faces are worth what as many single ones
    would be whose share varied as much (variance of a ratio of sums, over units), fewer by Student's t where few units tell of
    that variance (Korn and Graubard 1998, Survey Methodology 24; theirs is Clopper's and Pearson's interval). They are worth no
    more than their number, so the interval holds Wilson's of all faces, and no less than if each unit said one thing only:
    (sum of faces)^2 / sum of faces^2. That is what they are taken for where all or none were hits, which tells of no variance.
    """
    from scipy.stats import norm, t

    every, count = faces.sum(), len(faces)
    share, least, z = hits.sum() / every, every**2 / (faces**2).sum(), norm.ppf(0.975)
    worth = least
    if 0 < share < 1:
        variance = count / (count - 1) * ((hits - share * faces) ** 2).sum() / every**2
        worth = min(every, share * (1 - share) / variance if variance > 0 else every)
        worth = max(worth * (z / t.ppf(0.975, least - 1)) ** 2, least)
    centre = (share * worth + z**2 / 2) / (worth + z**2)
    half = z * np.sqrt(share * (1 - share) * worth + z**2 / 4) / (worth + z**2)
    return float(max(centre - half, 0)), float(min(centre + half, 1))


def agreement_draws(count: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """What the difference of two shares may be that were alike in each of `count` units: float (repeats,), around 0.

    A bootstrap would always give 0. From Jeffreys' Dirichlet distribution: 1/2 for a unit that only the one has, 1/2 for one
    that only the other has, count + 1/2 for all where they are alike. Added to a bootstrap it stands for units that might have
    differed and did not; it weighs about as much as one that does.
    """
    more, less, _ = rng.dirichlet((0.5, 0.5, count + 0.5), repeats).T
    return more - less


def interval(estimate: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval of shares: float (...), (repeats, ...) -> low, high float (...), within 0..1.

    Deviations are counted from the mean of the draws, since the calibration error of a resample is biased upward. An estimate
    of 0 or 1 is the end of its interval. NaN stays NaN.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure that exists in no repeat
        low, high = np.nanquantile(draws, (0.025, 0.975), axis=0)
        centre = np.nanmean(draws, axis=0)
    shift = np.where((estimate == 0) | (estimate == 1), 0, estimate - centre)
    low = np.clip(np.where(estimate == 0, 0, low + shift), 0, 1)
    high = np.clip(np.where(estimate == 1, 1, high + shift), 0, 1)
    return np.where(np.isnan(estimate), np.nan, low), np.where(np.isnan(estimate), np.nan, high)


def permutation_p(observed: float, drawn: np.ndarray) -> float:
    """p value of a permutation test: the share of statistics at least as large, the observed one counted among them."""
    return float((1 + (drawn >= observed - 1e-9).sum()) / (len(drawn) + 1))


def holm(p_values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Holm's step-down correction (1979): with chance alone at work, 5% of reports have a corrected p below 0.05.

    float (m,) -> float (m,), in the same order.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p_values, float)[order] * (count - np.arange(count)))
    corrected = np.empty(count)
    corrected[order] = np.minimum(stepped, 1)
    return corrected
