"""The summaries of an output's shards, put together: what all hold, and beside it a little of each shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...tokenize.sensors import numbers
from ...tokenize.sensors.numbers import LEVELS, Numbers
from ...train.tokenizers.usage import usage
from .measure import is_share
from .summary import Summary

BINS = 32


@dataclass(frozen=True)
class OfShard:
    """What is kept of a shard for comparisons: its summary, without samples and counts of codes.

    moments: of what `numbers.quantiles` are of, (kept channels, 8).
    extremes: (row, value) at both ends of each feature.
    """

    shard: str
    rows: int
    valid: int
    constant: str
    numbers: Numbers | None
    moments: np.ndarray
    extremes: dict[str, list[tuple[int, float]]]


@dataclass
class Merged:
    """One output.

    names: of the features. features: float64 (shards, features, 8), `numbers.moments` of each; NaN means where a shard
    lacks one. feature_quantiles: float32 (shards, features, LEVELS).
    codes: of all shards, None if there are none.
    """

    output: str
    shards: list[OfShard] = field(default_factory=list)
    channels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    features: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 8)))
    feature_quantiles: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, len(LEVELS)), np.float32))
    counts: Counter[str] = field(default_factory=Counter)
    codes: np.ndarray | None = None
    _of_features: dict[int, Numbers] = field(default_factory=dict, init=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.shards)

    @property
    def valid(self) -> int:
        return sum(one.valid for one in self.shards)

    def scalars(self) -> list[int]:
        """The features that are no shares."""
        return [at for at, name in enumerate(self.names) if not is_share(name)]

    def of_feature(self, at: int) -> Numbers:
        """A feature over all samples, as one channel."""
        if at not in self._of_features:  # it looks at all shards, and is asked for by the table, the page and outliers
            moments = numbers.merged_moments(list(self.features[:, at : at + 1]))
            weights = self.features[:, at, numbers.FINITE].tolist()
            quantiles = numbers.merged_quantiles(list(self.feature_quantiles[:, at]), weights)
            self._of_features[at] = Numbers(moments, quantiles[None])
        return self._of_features[at]

    def of_channels(self) -> Numbers | None:
        """The channels over all values; None if there are none."""
        there = [one for one in self.shards if one.numbers is not None and len(one.numbers) == len(self.channels)]
        if not there or not self.channels:
            return None
        all_numbers = [one.numbers for one in there if one.numbers is not None]
        moments = numbers.merged_moments([one.moments for one in all_numbers])
        kept = len(all_numbers[0].quantiles)
        quantiles = [
            numbers.merged_quantiles(
                [one.quantiles[at] for one in all_numbers], [float(one.moments[at, numbers.FINITE]) for one in there]
            )
            for at in range(kept)
        ]
        return Numbers(moments, np.stack(quantiles))


def merge(output: str, summaries: Iterable[Summary]) -> Merged:
    """Put summaries together, in the order of the shards' names."""
    merged = Merged(output)
    of_features: list[tuple[tuple[str, ...], Numbers]] = []
    for one in _noted(merged, summaries):
        small = Numbers(one.features.numbers.moments.copy(), one.features.numbers.quantiles.copy())
        of_features.append((one.features.names, small))
    order = sorted(range(len(merged.shards)), key=lambda at: merged.shards[at].shard)
    merged.shards = [merged.shards[at] for at in order]
    merged.names = tuple(sorted({name for names, _ in of_features for name in names}))
    place = {name: at for at, name in enumerate(merged.names)}
    shape = len(order), len(merged.names)
    merged.features = np.zeros((*shape, 8))
    merged.features[:, :, (numbers.MEAN, numbers.LOW, numbers.HIGH)] = np.nan
    merged.feature_quantiles = np.full((*shape, len(LEVELS)), np.nan, np.float32)
    shares = [at for name, at in place.items() if is_share(name)]
    for row, at in enumerate(order):
        names, measured = of_features[at]
        # A group that does not occur has the share 0 in every sample.
        merged.features[row, shares] = [merged.shards[row].valid, merged.shards[row].valid, 0, 0, 0, 0, 0, 0]
        places = [place[name] for name in names]
        merged.features[row, places] = measured.moments
        merged.feature_quantiles[row, places] = measured.quantiles
    return merged


