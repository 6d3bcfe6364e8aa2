"""Samples that are far from the others in one of their features: for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...tokenize.sensors import numbers
from .merged import Merged

FAR = 6.0  # robust standard deviations
OF_FEATURE, OF_OUTPUT = 3, 6
_NORMAL = 1.349  # standard deviations between the quartiles of a normal distribution


@dataclass(frozen=True)
class Outlier:
    """A sample: its shard and row, the feature with its value there and what is usual, and how far that is."""

    output: str
    shard: str
    row: int
    feature: str
    value: float
    usual: float
    far: float


def find(merged: Merged) -> list[Outlier]:
    """The samples of an output that are farthest from the others, each once."""
    found: list[Outlier] = []
    for at in merged.scalars():
        name = merged.names[at]
        candidates = [
            (shard.shard, row, value) for shard in merged.shards for row, value in shard.extremes.get(name, ())
        ]
        of = merged.of_feature(at)
        quantiles = of.quantiles[0].astype(np.float64)
        if not candidates or not np.isfinite(quantiles).all():
            continue
        values = np.array([value for _, _, value in candidates], np.float64)
        far = _far(values, quantiles, float(of.std[0]))
        for index in np.argsort(-far, kind="stable")[:OF_FEATURE].tolist():
            if far[index] >= FAR:
                shard, row, value = candidates[index]
                usual = float(quantiles[numbers.level(0.5)])
                found.append(Outlier(merged.output, shard, row, name, value, usual, float(far[index])))
    best: dict[tuple[str, int], Outlier] = {}
    for one in sorted(found, key=lambda one: -one.far):
        best.setdefault((one.shard, one.row), one)
    return list(best.values())[:OF_OUTPUT]


def _far(values: np.ndarray, quantiles: np.ndarray, std: float) -> np.ndarray:
    """Distances from the median in robust standard deviations; of what is never negative the smaller one of that and of
    its logarithm's, since counts and lengths are skewed."""
    far = _scaled(values, quantiles, std)
    if quantiles[0] < 0:
        return far
    logs = np.log1p(quantiles)
    width = (logs[numbers.level(0.75)] - logs[numbers.level(0.25)]) / _NORMAL
    return np.minimum(far, _scaled(np.log1p(np.maximum(values, 0)), logs, width))


def _scaled(values: np.ndarray, quantiles: np.ndarray, std: float) -> np.ndarray:
    low, median, high = (quantiles[numbers.level(one)] for one in (0.25, 0.5, 0.75))
    width = (high - low) / _NORMAL
    # Of what is nearly always the same the quartiles say nothing.
    scale = width if width > 0 else std
    return np.abs(values - median) / scale if scale > 0 else np.zeros(len(values))
