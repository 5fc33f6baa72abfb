"""Trainings that were repeated with several seeds and judged on the same faces: figures by group, differences, and noise.

Two things vary by chance: which faces are in the test set, and what a training happens to find. Intervals here hold both. Each
repeat of the bootstrap draws faces (or whole identities) anew within each group, identities from all groups where some are in
several, and what is compared is compared on the same draw. Seeds are few, so what they may do is drawn from Student's t, by the
spread of all trainings that are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_keras.errors import DataError
from fer_keras.evaluation import fairness, resampling
from fer_keras.evaluation.fairness_report import FEW_PEOPLE, ONE_PERSON, counted
from fer_keras.evaluation.ordering import ordered

NOISE = "noise: no difference shown"
#: The one group where faces are not compared by group.
_ALL = "all"
#: With this many persons in a group a bootstrap over them is as good as any; with fewer it is widened by Student's t.
_ENOUGH_PERSONS = 30
#: Repeats for each difference that is corrected for: so many that one alone, if no repeat is against it, gets p = 0.02.
_REPEATS_EACH = 100


def seeds_note(seeds: int, units: str) -> str:
    """Why intervals of few seeds are to be read with care. units: what was drawn, "faces" or "identities"."""
    if seeds == 1:
        return (
            f"There is one training of each, so intervals hold the chance of the test {units} only. Another seed may give other "
            "figures: what is shown here is shown of these trainings, not of what differs between them."
        )
    return (
        f"Intervals hold the chance of the test {units} and of the training seeds: a bootstrap over {units}, and Student's t "
        "over seeds, since few of them tell their own spread only roughly. It is learnt from all that are compared here; where "
        "one of them truly varies much more by seed than the others, its intervals may still be too narrow."
    )


def drawn_text(units: str, seeds: int) -> str:
    """What intervals are over, such as "faces and seeds"."""
    return f"{units} and seeds" if seeds > 1 else f"{units} of one training each"


@dataclass(frozen=True)
class Repeated:
    """Accuracies of variants that were each trained with several seeds.

    groups: names (g,), one where faces are not compared by group. counts: int (g,) faces. compared: bool (g,), whether a group
    has enough faces for the gap. by_seed: float (v, s, g). draws: float (repeats, v, g), means over seeds in each repeat of the
    bootstrap. units: what was drawn, "faces" or "identities". trials: int (g,), how many of these each group has; drawn: how
    many there are in all, fewer than the sum where some are in several groups. most_of_one: int (g,), faces of the person with
    the most; None where persons are not known.
    """

    groups: tuple[str, ...]
    counts: np.ndarray
    compared: np.ndarray
    by_seed: np.ndarray
    draws: np.ndarray
    units: str
    trials: np.ndarray
    drawn: int
    most_of_one: np.ndarray | None

    @property
    def means(self) -> np.ndarray:
        """Accuracy by group, over seeds: float (v, g)."""
        return self.by_seed.mean(axis=1)

    def overall(self, values: np.ndarray) -> np.ndarray:
        """Accuracy over all faces of values by group: float (..., g) -> float (...)."""
        return values @ (self.counts / self.counts.sum())

    def gap(self, values: np.ndarray) -> np.ndarray:
        """Highest minus lowest accuracy of the compared groups: float (..., g) -> float (...)."""
        return np.ptp(values[..., self.compared], axis=-1)

    def worst(self, values: np.ndarray) -> np.ndarray:
        """Lowest accuracy of the compared groups: float (..., g) -> float (...)."""
        return values[..., self.compared].min(axis=-1)

    def describe(self, variant: int) -> dict[str, Any]:
        """Figures of one variant: accuracy, and where faces are compared by group also gap, worst, and groups {name: figures};
        each {mean, low, high, by_seed, std}.

        std is the spread of single seeds, None for one seed. The gap is that of the mean accuracies, and so a little smaller
        than the mean of the gaps of single seeds, which chance enlarges; its interval holds for all pairs of groups at once.
        """
        means, draws, by_seed = self.means[variant], self.draws[:, variant], self.by_seed[variant]
        accuracy = _figure(self.overall(means), self.overall(draws), self.overall(by_seed))
        if len(self.groups) == 1:
            return {"accuracy": accuracy}
        names = np.array(self.groups)
        found = fairness.gap_of(means[self.compared], draws[:, self.compared], names[self.compared])
        of_gap = self.gap(by_seed)
        return {
            "accuracy": accuracy,
            "gap": {
                "mean": found["gap"],
                "low": found["low"],
                "high": found["high"],
                "by_seed": of_gap.tolist(),
                "std": _spread(of_gap),
                "worst_group": found["worst"],
                "best_group": found["best"],
                "ratio": found["ratio"],
            },
            "worst": _figure(self.worst(means), self.worst(draws), self.worst(by_seed)),
            "groups": ordered(
                {
                    name: {
                        "n": int(self.counts[index]),
                        **self._people(index),
                        **_figure(means[index], draws[:, index], by_seed[:, index]),
                    }
                    for index, name in enumerate(self.groups)
                }
            ),
        }

    def _people(self, index: int) -> dict[str, int | None]:
        if self.most_of_one is None:
            return {"identities": None, "most_of_one": None}
        return {"identities": int(self.trials[index]), "most_of_one": int(self.most_of_one[index])}

    def few_people(self) -> list[str]:
        """A note on groups with few people, or with a large share of their faces of one, in a list; empty where there is none."""
        if self.most_of_one is None or len(self.groups) == 1:
            return []
        rough = {
            name: f"{name} ({counted(int(people), 'person', 'people')}, one with {most} of {count} faces)"
            for name, people, most, count in zip(self.groups, self.trials, self.most_of_one, self.counts, strict=True)
            if people < FEW_PEOPLE or most > ONE_PERSON * count
        }
        listed = ", ".join(ordered(rough).values())
        return [f"few people are behind the figures of {listed}; intervals are rough there"] if rough else []

    def differences(self, base: int, variants: Sequence[int], figures: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Paired differences from the variant `base`: for each variant a list with an entry for each figure.

        figures: "accuracy", "gap", "worst", or the name of a group. Entries: figure, difference, low, high (95%), p (two-sided,
        bootstrap), p_holm (corrected for all differences returned), shown (p_holm < 0.05), verdict. How much chance enlarges a
        gap, or lowers the worst group, is not known: low, high and p hold for all answers of `_possible`, and so are cautious.
        """
        table = []
        for variant in variants:
            line = []
            for figure in figures:
                difference, possible = self._possible(figure, base, variant)
                low, high = np.quantile(possible, (0.025, 0.975), axis=1)
                low, high = np.clip((low.min(), high.max()), -1, 1)
                against = np.minimum((possible <= 0).sum(axis=1), (possible >= 0).sum(axis=1)).max()
                p = min(1.0, 2 * (1 + against) / (possible.shape[1] + 1))
                line.append({"figure": figure, "difference": difference, "low": float(low), "high": float(high), "p": float(p)})
            table.append(line)
        entries = [entry for line in table for entry in line]
        for entry, p_holm in zip(entries, resampling.holm(np.array([entry["p"] for entry in entries])), strict=True):
            entry["p_holm"], entry["shown"] = float(p_holm), bool(p_holm < fairness.ALPHA)
            direction = "higher" if entry["difference"] > 0 else "lower"
            entry["verdict"] = f"{entry['figure']} is {direction}" if entry["shown"] else NOISE
        return table

    def _possible(self, figure: str, base: int, variant: int) -> tuple[float, np.ndarray]:
        """A difference, and what it may be in truth by each of some assumptions: float (assumptions, repeats).

        The first is the usual one: the draws, centred on the estimate. Of two that differ on a face or two only, a bootstrap
        repeats just these, always in the direction in which they differ; so faces are added that might have differed and did not.

        But the highest or lowest of many groups is picked by chance too. That enlarges a gap, most where groups are level and
        the accuracy is near a half, so that two variants without any gap seem to differ in it. How much depends on how the groups
        truly lie. So the same deviations are also laid on level groups and on the groups as observed, for each of the two
        variants by itself.
        """
        means = self.means
        observed, drawn = self._of(figure, means), self._of(figure, self.draws)
        difference, apart = float(observed[variant] - observed[base]), drawn[:, variant] - drawn[:, base]
        if figure not in ("gap", "worst"):
            count = self.drawn if figure == "accuracy" else int(self.trials[self.groups.index(figure)])
            apart = apart + resampling.agreement_draws(count, len(apart), np.random.default_rng(0))
        possible = [difference + apart - apart.mean()]
        if figure in ("gap", "worst"):
            moved = self.draws - self.draws.mean(axis=0)
            off = [self._of(figure, truth + moved) - self._of(figure, truth) for truth in (np.zeros_like(means), means)]
            possible += [difference - (one[:, variant] - other[:, base]) for one in off for other in off]
        return difference, np.stack(possible)

    def _of(self, figure: str, values: np.ndarray) -> np.ndarray:
        if figure in ("accuracy", "gap", "worst"):
            return {"accuracy": self.overall, "gap": self.gap, "worst": self.worst}[figure](values)
        return values[..., self.groups.index(figure)]


