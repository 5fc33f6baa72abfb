"""Does a model do better for some groups of people than for others, and is that more than chance?

`audit` judges models by group, `dataset_bias` judges the data, `compare_shares` any yes-or-no outcome by group. The
measures of data bias are those that Dominguez-Catena, Paternain and Galar (2024, https://arxiv.org/abs/2303.15889) found
best suited to facial expression data. Nothing here can show that a model is fair; it can show a difference, or show none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fer_keras.errors import ConfigError, DataError, ModelError
from fer_keras.evaluation import calibration, resampling
from fer_keras.evaluation.ordering import ordered
from fer_keras.labels import joined_names

#: What stands where a group is not known.
UNKNOWN = ("", "unknown")
#: Groups with fewer faces are shown, but no conclusion is drawn from them.
MIN_N = 30
#: Faces of an emotion that a group needs for its recall to be compared.
MIN_CELL = 10
#: A corrected p value below this is called a difference.
ALPHA = 0.05
JOIN = " & "
#: Why a difference has no p value.
UNTESTED = "too few people of the two groups are alike in emotion for their groups to be exchanged, so no test could show it"
_MOST_GROUPS = 50
LEAST_REPEATS = 100
#: Permutations, at least so many: near the bound that a corrected p must pass, fewer would let the seed decide.
_PERMUTATIONS = 10_000
#: ... and for each comparison made, so that the smallest p value survives the correction by a factor of five.
_PERMUTATIONS_EACH = 100
#: An outcome that is rarer than this can't differ between groups beyond chance.
_LEAST_EVENTS = 5
#: Exchanges that come so near to what was observed, in events, count as equal to it. Where the same few events fall on the same
#: groups, exchanges differ only by how many faces persons bring along; two numbers of events are further apart than this.
_EVENTS_TIED = 0.25


def bootstrap_gap(
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The largest difference in accuracy between two groups, with a 95% interval.

    correct: bool (n,). groups: str (n,); faces whose group is "unknown" or "" are left out. labels: true labels (n,), any type;
    with them the gap at the same mix of labels is given too. clusters: str (n,), identities, drawn whole where given.

    Returns gap (highest minus lowest accuracy), low and high (its interval, which holds for all pairs of groups at once; a low
    below 0 means that no difference is shown), worst and best (the groups), ratio (lowest by highest), n (faces used), units
    ("faces" or "identities"), groups ({name: {n, accuracy, low, high}}), and adjusted: the same gap, low, high, worst, best at
    one mix of labels (`resampling.adjusted_means`), None without labels or where groups share none.
    Raises DataError where fewer than two groups are known.
    """
    table = _tabulate(correct, groups, labels, clusters)
    rng = np.random.default_rng(seed)
    draws = resampling.bootstrap_sums(table.values, table.units, repeats, rng)
    accuracy, drawn = table.shares(table.observed), table.shares(draws)
    size = np.bincount(table.units.group)
    drawn = resampling.share_draws(drawn, accuracy * size, size, rng)
    low, high = resampling.interval(accuracy, drawn)
    adjusted = None
    if labels is not None and table.comparable:
        adjusted = gap_of(table.adjusted(table.observed), table.adjusted(draws), table.kinds)
    counts = table.observed[:, : table.labels].sum(axis=1)
    return {
        **gap_of(accuracy, drawn, table.kinds),
        "n": int(counts.sum()),
        "units": table.units.name,
        "groups": ordered(
            {
                str(name): {
                    "n": int(counts[index]),
                    "accuracy": float(accuracy[index]),
                    "low": float(low[index]),
                    "high": float(high[index]),
                }
                for index, name in enumerate(table.kinds)
            }
        ),
        "adjusted": adjusted,
    }


@dataclass(frozen=True)
class _Table:
    """A yes-or-no outcome by group and label, as sums over units: values float32 (u, 2 k), faces and then hits of each label."""

    kinds: np.ndarray
    units: resampling.Units
    values: np.ndarray
    labels: int

    @property
    def observed(self) -> np.ndarray:
        return by_group(self.values, self.units)

    @property
    def comparable(self) -> bool:
        return resampling.pair_scale(self.observed[:, : self.labels]) is not None

    def shares(self, sums: np.ndarray) -> np.ndarray:
        return sums[..., self.labels :].sum(axis=-1) / sums[..., : self.labels].sum(axis=-1)

    def cells(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., : self.labels], sums[..., self.labels :]

    def adjusted(self, sums: np.ndarray) -> np.ndarray:
        return resampling.adjusted_means(*self.cells(sums))


def _tabulate(outcome: np.ndarray, groups: np.ndarray, labels: np.ndarray | None, clusters: np.ndarray | None) -> _Table:
    names = np.asarray(groups).astype(str)
    known = ~np.isin(names, UNKNOWN)
    kinds, group = np.unique(names[known], return_inverse=True)
    if len(kinds) < 2:
        has = f"only {str(kinds[0])!r}" if len(kinds) else "no known group"
        raise DataError(f"a gap needs two groups or more, got {has} in {len(names)} faces")
    truth = np.zeros(len(group), np.int64) if labels is None else np.unique(np.asarray(labels)[known], return_inverse=True)[1]
    units = resampling.make_units(group, truth, None if clusters is None else np.asarray(clusters)[known])
    one_hot = np.eye(int(truth.max()) + 1)[truth]
    hits = one_hot * np.asarray(outcome, float)[known, None]
    return _Table(kinds, units, units.sums(np.concatenate([one_hot, hits], axis=1)), one_hot.shape[1])


