"""Series with an axis of their own, put on the common grid that the recipe declares.

A point of the grid has the mean of the values that lie within half a step of it, if there are two or more; else the
value on the line between its two neighbours, if these are at most `reach` apart; else none. With weights the mean is
a weighted one, and the weight of what comes out is the inverse of its variance, as if errors were independent.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from ...sensors.parts import Grid
from ...sensors.reading import Reading

_SAME = 1e-6  # of a step: what is no farther from a point lies on it


def positions(found: Any, reading: Reading) -> np.ndarray:
    """float64 (n,): where the values of a series lie. Dates are days: since 1970 if the grid is of dates, of the year
    (from 1 on) if it is not.

    Raises:
        ValueError: they are neither numbers nor dates, or a number of them is no number.
    """
    name = reading.axis_name
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        assert reading.grid is not None
        return np.array([_day(one, reading.grid.is_of_dates, name) for one in found])
    array = np.asarray(found)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected numbers, or dates as 2020-05-31")
    array = array.astype(np.float64).reshape(-1)
    if not np.isfinite(array).any():
        raise ValueError(f"{name}: none of its {array.size} places is a number")
    return array


def _day(text: str, since_1970: bool, name: str) -> float:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r:.40} is no date as 2020-05-31") from None
    share = (when.hour * 3600 + when.minute * 60 + when.second) / 86_400
    day = when.toordinal() - datetime.date(1970, 1, 1).toordinal() if since_1970 else when.timetuple().tm_yday
    return day + share


def onto(
    values: np.ndarray, places: np.ndarray, grid: Grid, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A series on a grid.

    Args:
        values: float (n, bands), NaN where there is none. places: (n,) in any order; NaN for values that do not count.
        weights: of the values, of their shape; None for equal ones.

    Returns:
        float32 (points, bands) with NaN where there is none, and their weights.
    """
    order = np.argsort(places, kind="stable")[: np.count_nonzero(np.isfinite(places))]
    places = places[order]
    spacing = float(np.median(np.diff(places))) if len(places) > 1 else 0.0
    reach = grid.reach or 2 * max(grid.step_size, spacing)
    weight = np.ones(values.shape) if weights is None else weights
    made = [
        _band(values[order, band].astype(np.float64), places, grid, reach, weight[order, band].astype(np.float64))
        for band in range(values.shape[1])
    ]
    whole, known = (np.stack(part, axis=1).astype(np.float32) for part in zip(*made, strict=True))
    return whole, known


def _band(
    values: np.ndarray, places: np.ndarray, grid: Grid, reach: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    there = np.isfinite(values)
    values, at, weight = values[there], places[there], weights[there]
    points = np.linspace(grid.start, grid.start + grid.step_size * (grid.count - 1), grid.count)
    if not len(values):
        return np.full(len(points), np.nan), np.zeros(len(points))
    step = grid.step_size
    # The lines between neighbours.
    right = np.searchsorted(at, points - _SAME * step).clip(1, max(len(at) - 1, 1))
    right = np.minimum(right, len(at) - 1)
    left = np.maximum(right - 1, 0)
    gap = at[right] - at[left]
    share = np.where(gap > 0, (points - at[left]) / np.where(gap > 0, gap, 1), 0.0)
    close = share.clip(0, 1)
    inside = np.abs(share - close) * np.where(gap > 0, gap, 1) <= _SAME * step
    alone = (gap > reach) | (gap == 0)  # too far apart: only what lies on a neighbour has a value
    on_left, on_right = (np.abs(points - at[i]) <= _SAME * step for i in (left, right))
    close = np.where(alone, np.where(on_right, 1.0, 0.0), close)
    good = np.where(alone, on_left | on_right, inside)
    line = values[left] * (1 - close) + values[right] * close
    spread = (1 - close) ** 2 / weight[left] + close**2 / weight[right]
    found, known = np.where(good, line, np.nan), np.where(good, 1 / spread, 0.0)
    # The means around points, of two values or more.
    nearest = np.floor((at - points[0]) / step + 0.5)
    near = (nearest >= 0) & (nearest < len(points))
    index = nearest[near].astype(np.int64)
    count = np.bincount(index, minlength=len(points))
    total = np.bincount(index, weight[near], len(points))
    sums = np.bincount(index, weight[near] * values[near], len(points))
    several = count > 1
    found[several], known[several] = sums[several] / total[several], total[several]
    return found, known