def judge_repeated(
    correct: np.ndarray,
    groups: np.ndarray | None,
    *,
    clusters: np.ndarray | None = None,
    trainings: Sequence[int] | None = None,
    min_n: int = fairness.MIN_N,
    repeats: int = 2000,
    comparisons: int = 1,
    seed: int = 0,
) -> Repeated:
    """Judge trainings on the same faces.

    correct: bool (v, s, n): variant, seed, face. groups: str (n,), every one known; None where faces are not compared by group.
    clusters: str (n,), identities, drawn whole where known, with their faces of all groups. trainings: int (v,), the same
    number for variants that are the very same trainings judged in several ways; None where there are none such.
    min_n: groups with fewer faces are shown, but are no part of the gap.
    repeats: of the bootstrap, 100 or more. comparisons: how many differences will be asked for; they are corrected for each
    other, which may want more repeats than were given, since no p is under 2 / repeats.
    Raises DataError where there are groups and fewer than two have `min_n` faces, ConfigError for too few repeats.
    """
    fairness.check_repeats(repeats)
    repeats = max(repeats, _REPEATS_EACH * comparisons)
    variants, seeds, n = correct.shape
    names, group = np.unique(np.full(n, _ALL) if groups is None else np.asarray(groups).astype(str), return_inverse=True)
    counts = np.bincount(group, minlength=len(names))
    compared = counts >= min_n
    if groups is not None and compared.sum() < 2:
        has = ", ".join(f"{name} {count}" for name, count in ordered(dict(zip(names, counts, strict=True))).items()) or "none"
        raise DataError(f"a gap needs two groups of {min_n} test faces or more, got {has}; add test faces, or lower --min-n")
    units, people = (resampling.make_units(each, clusters=clusters) for each in (group, np.zeros(n, np.int64)))
    persons = np.empty(len(units.group), np.int64)
    persons[units.of_row] = people.of_row
    values = units.sums(np.concatenate([np.ones((1, n)), correct.reshape(-1, n)]).T)
    observed = fairness.by_group(values, units)
    rng = np.random.default_rng(seed)
    sums = resampling.bootstrap_sums(values, units, repeats, rng, persons)

    def shares(table: np.ndarray) -> np.ndarray:
        hits = (table[..., 1:] / table[..., :1]).reshape(*table.shape[:-1], variants, seeds)
        return np.moveaxis(hits, -3, -1)  # (..., g, v, s) -> (..., v, s, g)

    by_seed = shares(observed)
    draws = _widened(shares(sums).mean(axis=2), values, units, by_seed.mean(axis=1))
    if seeds > 1:
        same = np.arange(variants) if trainings is None else np.unique(trainings, return_inverse=True)[1]
        draws = draws + _moved_by_seeds(by_seed, counts / counts.sum(), same, repeats, rng)
    trials = np.bincount(units.group)
    means = by_seed.mean(axis=1)
    for variant in range(variants):  # a group that was always named right or always wrong would have no interval
        draws[:, variant] = resampling.share_draws(draws[:, variant], means[variant] * trials, trials, rng)
    names = tuple(str(name) for name in names)
    known = clusters is not None and not np.isin(np.asarray(clusters).astype(str), fairness.UNKNOWN).all()
    most = np.array([values[units.group == each, 0].max() for each in range(len(names))], np.int64) if known else None
    return Repeated(names, counts, compared, by_seed, draws, people.name, trials, len(people.group), most)