def by_group(values: np.ndarray, units: resampling.Units) -> np.ndarray:
    """Sums of each group: float32 (u, m) -> float64 (groups, m)."""
    return np.stack([values[units.group == index].sum(axis=0, dtype=float) for index in range(units.groups)])


def gap_of(estimate: np.ndarray, draws: np.ndarray, names: np.ndarray, lower_is_better: bool = False) -> dict[str, Any]:
    """The largest gap of a figure between groups: gap, low, high, worst, best, ratio.

    estimate: float (g,), shares, so that low and high are within -1..1. draws: float (repeats, g). ratio: lowest by highest, None
    where the highest is 0.
    """
    half = resampling.gap_interval(estimate, draws)
    lowest, highest = int(estimate.argmin()), int(estimate.argmax())
    gap = float(estimate[highest] - estimate[lowest])
    worst, best = (highest, lowest) if lower_is_better else (lowest, highest)
    # Where groups are level any of them may be the highest in truth: the widest of their intervals.
    widths = half[np.ix_(estimate == estimate[lowest], estimate == estimate[highest])]
    width = float(np.nanmax(widths)) if np.isfinite(widths).any() else 0.0 if len(estimate) == 1 else float("nan")
    return {
        "gap": gap,
        "low": max(gap - width, -1.0),
        "high": min(gap + width, 1.0),
        "worst": str(names[worst]),
        "best": str(names[best]),
        "ratio": float(estimate[lowest] / estimate[highest]) if estimate[highest] > 0 else None,
    }


