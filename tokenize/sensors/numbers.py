"""Numbers of many channels in one pass: moments, extremes and quantiles that can be merged over shards.

A channel is one band of an array, or one number of each sample. Means and variances are exact. Quantiles come from
counts of the values' first 20 bits (sign, exponent, 11 bits of the fraction): exact for float16 and for whole numbers
below 4,096, else within 0.05 % of the value. No range has to be known before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Shares of the values that lie at or below a quantile: finer at both ends, where clipping and outliers show.
_TAIL = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)
LEVELS = np.array([*_TAIL, *np.linspace(0.1, 0.9, 33), *(1 - np.array(_TAIL[::-1]))])
MOST = 32  # channels that have quantiles each; of more (features) all values have them together
_SHIFT = 12
_CODES = 1 << (32 - _SHIFT)
_BATCH = 1 << 19  # values that are counted at once
_SAMPLED = 1 << 16  # of one array, for the quantiles
_GRID = 513  # points at which distributions of several shards are added up

# Columns of `Numbers.moments`.
COUNT, FINITE, MEAN, M2, LOW, HIGH, AT_LOW, AT_HIGH = range(8)


@dataclass(frozen=True)
class Numbers:
    """Distributions of channels.

    moments: float64 (channels, 8): how many values, how many of them finite, their mean, the sum of squares around it,
        the smallest and largest one (NaN of none), and how many are equal to these.
    quantiles: float32 (channels, LEVELS), or (1, LEVELS) of all channels together if there are more than `MOST`; NaN
        where there is no value.
    """

    moments: np.ndarray
    quantiles: np.ndarray

    def __len__(self) -> int:
        return len(self.moments)

    def of(self, name: int) -> np.ndarray:
        """One of the columns of `moments`, (channels,)."""
        return self.moments[:, name]

    @property
    def std(self) -> np.ndarray:
        """(channels,); NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.of(M2) / np.where(self.of(FINITE) > 0, self.of(FINITE), np.nan))

    @property
    def together(self) -> np.ndarray:
        """`moments` of the distributions that `quantiles` are of: as they are, or of all channels as one, (1, 8)."""
        return self.moments if len(self.quantiles) == len(self.moments) else _as_one(self.moments)


def level(share: float) -> int:
    """The place of a level among `LEVELS`."""
    return int(np.abs(LEVELS - share).argmin())


