"""Whether shards are like each other: samples of each, by their features.

A shard drifts if all of this holds:
- its features have other means than those of the reference, which is the half of the shards that are most alike. A
  sample counts as one, however many values it has: those of one image are not independent. Two tests are made, of the
  feature that differs most (z, Bonferroni) and of all together (their sum of squares, with as many degrees of freedom
  as correlated features have by Satterthwaite), and corrected for the number of shards and outputs;
- the difference is large: in standard deviations between samples, and compared with what shards of the reference differ
  by, since with many samples any two shards differ a little;
- a permutation test of some of its samples and some of the reference's agrees, by their ranks (report/likeness.py), so
  that few samples with a few large values prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...tokenize.sensors import numbers
from .. import likeness
from .measure import is_share
from .merged import Merged
from .summary import Summary

LEAST = 8  # samples of a shard: fewer say nothing
ALPHA = 0.01  # of all tests together
LARGEST, ALL = 0.3, 0.12  # standard deviations: of the feature that differs most, and root mean square of all
BEYOND = 4.0  # times what shards of the reference differ by
CENTRES = 256  # shards that may be the middle of the reference
_MEDIAN = 0.6745  # of the absolute value of a standard normal number
FLOOR = 1e-3  # of a feature's spread over all samples, if it has none within shards


@dataclass(frozen=True)
class Drift:
    """Shards in a row that are unlike the reference.

    shards: their names. feature: the one that differs most, with its mean there and elsewhere. effect: how far, in
    standard deviations between samples. chance: of so large a difference among shards of one kind, corrected.
    reference: names of shards that they were compared with.
    """

    shards: tuple[str, ...]
    feature: str
    mean: float
    elsewhere: float
    effect: float
    chance: float
    reference: tuple[str, ...]


@dataclass(frozen=True)
class Distances:
    """How far each shard is from the reference, (shards,) each.

    largest: standard deviations of the feature that differs most, whose place is `feature`; NaN of too few samples.
    reference: bool, those that are the reference. chance: of such differences, corrected. drifts: whether one of them
    is significant, large, and larger than usual.
    """

    largest: np.ndarray
    feature: np.ndarray
    reference: np.ndarray
    chance: np.ndarray
    drifts: np.ndarray


def distances(merged: Merged, tests: int, correlated: np.ndarray | None = None) -> Distances | None:
    """Compare all shards; None if fewer than two have samples enough.

    Args:
        tests: how many shards are compared over all outputs, for the correction.
        correlated: the features of some samples, float (samples, features), for the degrees of freedom; as many as
            there are features unless given.
    """
    count, mean, m2 = (merged.features[:, :, i] for i in (numbers.FINITE, numbers.MEAN, numbers.M2))
    enough = np.array([one.valid >= LEAST for one in merged.shards])
    if enough.sum() < 2 or not merged.names:
        return None
    some = (count[enough] > 0).sum(axis=0) >= 2
    if not some.any():
        return None
    count, mean, m2 = count[:, some], np.where(count[:, some] > 0, mean[:, some], np.nan), m2[:, some]
    sd = _spread(count[enough], mean[enough], m2[enough])
    moves = sd > 0
    if not moves.any():
        return None
    places = np.flatnonzero(some)[moves]
    count, scaled = count[:, moves], mean[:, moves] / sd[moves]
    reference = _reference(scaled, enough)
    weights = count[reference]
    centre = np.nansum(scaled[reference] * weights, axis=0) / np.maximum(weights.sum(axis=0), 1)
    off = np.where(np.isfinite(scaled), np.abs(scaled - centre), 0.0)
    noise = np.sqrt(1 / np.maximum(count, 1) + 1 / np.maximum(weights.sum(axis=0), 1))
    z = np.where(count > 0, off / noise, 0.0)
    # Each feature, and all together: twice as many tests.
    of_one = np.array([[math.erfc(value / math.sqrt(2)) for value in row] for row in z]) * z.shape[1] * tests * 2
    freedom = _freedom(None if correlated is None else correlated[:, places]) or 1.0
    of_all = np.array([_together(row, freedom) for row in z]) * tests * 2
    together = np.sqrt((off**2).mean(axis=1))
    usual, usual_together = _usual(off[enough]), _usual(together[enough])
    # The same difference must be both.
    bad = (off >= np.maximum(LARGEST, BEYOND * usual)) & (of_one <= ALPHA)
    drifts = bad.any(axis=1) | ((together >= max(ALL, BEYOND * float(usual_together))) & (of_all <= ALPHA))
    shown = np.where(bad.any(axis=1)[:, None], np.where(bad, off, 0), off).argmax(axis=1)
    return Distances(
        np.where(enough, off[np.arange(len(off)), shown], np.nan),
        places[shown],
        reference,
        np.minimum(np.minimum(of_one.min(axis=1), of_all), 1.0),
        drifts & enough,
    )


def find(merged: Merged, far: Distances, summaries: Mapping[str, Summary]) -> list[Drift]:
    """The shards that drift, those that follow each other together; the largest difference first.

    Args:
        summaries: by shard, those that were `asked` for.
    """
    found = []
    known = [one.shard for one, there in zip(merged.shards, far.reference, strict=True) if there]
    for run in _runs(np.flatnonzero(far.drifts).tolist()):
        shards = tuple(merged.shards[at].shard for at in run)
        worst = max(run, key=lambda at: far.largest[at])
        at = int(far.feature[worst])
        new, old = (
            table([summaries[one] for one in likeness.some(of) if one in summaries], merged.names)
            for of in (shards, known)
        )
        if len(new) and len(old):
            ranks = _ranks(np.concatenate([new, old]))
            alike = likeness.likeness(merged.output, ranks[: len(new)], ranks[len(new) :])
            if not alike.is_other:
                continue
        elsewhere = numbers.merged_moments(list(merged.features[far.reference][:, at : at + 1]))[0, numbers.MEAN]
        mean = numbers.merged_moments(list(merged.features[run][:, at : at + 1]))[0, numbers.MEAN]
        drift = Drift(
            shards, merged.names[at], float(mean), float(elsewhere), float(far.largest[worst]),
            float(far.chance[worst]), tuple(known),
        )  # fmt: skip
        found.append(drift)
    return sorted(found, key=lambda one: -one.effect)


def asked(merged: Merged, far: Distances) -> set[str]:
    """The shards whose summaries `find` needs."""
    if not far.drifts.any():
        return set()
    known = [one.shard for one, there in zip(merged.shards, far.reference, strict=True) if there]
    runs = [[merged.shards[at].shard for at in run] for run in _runs(np.flatnonzero(far.drifts).tolist())]
    return set(likeness.some(known)).union(*map(likeness.some, runs))


def _usual(off: np.ndarray) -> np.ndarray:
    """How far shards are from the centre, as a standard deviation that the farther half of them does not change.

    Args:
        off: distances, (shards, ...).
    """
    usual: np.ndarray = np.sort(off, axis=0)[(len(off) + 1) // 2 - 1] / _MEDIAN
    return usual


def _runs(places: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _spread(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> np.ndarray:
    """Standard deviation of each feature between the samples of a shard, over all shards; 0 of one that never moves."""
    total = np.maximum(count.sum(axis=0), 1)
    within = m2.sum(axis=0) / np.maximum(total - (count > 0).sum(axis=0), 1)
    centre = np.nansum(mean * count, axis=0) / total
    whole = within + np.nansum(count * (mean - centre) ** 2, axis=0) / total
    # What rounding leaves of a feature that is the same everywhere is no spread.
    whole[whole <= 1e-12 * np.maximum(centre**2, 1e-12)] = 0
    return np.sqrt(np.maximum(within, FLOOR**2 * whole))


def _reference(scaled: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The half of the shards that are nearest to the one in the middle, bool (shards,); of equal ones the earlier."""
    places = np.flatnonzero(enough)
    filled = np.where(np.isfinite(scaled), scaled, 0.0)
    looked = places[np.linspace(0, len(places) - 1, min(len(places), CENTRES)).round().astype(int)]
    looked = np.unique(looked)
    # Differences of one feature must not hide all others: a feature counts up to three standard deviations.
    apart = np.array([[_apart(filled[i], filled[j]) for j in looked] for i in looked])
    half = (len(looked) + 1) // 2
    middle = looked[np.sort(apart, axis=1)[:, :half].mean(axis=1).argmin()]
    away = np.array([_apart(filled[middle], filled[at]) for at in places])
    chosen = places[np.argsort(away, kind="stable")[: (len(places) + 1) // 2]]
    reference = np.zeros(len(enough), bool)
    reference[chosen] = True
    return reference


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt((np.minimum(np.abs(one - other), 3.0) ** 2).mean()))


def _freedom(samples: np.ndarray | None) -> float | None:
    """How many independent features would spread as much as these; None if that is not known."""
    if samples is None or len(samples) < 2 * LEAST:
        return None
    filled = np.where(np.isfinite(samples), samples, np.nanmean(np.where(np.isfinite(samples), samples, 0.0), axis=0))
    filled = filled - filled.mean(axis=0)
    spread = filled.std(axis=0)
    filled = filled[:, spread > 0] / spread[spread > 0]
    if not filled.shape[1]:
        return None
    correlations = filled.T @ filled / len(filled)
    return float(filled.shape[1] ** 2 / (correlations**2).sum())


def _together(z: np.ndarray, freedom: float) -> float:
    """How likely so large a sum of squares is by chance: it is like chi-squared of `freedom` degrees of freedom,
    stretched. By the approximation of Wilson and Hilferty."""
    ratio = float((z**2).mean())
    normal = (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(normal / math.sqrt(2))


def table(summaries: Sequence[Summary], names: Sequence[str]) -> np.ndarray:
    """The features of some samples of some shards, float32 (samples, features)."""
    place = {name: at for at, name in enumerate(names)}
    tables = []
    for one in summaries:
        filled = np.full((len(one.features.sketch), len(names)), np.nan, np.float32)
        filled[:, [at for name, at in place.items() if is_share(name)]] = 0
        filled[:, [place[name] for name in one.features.names]] = one.features.sketch
        tables.append(filled)
    return np.concatenate(tables) if tables else np.zeros((0, len(names)), np.float32)


def _ranks(table: np.ndarray) -> np.ndarray:
    """Each feature by the ranks of its values, 0 to 1; equal values have one rank, the mean of theirs."""
    ranks = np.empty(table.shape, np.float32)
    filled = np.where(np.isfinite(table), table, -np.inf)
    for at, column in enumerate(filled.T):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[:, at] = ((ends - counts + ends - 1) / 2)[inverse] / max(1, len(column) - 1)
    return ranks