def _noted(merged: Merged, summaries: Iterable[Summary]) -> Iterator[Summary]:
    """Pass summaries on, and note all of them but their features."""
    for one in summaries:
        merged.channels = merged.channels or one.channels
        merged.counts.update(one.counts)
        if one.codes is not None:
            same = merged.codes is not None and len(merged.codes) == len(one.codes)
            merged.codes = one.codes.astype(np.int64) if merged.codes is None else merged.codes
            if same:
                merged.codes = merged.codes + one.codes
        together = one.numbers.together if one.numbers is not None else np.zeros((0, 8))
        merged.shards.append(
            OfShard(one.shard, one.rows, one.valid, one.constant, one.numbers, together, _extremes(one))
        )
        yield one


def _extremes(one: Summary) -> dict[str, list[tuple[int, float]]]:
    rows, values = one.features.extremes
    pairs = {
        name: [(row, value) for row, value in zip(rows[at].tolist(), values[at].tolist(), strict=True) if row >= 0]
        for at, name in enumerate(one.features.names)
    }
    return {name: of for name, of in pairs.items() if of}


def histogram(of: Numbers, at: int, parts: Iterable[tuple[np.ndarray, float]]) -> dict[str, list[float]]:
    """{"edges", "counts"} of a channel between its 1 % and 99 % quantiles; the bins at the ends have what lies beyond.

    Args:
        parts: quantiles and number of values of each shard.
    """
    low, high = (float(of.quantiles[at, numbers.level(level)]) for level in (0.01, 0.99))
    if not np.isfinite(low):
        return {"edges": [], "counts": []}
    edges = np.linspace(low, high if high > low else low + (abs(low) or 1.0) * 1e-3, BINS + 1)
    counts = np.zeros(BINS)
    for quantiles, weight in parts:
        if weight and np.isfinite(quantiles).all():
            share = numbers.cdf(quantiles, edges[1:-1])
            counts += weight * np.diff(np.concatenate([[0.0], share, [1.0]]))
    return {"edges": edges.tolist(), "counts": np.round(counts, 1).tolist()}


def described(merged: Merged) -> dict[str, object]:
    """An output in plain values: what `--json` prints of it."""
    facts: dict[str, object] = {"rows": merged.rows, "nulls": merged.rows - merged.valid, "shards": len(merged.shards)}
    channels = merged.of_channels()
    if channels is not None:
        facts["channels"] = _channels(merged, channels)
    facts["samples"] = {
        merged.names[at]: _one(merged.of_feature(at), 0)
        | histogram(merged.of_feature(at), 0, _parts_of_feature(merged, at))
        for at in merged.scalars()
    }
    if merged.counts:
        facts["counts"] = dict(merged.counts.most_common())
    if merged.codes is not None:
        used = usage(merged.codes)
        entropy = float(np.log2(used["perplexity"])) if used["perplexity"] else 0.0
        facts["codes"] = {**used, "dead": used["size"] - used["used"], "entropy_bits": entropy}
    return facts


def _parts_of_feature(merged: Merged, at: int) -> list[tuple[np.ndarray, float]]:
    weights = merged.features[:, at, numbers.FINITE].tolist()
    return list(zip(merged.feature_quantiles[:, at], weights, strict=True))


def parts_of_channel(merged: Merged, at: int) -> list[tuple[np.ndarray, float]]:
    """The quantiles and the number of values of a kept channel in each shard."""
    there = [one for one in merged.shards if one.numbers is not None and at < len(one.moments)]
    return [(one.numbers.quantiles[at], float(one.moments[at, numbers.FINITE])) for one in there if one.numbers]


def _channels(merged: Merged, all_of: Numbers) -> list[dict[str, object]]:
    """One entry a channel; of many channels one of all values together, with the means of each."""
    together = Numbers(all_of.together, all_of.quantiles)
    rows = []
    for at in range(len(together)):
        name = merged.channels[at] if len(together) == len(all_of) else f"all {len(all_of)}"
        row: dict[str, object] = {"channel": name, **_one(together, at)}
        rows.append(row | histogram(together, at, parts_of_channel(merged, at)))
    if len(together) != len(all_of):
        rows[0] |= {"means": all_of.of(numbers.MEAN).tolist(), "stds": all_of.std.tolist()}
    return rows


def _one(of: Numbers, at: int) -> dict[str, float | None]:
    count, finite, mean, _, low, high, _, _ = of.moments[at].tolist()
    levels = {f"p{100 * level:g}": of.quantiles[at, numbers.level(level)] for level in (0.02, 0.5, 0.98)}
    values = {"mean": mean if finite else np.nan, "std": float(of.std[at]), "min": low, "max": high, **levels}
    plain = {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
    return {"valid": finite / count if count else None, **plain}