class Channels:
    """Numbers of arrays that come one after the other; all have the same number of channels.

    Not safe for several threads.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._moments = np.zeros((channels, 8))
        self._moments[:, (LOW, HIGH)] = np.nan
        kept = channels if channels <= MOST else 1
        # Of the kept counts only pages that are used take memory.
        self._counts = [np.zeros(_CODES, np.int64) for _ in range(kept)]
        self._waiting: list[np.ndarray] = []
        self._values = 0

    def add(self, values: np.ndarray) -> np.ndarray:
        """Args: values: float32 (n, channels). Returns their `moments`."""
        moments = moments_of(values)
        self._moments = merged_moments([self._moments, moments])
        step = max(1, len(values) // max(1, _SAMPLED // self.channels))
        # Another start for each array, so that no column of an image is met more often than others.
        self._waiting.append(values[len(self._waiting) % step :: step])
        self._values += self._waiting[-1].size
        if self._values >= _BATCH:
            self._count()
        return moments

    def done(self) -> Numbers:
        self._count()
        quantiles = np.stack([_quantiles(counts) for counts in self._counts])
        moments = self._moments if len(quantiles) == self.channels else _as_one(self._moments)
        # What was passed over for the quantiles may be the smallest or the largest.
        quantiles[:, 0], quantiles[:, -1] = moments[:, LOW], moments[:, HIGH]
        return Numbers(self._moments, quantiles.astype(np.float32))

    def _count(self) -> None:
        if not self._waiting:
            return
        values = np.concatenate(self._waiting)
        columns = values.T if len(self._counts) == self.channels else values.reshape(1, -1)
        for counts, column in zip(self._counts, columns, strict=True):
            codes = _codes(column[np.isfinite(column)])
            if codes.size:
                low = int(codes.min())
                found = np.bincount(codes - low)
                counts[low : low + len(found)] += found
        self._waiting, self._values = [], 0


def of(values: np.ndarray) -> Numbers:
    """Numbers of float32 (n, channels) that are there at once; each channel has its quantiles."""
    moments = moments_of(values)
    quantiles = np.full((values.shape[1], len(LEVELS)), np.nan, np.float32)
    for channel, column in enumerate(values.T):
        if (there := column[np.isfinite(column)]).size:
            quantiles[channel] = np.quantile(there, LEVELS, method="inverted_cdf")
    return Numbers(moments, quantiles)


def _codes(values: np.ndarray) -> np.ndarray:
    """Finite float32 (n,) to uint32 (n,) below `_CODES`, in the order of the values."""
    bits = (np.ascontiguousarray(values, np.float32) + np.float32(0)).view(np.uint32)  # -0 becomes 0
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31)) >> np.uint32(_SHIFT)


def _values(codes: np.ndarray) -> np.ndarray:
    """The value of each code that is nearest to zero, float32."""
    bits = codes.astype(np.uint32) << np.uint32(_SHIFT)
    positive = bits >> np.uint32(31) == 1
    filled = ~(bits | np.uint32((1 << _SHIFT) - 1))
    return np.where(positive, bits & np.uint32(0x7FFFFFFF), filled).astype(np.uint32).view(np.float32)


def _quantiles(counts: np.ndarray) -> np.ndarray:
    codes = np.flatnonzero(counts)
    if not codes.size:
        return np.full(len(LEVELS), np.nan)
    upto = np.cumsum(counts[codes])
    ranks = np.clip(np.ceil(LEVELS * upto[-1]), 1, upto[-1])
    return _values(codes)[np.searchsorted(upto, ranks)].astype(np.float64)


def moments_of(values: np.ndarray) -> np.ndarray:
    """`Numbers.moments` of float32 (n, channels)."""
    finite = np.isfinite(values)
    all_finite = bool(finite.all())
    there = values if all_finite else np.where(finite, values, np.float32(0))
    count = np.full(values.shape[1], float(len(values))) if all_finite else finite.sum(axis=0).astype(np.float64)
    some = np.maximum(count, 1)
    mean = there.sum(axis=0, dtype=np.float64) / some
    off = there - mean.astype(np.float32)
    if not all_finite:
        off[~finite] = 0
    # Around the rounded mean, which is mended exactly.
    rest = off.sum(axis=0, dtype=np.float64)
    m2 = np.einsum("nc,nc->c", off, off, dtype=np.float64) - rest**2 / some
    with np.errstate(all="ignore"):
        low = np.min(values if all_finite else np.where(finite, values, np.inf), axis=0, initial=np.inf)
        high = np.max(values if all_finite else np.where(finite, values, -np.inf), axis=0, initial=-np.inf)
    at_low, at_high = (values == low).sum(axis=0), (values == high).sum(axis=0)
    none = count == 0
    low, high = np.where(none, np.nan, low), np.where(none, np.nan, high)
    total = np.full(values.shape[1], float(len(values)))
    return np.stack([total, count, mean, np.maximum(m2, 0), low, high, at_low, at_high], axis=1).astype(np.float64)


def merged_moments(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The `moments` of all parts' values together; parts are (channels, 8) each."""
    all_of = np.stack(parts)
    count, finite, mean, m2 = (all_of[..., i] for i in (COUNT, FINITE, MEAN, M2))
    some = np.maximum(finite.sum(axis=0), 1)
    whole = (finite * mean).sum(axis=0) / some
    spread = (m2 + finite * (mean - whole) ** 2).sum(axis=0)
    low = np.fmin.reduce(all_of[..., LOW], axis=0)
    high = np.fmax.reduce(all_of[..., HIGH], axis=0)
    at_low = np.where(all_of[..., LOW] == low, all_of[..., AT_LOW], 0).sum(axis=0)
    at_high = np.where(all_of[..., HIGH] == high, all_of[..., AT_HIGH], 0).sum(axis=0)
    return np.stack([count.sum(axis=0), finite.sum(axis=0), whole, spread, low, high, at_low, at_high], axis=1)


def _as_one(moments: np.ndarray) -> np.ndarray:
    """All channels as one, (1, 8)."""
    return merged_moments(list(moments[:, None]))


def cdf(quantiles: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of a distribution at or below some values; quantiles (LEVELS,), at (n,) ascending.

    It is even between quantiles that differ. Values that are several quantiles are those of many samples: the share
    jumps there.
    """
    wide = np.asarray(quantiles, np.float64)
    points, first, number = np.unique(wide, return_index=True, return_counts=True)
    many = number > 1
    below = np.nextafter(points[many], -np.inf)
    places = np.concatenate([points, below])
    levels = np.concatenate([LEVELS[first + number - 1], LEVELS[first[many]]])
    order = np.argsort(places, kind="stable")
    return np.interp(at, places[order], levels[order], left=0.0)


def merged_quantiles(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The quantiles (LEVELS,) of several distributions together; NaN if none has a value.

    Args:
        parts: quantiles (LEVELS,) each. weights: how many values each has.
    """
    chosen = [(q, w) for q, w in zip(parts, weights, strict=True) if w > 0 and np.isfinite(q).all()]
    if not chosen:
        return np.full(len(LEVELS), np.nan)
    if len(chosen) == 1:
        return np.asarray(chosen[0][0], np.float64)
    points, number = np.unique(np.concatenate([q for q, _ in chosen]).astype(np.float64), return_counts=True)
    some = np.linspace(0, len(points) - 1, min(len(points), _GRID)).round().astype(int)
    grid = np.unique(np.concatenate([points[some], np.nextafter(points[number > 1], -np.inf)[:_GRID]]))
    share = np.sum([w * cdf(q, grid) for q, w in chosen], axis=0) / sum(w for _, w in chosen)
    # As float32 the points just below a value are this value again.
    return (np.interp(LEVELS, share, grid).astype(np.float32) + np.float32(0)).astype(np.float64)