def compare_shares(
    outcome: np.ndarray,
    groups: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    min_n: int = MIN_N,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How often something happened (a face was missed, say) by group: `bootstrap_gap` over the groups of `min_n` faces or more,
    and the p value of a permutation test.

    outcome: bool (n,). The rest is as in `bootstrap_gap`. Returns what that gives, plus small (groups left out, {name: n}), p
    (labels, where given, are held fixed; not corrected for other comparisons), n_tested (faces that the test looked at:
    `resampling.comparable_faces`) and untested (why there is no p, else None). gap, low, high, worst, best, p are None where
    fewer than two groups are large enough, p also where groups can't be exchanged.
    """
    names = np.asarray(groups).astype(str)
    kinds, counts = np.unique(names[~np.isin(names, UNKNOWN)], return_counts=True)
    small = ordered({str(name): int(count) for name, count in zip(kinds, counts, strict=True) if count < min_n})
    large = kinds[counts >= min_n]
    if len(large) < 2:
        nothing = dict.fromkeys(("gap", "low", "high", "worst", "best", "ratio", "adjusted", "p"))
        about = {"n": int(counts.sum()), "groups": {}, "small": small, "units": "faces"}
        return {**nothing, **about, "n_tested": 0, "untested": "groups are too small"}
    rows = np.isin(names, large)
    given = {"labels": None if labels is None else np.asarray(labels)[rows]}
    given["clusters"] = None if clusters is None else np.asarray(clusters)[rows]
    result = bootstrap_gap(outcome[rows], names[rows], repeats=repeats, seed=seed, **given)
    table = _tabulate(outcome[rows], names[rows], given["labels"], given["clusters"])
    if not table.comparable:
        return {**result, "small": small, "p": None, "n_tested": 0, "untested": "groups have no label in common"}
    labelled = np.zeros(int(rows.sum()), int) if given["labels"] is None else np.unique(given["labels"], return_inverse=True)[1]
    kept = resampling.comparable_faces(table.units, labelled, np.random.default_rng([seed, 1]))
    means, scale = table.adjusted(table.observed), resampling.pair_scale(table.cells(table.observed)[0])
    if not kept.all():
        some = {name: None if values is None else values[kept] for name, values in given.items()}
        table = _tabulate(outcome[rows][kept], names[rows][kept], some["labels"], some["clusters"])
    result |= {"small": small, "n_tested": int(kept.sum()), "untested": None}
    if not resampling.can_exchange(table.units, np.ones(int(kept.sum()), bool), labelled[kept], *_clearest_pair(means, scale)):
        return {**result, "p": None, "untested": UNTESTED}
    observed = float(resampling.largest_difference(*table.cells(table.observed), _EVENTS_TIED))
    exchanged = resampling.permutation_sums(table.values, table.units, _PERMUTATIONS, np.random.default_rng(seed))
    drawn = [resampling.largest_difference(*table.cells(sums)) for sums in exchanged]
    return {**result, "p": resampling.permutation_p(observed, np.concatenate(drawn))}


def dataset_bias(truth: np.ndarray, groups: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """How evenly groups are represented, and how much the label tells about the group.

    truth: int (n,), index into labels. groups: str (n,), "unknown" and "" left out and counted. Returns
      n, unknown            faces with a known group, and the others
      counts                {group: {label: n}}
      effective_groups      exp(Shannon entropy of the shares): from 1 (one group only) to the number of groups (all alike)
      evenness              effective_groups by number of groups
      cramers_v             association of group and label, 0 (none) to 1, bias-corrected (Bergsma 2013)
      cramers_v_uncorrected the same as usually given; larger by chance in small samples
      nmi                   normalised mutual information, 0 to 1, by the arithmetic mean of the entropies
      npmi                  {group: {label: value}}: normalised pointwise mutual information (Bouma 2009), -1 (never together),
                            0 (independent), 1 (always together)
    The associations are None where there is one group or one label only. Raises DataError where no group is known.
    """
    names = np.asarray(groups).astype(str)
    known = ~np.isin(names, UNKNOWN)
    if not known.any():
        raise DataError(f"the group of none of {len(names)} faces is known; prepare the data with a column of groups")
    kinds, group = np.unique(names[known], return_inverse=True)
    table = np.zeros((len(kinds), len(labels)), np.int64)
    np.add.at(table, (group, np.asarray(truth)[known]), 1)
    shares = table.sum(axis=1) / table.sum()
    effective = float(np.exp(-(shares * np.log(shares)).sum()))
    used = table[:, table.sum(axis=0) > 0]
    associated: dict[str, Any] = dict.fromkeys(("cramers_v", "cramers_v_uncorrected", "nmi"))
    if min(used.shape) > 1:
        from scipy.stats import chi2_contingency
        from sklearn.metrics import normalized_mutual_info_score

        count, (rows, columns) = used.sum(), used.shape
        phi2 = chi2_contingency(used, correction=False).statistic / count
        corrected = max(0.0, phi2 - (rows - 1) * (columns - 1) / (count - 1)) if count > 1 else 0.0
        rows_corrected, columns_corrected = (side - (side - 1) ** 2 / (count - 1) for side in (rows, columns))
        smaller = min(rows_corrected, columns_corrected) - 1
        associated = {
            "cramers_v": float(np.sqrt(corrected / smaller)) if smaller > 0 else None,
            "cramers_v_uncorrected": float(np.sqrt(phi2 / (min(rows, columns) - 1))),
            "nmi": float(normalized_mutual_info_score(group, np.asarray(truth)[known])),
        }
    return {
        "n": int(known.sum()),
        "unknown": int((~known).sum()),
        "counts": ordered(_named(table, kinds, labels)),
        "effective_groups": effective,
        "evenness": effective / len(kinds),
        **associated,
        "npmi": ordered(_named(_npmi(table), kinds, labels)),
    }


def _npmi(table: np.ndarray) -> np.ndarray:
    joint = table / table.sum()
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    values = np.full(table.shape, -1.0)
    some = (table > 0) & (joint < 1)
    values[some] = np.log(joint[some] / expected[some]) / -np.log(joint[some])
    values[joint == 1] = 1.0
    values[:, table.sum(axis=0) == 0] = np.nan
    return values


def _named(table: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Nested dictionaries of a table, None for NaN."""
    return {
        str(row): {str(column): _plain(value) for column, value in zip(columns, line.tolist(), strict=True)}
        for row, line in zip(rows, table, strict=True)
    }


def _plain(value: float) -> float | int | None:
    return None if value != value else value


@dataclass(frozen=True)
class _Grouping:
    """One way to divide the faces: by a column, or by several at once.

    rows: bool (n,), faces whose group is known. kinds: names (g,). group: int64 (known,). compared: groups of min_n or more.
    """

    name: str
    columns: tuple[str, ...]
    rows: np.ndarray
    kinds: np.ndarray
    group: np.ndarray
    sizes: np.ndarray
    compared: np.ndarray
    units: resampling.Units


@dataclass(frozen=True)
class _Comparison:
    """One thing looked at: a figure of one model, between groups of one grouping.

    name: the figure ("recall happiness"). included: positions of the groups among those compared. cells: from sums over the
    compared groups to faces and what is counted of them, float (..., included, labels) each. scale: how uncertain each difference
    is. adjusted: whether what is tested differs from the figure by holding the mix of labels fixed. of_events: whether it counts
    events, so that near ones are ties; calibration errors are sums of confidences, which have none. labels: those whose faces
    are counted.
    """

    model: int
    grouping: int
    name: str
    included: np.ndarray
    cells: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    scale: np.ndarray
    adjusted: bool
    of_events: bool
    labels: np.ndarray

    def tested(self, sums: np.ndarray) -> np.ndarray:
        return resampling.adjusted_means(*self.cells(sums))

    def observed(self, sums: np.ndarray) -> float:
        """The statistic of what was observed, less what still counts as equal."""
        return float(resampling.largest_difference(*self.cells(sums), _EVENTS_TIED if self.of_events else 0.0))

    def exchanged(self, sums: np.ndarray) -> np.ndarray:
        return resampling.largest_difference(*self.cells(sums))


def audit(
    truth: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    labels: Sequence[str],
    groups: Mapping[str, np.ndarray],
    *,
    clusters: np.ndarray | None = None,
    min_n: int = MIN_N,
    min_cell: int = MIN_CELL,
    repeats: int = 1000,
    permutations: int | None = None,
    seed: int = 0,
    progress: Callable[[str], Any] = lambda stage: None,
) -> dict[str, Any]:
    """Judge models by group, by each column of groups and by all their intersections.

    truth: int (n,), index into labels. probabilities: {model: float (n, k)}. groups: {column: str (n,)}, "unknown" or "" where
    not known. clusters: str (n,), identities; they are resampled and exchanged whole. min_n: smaller groups are shown but kept
    out of the comparisons; min_cell: the same for the faces of one emotion in a group, for recall. repeats: of the
    bootstrap; permutations: of the tests, None: 10,000, or 100 for each comparison. progress: told what is next.

    Figures of groups come from fairlearn's MetricFrame; intervals (95%) from a bootstrap stratified by group. Tested are, for
    each model and grouping, accuracy, calibration error, and recall and false positive rate of each label, each by the largest
    difference of two groups in units of its uncertainty. The null hypothesis is that, given the true label, what the model says
    does not depend on the group; so groups are exchanged among faces of the same label only, and a group that has easier
    emotions is not called favoured. All p values of the report are corrected together by Holm's method.

    Returns plain numbers, for JSON. models -> MODEL -> groupings -> GROUPING has: groups (figures, ci95 and confusion of each),
    gaps (gap, low, high, worst, best, ratio; adjusted: the same with the mix of labels held fixed; clearest: the two groups that
    the test is about; tested; p, p_corrected, shown; untested: why there is no p), parity (by label). groupings -> GROUPING has
    who is there, and n_tested: how many faces tests look at (`resampling.comparable_faces`).
    Raises ConfigError for settings out of range, DataError where no column has two known groups.
    """
    check_settings(min_n, min_cell, repeats, seed)
    _check(truth, probabilities, labels, groups)
    truth, classes = np.asarray(truth, np.int64), len(labels)
    names = list(probabilities)
    cells = [_cells(truth, np.asarray(probabilities[name], np.float64), classes) for name in names]
    width = cells[0].shape[1]
    groupings = _groupings(truth, groups, clusters, min_n)
    result = _described(truth, labels, groups, groupings, clusters)
    result |= {"min_n": min_n, "min_cell": min_cell, "repeats": repeats, "seed": seed, "alpha": ALPHA, "correction": "Holm"}
    comparisons: list[_Comparison] = []
    entries: list[dict[str, Any]] = []
    models: dict[str, Any] = {name: {"overall": {}, "groupings": {}} for name in names}
    for place, grouping in enumerate(groupings):
        progress(f"intervals by {grouping.name}")
        values = grouping.units.sums(np.concatenate([table[grouping.rows] for table in cells], axis=1))
        draws = resampling.bootstrap_sums(values, grouping.units, repeats, np.random.default_rng([seed, place, 0]))
        observed = by_group(values, grouping.units)
        for number, name in enumerate(names):
            mine = slice(number * width, (number + 1) * width)
            judged = _ModelByGroup(grouping, labels, observed[:, mine], draws[..., mine], values[:, mine], min_cell)
            found = judged.comparisons(number, place)
            figures, confusions = _disaggregated(truth, np.asarray(probabilities[name]), grouping, labels, judged.common)
            gaps = judged.gaps(found)
            models[name]["groupings"][grouping.name] = {
                "groups": judged.groups(figures, confusions),
                "gaps": gaps,
                "parity": judged.parity(figures),
                "macro_labels": [label for label, used in zip(labels, judged.common, strict=True) if used],
            }
            comparisons += found
            entries += [gap for gap in gaps if gap["tested"]]
    for name, table in zip(names, cells, strict=True):
        every = _figures(table.sum(axis=0)[None], classes, np.ones(classes, bool))
        models[name]["overall"] = {figure: _plain(float(value[0])) for figure, value in _named_figures(every, labels).items()}
    if permutations is None:
        permutations = max(_PERMUTATIONS, _PERMUTATIONS_EACH * len(comparisons))
    p_values, looked_at = _permute(truth, groupings, cells, comparisons, permutations, seed, progress)
    for name, described in result["groupings"].items():
        described["n_tested"] = looked_at.get(name, 0)
    # What could not be tested counts for the correction as if nothing had been found: which that is depends on the figures.
    for entry, p, corrected in zip(entries, p_values, resampling.holm(np.nan_to_num(p_values, nan=1.0)), strict=True):
        if np.isnan(p):
            entry |= {"tested": False, "untested": UNTESTED}
        else:
            entry |= {"p": float(p), "p_corrected": float(corrected), "shown": bool(corrected < ALPHA)}
    return {**result, "permutations": permutations, "comparisons": len(comparisons), "models": models}


def check_repeats(repeats: int) -> None:
    """Raise ConfigError for fewer repeats of a bootstrap than an interval needs."""
    if repeats < LEAST_REPEATS:
        raise ConfigError(f"a 95% interval needs {LEAST_REPEATS} repeats or more, got {repeats}")


def check_settings(min_n: int, min_cell: int, repeats: int, seed: int) -> None:
    """Raise ConfigError for settings of `audit` that are out of range."""
    if seed < 0:
        raise ConfigError(f"a seed is 0 or more, got {seed}")
    check_repeats(repeats)
    if min_n < 2 or min_cell < 1:
        raise ConfigError(f"a group that is compared has 2 faces or more (of an emotion 1), got {min_n} and {min_cell}")


def _check(
    truth: np.ndarray, probabilities: Mapping[str, np.ndarray], labels: Sequence[str], groups: Mapping[str, np.ndarray]
) -> None:
    if not len(truth):
        raise DataError("there is no labelled face to judge a model by; choose another split or protocol")
    for name, values in probabilities.items():
        if values.shape != (len(truth), len(labels)):
            raise ValueError(f"expected probabilities {(len(truth), len(labels))} of {name}, got {values.shape}")
        if bad := int((~np.isfinite(values)).any(axis=1).sum()):
            raise ModelError(f"{name} gives no finite probabilities for {bad} of {len(truth)} faces; its training has failed")
    check_groups(groups)
    for column, values in groups.items():
        if len(values) != len(truth):
            raise ValueError(f"expected {len(truth)} groups in {column}, got {len(values)}")


def check_groups(groups: Mapping[str, np.ndarray]) -> None:
    """Raise ConfigError or DataError where a column, {name: str (n,)}, does not have two known groups or has far too many."""
    for column, values in groups.items():
        kinds, counts = np.unique(np.asarray(values).astype(str), return_counts=True)
        known = [str(kind) for kind in kinds if kind not in UNKNOWN]
        if len(known) > _MOST_GROUPS:
            raise ConfigError(f"{column} has {len(known)} values; a column of groups has {_MOST_GROUPS} at most")
        if not known:
            raise DataError(f"{column} is unknown for all {len(values)} faces; groups can't be compared")
        if len(known) == 1:
            alone = int(counts[kinds == known[0]][0])
            raise DataError(
                f"all faces with a known {column} are {known[0]} ({alone} of {len(values)}); two groups are needed to compare"
            )


def _groupings(truth: np.ndarray, groups: Mapping[str, np.ndarray], clusters: np.ndarray | None, min_n: int) -> list[_Grouping]:
    """Every column, then every intersection of two and more columns."""
    texts = {column: np.asarray(values).astype(str) for column, values in groups.items()}
    found = []
    for columns in (part for size in range(1, len(texts) + 1) for part in combinations(texts, size)):
        rows = np.all([~np.isin(texts[column], UNKNOWN) for column in columns], axis=0)
        if not rows.any():
            continue
        parts = [texts[column][rows] for column in columns]
        kinds, group = np.unique(joined_names(parts, JOIN.strip()), return_inverse=True)
        sizes = np.bincount(group)
        units = resampling.make_units(group, truth[rows], None if clusters is None else np.asarray(clusters)[rows])
        compared = np.flatnonzero(sizes >= min_n)
        found.append(_Grouping(JOIN.join(columns), columns, rows, kinds, group, sizes, compared, units))
    return found


def _described(
    truth: np.ndarray,
    labels: Sequence[str],
    groups: Mapping[str, np.ndarray],
    groupings: Sequence[_Grouping],
    clusters: np.ndarray | None,
) -> dict[str, Any]:
    """Who is there: how many faces each column, group and emotion have."""
    described = {}
    for grouping in groupings:
        table = np.zeros((len(grouping.kinds), len(labels)), np.int64)
        np.add.at(table, (grouping.group, truth[grouping.rows]), 1)
        described[grouping.name] = {
            "columns": list(grouping.columns),
            "unknown": int((~grouping.rows).sum()),
            "groups": ordered(
                {
                    str(name): {
                        "n": int(grouping.sizes[index]),
                        **_people(grouping, index, clusters is not None),
                        "small": index not in grouping.compared,
                        "labels": dict(zip(labels, table[index].tolist(), strict=True)),
                    }
                    for index, name in enumerate(grouping.kinds)
                }
            ),
        }
    return {
        "n": len(truth),
        "labels": list(labels),
        "columns": list(groups),
        "units": "identities" if any(grouping.units.identities for grouping in groupings) else "faces",
        "groupings": described,
    }


def _people(grouping: _Grouping, index: int, known: bool) -> dict[str, int | None]:
    """How many people a group has, and how many faces are of the most frequent one; None where identities are not known."""
    if not known:
        return {"identities": None, "most_of_one": None}
    faces = np.unique(grouping.units.of_row[grouping.group == index], return_counts=True)[1]
    return {"identities": len(faces), "most_of_one": int(faces.max())}


def _cells(truth: np.ndarray, probabilities: np.ndarray, classes: int) -> np.ndarray:
    """What every figure is a sum of: the cell of the confusion matrix, and correctness minus confidence in the face's bin of
    confidence. float32 (n, k * k + bins)."""
    edges = np.linspace(0, 1, calibration.BINS + 1)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    table = np.zeros((len(truth), classes * classes + calibration.BINS), np.float32)
    rows = np.arange(len(truth))
    table[rows, truth * classes + predicted] = 1
    bins = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, calibration.BINS - 1)
    table[rows, classes * classes + bins] = (predicted == truth) - confidence
    return table