def _widened(draws: np.ndarray, values: np.ndarray, units: resampling.Units, means: np.ndarray) -> np.ndarray:
    """The bootstrap of groups with few persons made as wide as `resampling.share_interval`, which a bootstrap falls short of.

    draws: float (repeats, v, g). values: float32 (u, 1 + v * s), faces and hits. means: float (v, g).
    """
    draws = draws.copy()
    for group in range(units.groups):
        mine = values[units.group == group]
        if not 2 <= len(mine) < _ENOUGH_PERSONS or mine[:, 0].max() == 1:
            continue
        faces, hits = mine[:, 0].astype(float), mine[:, 1:].reshape(len(mine), len(means), -1).mean(axis=2)
        for variant, mean in enumerate(means[:, group]):
            apart = draws[:, variant, group] - draws[:, variant, group].mean()
            bounds = np.abs(resampling.share_interval(hits[:, variant], faces) - mean)
            reached = np.abs(np.quantile(apart, (0.025, 0.975)))
            below, above = np.maximum(bounds / np.maximum(reached, 1e-9), 1) if reached.min() > 1e-9 else (1, 1)
            draws[:, variant, group] = mean + apart * np.where(apart < 0, below, above)
    return draws


def _moved_by_seeds(
    by_seed: np.ndarray, weights: np.ndarray, same: np.ndarray, repeats: int, rng: np.random.Generator
) -> np.ndarray:
    """How far other seeds might move means over seeds: float (v, s, g), shares of the groups (g,) -> (repeats, v, g), around 0.

    Two or three seeds say little of how much seeds do. Each variant's own spread, as that of a normal distribution, would be too
    small as often as too large, and what is too small is what gets shown. So a variant moves by its own spread or by that of all
    variants together, whichever is larger, and by Student's t with the degrees of freedom of all: v (s - 1). Groups move as
    they did together in the trainings.

    same: int (v,), equal for variants that are the same trainings judged in several ways. Such trainings count once. They move
    as they are judged first; judged in another way they move along, and by what the difference between the two ways does over
    seeds, by Student's t with s - 1 degrees of freedom, since only these trainings tell of it.
    """
    seeds, groups = by_seed.shape[1:]
    _, first, training = np.unique(same, return_index=True, return_inverse=True)
    variants = len(first)
    freedom = variants * (seeds - 1)
    every = by_seed - by_seed.mean(axis=1, keepdims=True)
    apart = every[first]
    own = ((apart @ weights) ** 2).sum(axis=1)
    half = (repeats + 1) // 2
    normal = rng.standard_normal((half, variants, seeds))
    by_own = np.einsum("rvs,vsg->rvg", normal, apart)
    by_all = rng.standard_normal((half, variants, variants * seeds)) @ apart.reshape(-1, groups) / np.sqrt(variants)
    moved = np.where((own >= own.mean())[:, None], by_own, by_all)
    moved /= np.sqrt(rng.chisquare(freedom, half) / freedom)[:, None, None]
    again = np.einsum("rvs,vsg->rvg", normal[:, training], every - apart[training])  # 0 for those that are judged first
    if again.any():
        again /= np.sqrt(rng.chisquare(seeds - 1, half) / (seeds - 1))[:, None, None]
    moved = (moved[:, training] + again) / np.sqrt(seeds * (seeds - 1))
    return np.concatenate([moved, -moved])[:repeats]  # each with its opposite: the mean of draws with long tails is no centre


def _figure(mean: float, draws: np.ndarray, by_seed: np.ndarray) -> dict[str, Any]:
    low, high = resampling.interval(np.float64(mean), draws)
    return {
        "mean": float(mean),
        "low": float(low),
        "high": float(high),
        "by_seed": by_seed.tolist(),
        "std": _spread(by_seed),
    }


def _spread(by_seed: np.ndarray) -> float | None:
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
