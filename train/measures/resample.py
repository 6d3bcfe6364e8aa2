"""Intervals of measures by the bootstrap: the samples of an evaluation are drawn again, with replacement.

All measures of a table see the same draws, so that two of its rows differ by what they are and not by luck.

Legend: n samples, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .forms import Sums

# Counts (D, n), how often each sample is drawn -> the measures of each draw, (D,), by name.
Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]
# Sums over samples, with the same leading axes -> measures of these axes.
Summary = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
LEVEL = 0.95


@dataclass(frozen=True)
class Value:
    """A measure of all samples, and the interval in which 95 % of the draws lie; NaN where there is none."""

    value: float
    low: float
    high: float


def draw(samples: int, draws: int, seed: int) -> np.ndarray:
    """How often each sample occurs in each draw, int64 (D, n); every row adds up to n."""
    return np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), draws)


def of_sums(
    parts: Sequence[Sums], summary: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
) -> Statistic:
    """A statistic that depends on samples by their sums alone, such as `forms.summary` of a form."""
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return lambda counts: summary({name: np.tensordot(counts, values, 1) for name, values in stacked.items()})


def measure(statistic: Statistic, draws: np.ndarray) -> dict[str, Value]:
    """The measures of all samples, with intervals from `draws` (D, n); those of draws without a value do not count."""
    points = statistic(np.ones((1, draws.shape[1]), np.int64))
    spreads = statistic(draws) if len(draws) else {}
    return {name: _value(float(point[0]), spreads.get(name, np.empty(0))) for name, point in points.items()}


def _value(point: float, spread: np.ndarray) -> Value:
    known = spread[np.isfinite(spread)]
    if not known.size:
        return Value(point, float("nan"), float("nan"))
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Value(point, float(low), float(high))