def _confusion(sums: np.ndarray, classes: int) -> np.ndarray:
    return sums[..., : classes * classes].reshape(*sums.shape[:-1], classes, classes)


def _figures(sums: np.ndarray, classes: int, common: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of sums: float (..., m) -> {figure: float (...) or (..., k)}: `_rates`, and the calibration error."""
    return {**_rates(_confusion(sums, classes), common), "ece": _ece(sums, classes)}


def _ece(sums: np.ndarray, classes: int) -> np.ndarray:
    return np.abs(sums[..., classes * classes :]).sum(axis=-1) / sums[..., : classes * classes].sum(axis=-1)


def _rates(confusion: np.ndarray, common: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of confusion matrices: float (..., k, k) -> {figure: float (...) or (..., k)}; NaN where undefined.

    common: bool (k,), the labels that macro figures are means over (those of them that occur).
    """
    of_label, called, hits = confusion.sum(axis=-1), confusion.sum(axis=-2), np.diagonal(confusion, axis1=-2, axis2=-1)
    size = of_label.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / of_label
        precision = np.where(called > 0, hits / called, 0)
        f1 = 2 * hits / (of_label + called)
        macro = (of_label > 0) & common
        some = macro.sum(axis=-1)
        accuracy = hits.sum(axis=-1) / size
        return {
            "accuracy": accuracy,
            # Each face has one label and gets one, so every mistake is one false positive and one false negative.
            "micro_precision": accuracy,
            "micro_recall": accuracy,
            "micro_f1": accuracy,
            "macro_precision": np.where(macro, precision, 0).sum(axis=-1) / some,
            "macro_recall": np.where(macro, recall, 0).sum(axis=-1) / some,
            "macro_f1": np.where(macro, f1, 0).sum(axis=-1) / some,
            "recall": recall,
            "false_positive_rate": (called - hits) / (size[..., None] - of_label),
            "selection_rate": called / size[..., None],
        }


def _named_figures(figures: Mapping[str, np.ndarray], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """One figure a name: "recall" (..., k) becomes "recall happiness" (...)."""
    named = {}
    for name, values in figures.items():
        if name in ("recall", "false_positive_rate", "selection_rate"):
            named |= {f"{name} {label}": values[..., index] for index, label in enumerate(labels)}
        else:
            named[name] = values
    return named


def _disaggregated(
    truth: np.ndarray, probabilities: np.ndarray, grouping: _Grouping, labels: Sequence[str], common: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """fairlearn's MetricFrame by the groups of one grouping: {figure: float (g,)}, and confusion matrices int (g, k, k)."""
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score, confusion_matrix

    truth, probabilities, classes = truth[grouping.rows], probabilities[grouping.rows], len(labels)

    def confusion(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return confusion_matrix(true, predicted, labels=np.arange(classes))

    def calibration_error(true: np.ndarray, _predicted: np.ndarray, row: np.ndarray) -> float:
        return calibration.expected_calibration_error(probabilities[np.asarray(row)], np.asarray(true))

    # Precision, recall and the rest follow from the confusion matrix; asking for each by itself takes MetricFrame seconds.
    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "confusion": confusion, "ece": calibration_error},
        y_true=truth,
        y_pred=probabilities.argmax(axis=1),
        sensitive_features={grouping.name: grouping.kinds[grouping.group]},
        sample_params={"ece": {"row": np.arange(len(truth))}},
    )
    table = frame.by_group.loc[grouping.kinds]
    confusions = np.stack(table["confusion"].to_list())
    figures = _named_figures(_rates(confusions.astype(float), common), labels)
    return {**figures, "accuracy": table["accuracy"].to_numpy(float), "ece": table["ece"].to_numpy(float)}, confusions


class _ModelByGroup:
    """One model in one grouping: its figures, their intervals, and what can be compared."""

    def __init__(
        self,
        grouping: _Grouping,
        labels: Sequence[str],
        observed: np.ndarray,
        draws: np.ndarray,
        values: np.ndarray,
        min_cell: int,
    ) -> None:
        self.grouping, self.labels, self.values = grouping, labels, values
        self.classes, self.observed, self.draws = len(labels), observed, draws
        self.counts = _confusion(observed, self.classes).sum(axis=-1)  # (g, k)
        self.compared, self.min_cell = grouping.compared, min_cell
        chosen = self.compared if len(self.compared) else np.arange(len(grouping.kinds))
        #: Labels of macro figures: those that every compared group has, since a mean over other labels is another figure.
        self.common = (self.counts[chosen] > 0).all(axis=0)
        self.figures = _named_figures(_figures(observed, self.classes, self.common), labels)
        self.drawn = _named_figures(_figures(draws, self.classes, self.common), labels)
        self._adjusted = resampling.pair_scale(self.counts[self.compared]) is not None
        self._thaw()

    def _thaw(self) -> None:
        """Shares of all or none can't vary in a bootstrap; let them vary by what so many units can tell."""
        rng = np.random.default_rng(len(self.grouping.kinds))
        of_label = _confusion(self.values, self.classes).sum(axis=-1)
        for name, drawn in self.drawn.items():
            figure, _, label = name.partition(" ")
            if name == "accuracy":
                there = of_label.sum(axis=1) > 0
            elif figure == "recall":
                there = of_label[:, self.labels.index(label)] > 0
            elif figure == "false_positive_rate":
                there = np.delete(of_label, self.labels.index(label), axis=1).sum(axis=1) > 0
            else:
                continue
            trials = np.bincount(self.grouping.units.group[there], minlength=len(self.grouping.kinds)).astype(float)
            hits = np.nan_to_num(self.figures[name]) * trials
            self.drawn[name] = resampling.share_draws(drawn, hits, trials, rng)

    def comparisons(self, model: int, grouping: int) -> list[_Comparison]:
        """Everything of this model and grouping that can be tested."""
        found, classes, every = [], self.classes, np.arange(len(self.compared))
        if len(every) < 2:
            return []
        count = self.counts[self.compared]
        hits = _confusion(self.observed[self.compared], classes)

        def add(name: str, included: np.ndarray, cells: Callable, adjusted: bool, of: np.ndarray, of_events: bool = True) -> None:
            scale = resampling.pair_scale(cells(self.observed[self.compared])[0])
            if scale is not None:
                found.append(_Comparison(model, grouping, name, included, cells, scale, adjusted, of_events, of))

        whole = np.arange(classes)

        if _can_differ(np.diagonal(hits, axis1=-2, axis2=-1).sum(), count.sum()):
            add("accuracy", every, self._right, True, whole)
        add("ece", every, self._misjudged, False, whole, of_events=False)
        for index, label in enumerate(self.labels):
            enough = np.flatnonzero(count[:, index] >= self.min_cell)
            if len(enough) > 1 and _can_differ(hits[enough, index, index].sum(), count[enough, index].sum()):
                alone = np.array([index])
                add(f"recall {label}", enough, self._called(index, alone, enough), False, alone)
        for index, label in enumerate(self.labels):
            others = np.delete(np.arange(classes), index)
            if _can_differ(hits[:, others, index].sum(), count[:, others].sum()):
                add(f"false_positive_rate {label}", every, self._called(index, others, every), True, others)
        return found

    def _right(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        confusion = _confusion(sums, self.classes)
        return confusion.sum(axis=-1), np.diagonal(confusion, axis1=-2, axis2=-1)

    def _misjudged(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Faces, and by how much confidence is wrong in each bin: the calibration error is the one by the other."""
        faces = _confusion(sums, self.classes).sum(axis=(-2, -1))
        return faces[..., None], (_ece(sums, self.classes) * faces)[..., None]

    def _called(self, index: int, of: np.ndarray, included: np.ndarray) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """How often faces of the labels `of` are called `index`."""

        def cells(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            faces = _confusion(sums, self.classes)[..., included, :, :][..., of, :]
            return faces.sum(axis=-1), faces[..., index]

        return cells

    def gaps(self, comparisons: Sequence[_Comparison]) -> list[dict[str, Any]]:
        """The largest gap of each figure, tested or not. p values are added once all are known."""
        if len(self.compared) < 2:
            return []
        by_name = {comparison.name: comparison for comparison in comparisons}
        names = ["accuracy", "macro_f1", "ece"]
        names += [f"{figure} {label}" for figure in ("recall", "false_positive_rate") for label in self.labels]
        kinds, entries = self.grouping.kinds, []
        for name in names:
            comparison = by_name.get(name)
            figure, _, label = name.partition(" ")
            if comparison is None and label:
                continue
            places = self.compared if comparison is None else self.compared[comparison.included]
            lower = figure in ("ece", "false_positive_rate")
            if np.isnan(self.figures[name][places]).any():
                continue
            raw = gap_of(self.figures[name][places], self.drawn[name][:, places], kinds[places], lower)
            entry = {"metric": figure, "label": label or None, **raw, "adjusted": None, "clearest": None}
            entry |= {"groups": [str(kind) for kind in kinds[places]], "tested": comparison is not None}
            if comparison is not None:
                means = comparison.tested(self.observed[self.compared])
                drawn = self.drawn[name][:, places]
                if comparison.adjusted:
                    drawn = comparison.tested(self.draws[:, self.compared])
                    entry["adjusted"] = gap_of(means, drawn, kinds[places], lower)
                entry["clearest"] = _clearest(means, drawn, comparison.scale, kinds[places], lower)
            entries.append({**entry, "p": None, "p_corrected": None, "shown": False, "untested": None})
        return entries

    def groups(self, figures: Mapping[str, np.ndarray], confusions: np.ndarray) -> dict[str, dict[str, Any]]:
        """Figures of each group, with intervals of those that have one."""
        adjusted = np.full(len(self.grouping.kinds), np.nan)
        adjusted_drawn = np.full((len(self.draws), len(adjusted)), np.nan)
        if self._adjusted:
            adjusted[self.compared] = resampling.adjusted_means(*self._right(self.observed[self.compared]))
            adjusted_drawn[:, self.compared] = resampling.adjusted_means(*self._right(self.draws[:, self.compared]))
        bounds = {"adjusted_accuracy": resampling.interval(adjusted, adjusted_drawn)}
        for name, drawn in self.drawn.items():
            if not name.startswith("selection_rate"):
                bounds[name] = resampling.interval(self.figures[name], drawn)
        groups = {}
        for index, kind in enumerate(self.grouping.kinds):
            line = {name: _plain(float(values[index])) for name, values in figures.items()}
            line["adjusted_accuracy"] = _plain(float(adjusted[index]))
            groups[str(kind)] = {
                "n": int(self.grouping.sizes[index]),
                "small": index not in self.compared,
                **line,
                "ci95": {
                    name: [_plain(float(low[index])), _plain(float(high[index]))]
                    for name, (low, high) in bounds.items()
                    if line[name] is not None
                },
                "confusion": confusions[index].tolist(),
            }
        return ordered(groups)

    def parity(self, figures: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """One-vs-rest demographic parity and equalised odds of each label, as fairlearn defines them; None where too few."""
        found = {}
        for index, label in enumerate(self.labels):
            rates = [figures[f"{name} {label}"][self.compared] for name in ("selection_rate", "recall", "false_positive_rate")]
            several = len(self.compared) > 1
            enough = several and (self.counts[self.compared, index] >= self.min_cell).all()
            apart = [float(np.ptp(rate)) if several else np.nan for rate in rates]
            ratio = [float(rate.min() / rate.max()) if several and rate.max() > 0 else np.nan for rate in rates]
            found[label] = {
                "demographic_parity_difference": _plain(apart[0]),
                "demographic_parity_ratio": _plain(ratio[0]),
                "equalized_odds_difference": _plain(max(apart[1:])) if enough else None,
                "equalized_odds_ratio": _plain(min(ratio[1:])) if enough and not np.isnan(ratio[1:]).any() else None,
            }
        return found


def _can_differ(events: float, trials: float) -> bool:
    return events >= _LEAST_EVENTS and trials - events >= _LEAST_EVENTS


def _clearest(
    means: np.ndarray, draws: np.ndarray, scale: np.ndarray, names: np.ndarray, lower_is_better: bool
) -> dict[str, Any]:
    """The two groups whose difference is the largest in units of its uncertainty, which is what the test looks at."""
    first, second = _clearest_pair(means, scale)
    low, high = (first, second) if means[first] <= means[second] else (second, first)
    gap, half = float(means[high] - means[low]), float(resampling.gap_interval(means, draws)[first, second])
    worst, best = (high, low) if lower_is_better else (low, high)
    low, high = max(gap - half, -1.0), min(gap + half, 1.0)
    return {"gap": gap, "low": low, "high": high, "worst": str(names[worst]), "best": str(names[best])}


def _clearest_pair(means: np.ndarray, scale: np.ndarray) -> tuple[int, int]:
    apart = np.abs(means[:, None] - means[None, :]) / scale
    np.fill_diagonal(apart, -1)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    return int(first), int(second)


def _permute(
    truth: np.ndarray,
    groupings: Sequence[_Grouping],
    cells: Sequence[np.ndarray],
    comparisons: Sequence[_Comparison],
    permutations: int,
    seed: int,
    progress: Callable[[str], Any],
) -> tuple[np.ndarray, dict[str, int]]:
    """The p value of each comparison: float (m,), NaN where groups can't be exchanged; and how many faces of each grouping the
    tests looked at. One set of permutations of a grouping serves all that is looked at in it."""
    width, p_values, looked_at = cells[0].shape[1], np.full(len(comparisons), np.nan), {}
    for place, grouping in enumerate(groupings):
        mine = [number for number, comparison in enumerate(comparisons) if comparison.grouping == place]
        if not mine:
            continue
        progress(f"permutations by {grouping.name}")
        among = np.isin(grouping.group, grouping.compared)
        rows = np.flatnonzero(grouping.rows)[among]
        group = np.searchsorted(grouping.compared, grouping.group[among])
        units = _subset(grouping.units, among, group)
        every = by_group(units.sums(np.concatenate([table[rows] for table in cells], axis=1)), units)
        kept = resampling.comparable_faces(units, truth[rows], np.random.default_rng([seed, place, 4]))
        if not kept.all():
            units, rows = resampling.make_units(group[kept], truth[rows[kept]], units.of_row[kept].astype(str)), rows[kept]
        looked_at[grouping.name] = len(rows)
        values = units.sums(np.concatenate([table[rows] for table in cells], axis=1))
        observed = by_group(values, units)

        def has_a_test(comparison: _Comparison, every: np.ndarray, units: resampling.Units, rows: np.ndarray) -> bool:
            means = comparison.tested(every[:, comparison.model * width : (comparison.model + 1) * width])
            pair = comparison.included[list(_clearest_pair(means, comparison.scale))]
            return resampling.can_exchange(units, np.isin(truth[rows], comparison.labels), truth[rows], *pair)

        mine = [number for number in mine if has_a_test(comparisons[number], every, units, rows)]
        if not mine:
            continue
        drawn: dict[int, list[np.ndarray]] = {number: [] for number in mine}
        rng = np.random.default_rng([seed, place, 3])
        for sums in resampling.permutation_sums(values, units, permutations, rng):
            for number in mine:
                of_model = slice(comparisons[number].model * width, (comparisons[number].model + 1) * width)
                drawn[number].append(comparisons[number].exchanged(sums[..., of_model]))
        for number in mine:
            of_model = slice(comparisons[number].model * width, (comparisons[number].model + 1) * width)
            statistic = comparisons[number].observed(observed[:, of_model])
            p_values[number] = resampling.permutation_p(statistic, np.concatenate(drawn[number]))
    return p_values, looked_at


def _subset(units: resampling.Units, among: np.ndarray, group: np.ndarray) -> resampling.Units:
    """The units of some faces, whose groups have new numbers."""
    kept, first, of_row = np.unique(units.of_row[among], return_index=True, return_inverse=True)
    return resampling.Units(of_row, group[first], units.stratum[kept], int(group.max()) + 1, units.identities)
