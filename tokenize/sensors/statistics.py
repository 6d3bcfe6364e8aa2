"""Statistics of the bands of a sensor, or of its numbers: what a tokenizer standardizes by, for ever.

They are measured on the training examples of a fit, and lie in the tokenizer's config.json, so that its fingerprint
holds them: other statistics are another tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

if TYPE_CHECKING:
    import torch

Transform = Literal["linear", "log", "arcsinh"]
MOST_VALUES = 1_000_000  # of a band, of which its percentiles are taken
BINS = 24  # of a histogram
SPREAD = 1e-6  # share of the largest value; bands that vary by less are constant


class Statistics(BaseModel):
    """Of each band, over all values that are there.

    mean, std: after `transform`; with them a band has mean 0 and deviation 1. low, median, high: 2nd, 50th and 98th
        percentile, and least, most, in the sensor's unit. valid: share of pixels with a value.
    histogram: shares of the values in equal parts from low to high; () in those of older fits.
    samples: rows that were looked at.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    bands: tuple[str, ...]
    unit: str = ""
    transform: Transform = "linear"
    softening: float = 1.0
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    valid: tuple[float, ...]
    histogram: tuple[tuple[float, ...], ...] = ()
    samples: int

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was hashed of statistics without a histogram stays what it was."""
        return {name: value for name, value in handler(self).items() if name != "histogram" or value}

    def standardized(self, values: torch.Tensor) -> torch.Tensor:
        """Values (..., n) in the sensor's unit to float32 of mean 0 and deviation 1; 0 where there are none."""
        import torch

        found = (self.transformed(values) - self._row(self.mean, values)) / self._row(self.std, values)
        return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).float()

    def restored(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `standardized`, float32."""
        found = values.double() * self._row(self.std, values) + self._row(self.mean, values)
        return self.untransformed(found).float()

    def weighed(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weights of values (..., n), their inverse variance, as those of `standardized` values: float32, their mean
        1. A mask, of bool, stays what it is."""
        import torch

        if weights.dtype == torch.bool:
            return weights
        found = weights.double() * self._row(self.std, values).square()
        match self.transform:  # over the square of its slope
            case "log":
                found = found * values.double().square()
            case "arcsinh":
                found = found * (values.double().square() + self.softening**2)
        found = found.nan_to_num()
        return (found / found.mean().clamp(min=torch.finfo(torch.float32).tiny)).float()

    def transformed(self, values: torch.Tensor) -> torch.Tensor:
        """float64; NaN where there is no value, or no logarithm."""
        scaled = values.double() / self.softening
        return {"linear": scaled.clone, "log": scaled.log, "arcsinh": scaled.asinh}[self.transform]()

    def untransformed(self, values: torch.Tensor) -> torch.Tensor:
        found = values.double()
        return {"linear": found.clone, "log": found.exp, "arcsinh": found.sinh}[self.transform]() * self.softening

    def _row(self, values: Iterable[float], like: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.tensor(tuple(values), dtype=torch.float64, device=like.device)


def measure(
    rows: np.ndarray, bands: Iterable[str], unit: str = "", transform: Transform = "linear", softening: float = 1.0
) -> Statistics:
    """The statistics of rows (n, ..., bands), read once, a few rows at a time; NaN is no value.

    Raises:
        ValueError: a band has no value at all, or the same one everywhere: it says nothing.
    """
    names = tuple(bands)
    count, width = len(rows), len(names)
    assert rows.shape[-1] == width, (rows.shape, names)
    inside = int(np.prod(rows.shape[1:-1], dtype=np.int64))
    stride = max(1, count * inside // MOST_VALUES)
    totals, kept = [_Sums() for _ in names], [list[np.ndarray]() for _ in names]
    draft = _Draft(transform, softening)
    step, seen = max(1, 2**22 // max(inside * width, 1)), 0
    for start in range(0, count, step):
        part = np.asarray(rows[start : start + step]).reshape(-1, width)
        for band in range(width):
            values = part[:, band].astype(np.float64)
            kept[band].append(values[-seen % stride :: stride])
            totals[band].add(values, draft)
        seen += len(part)
    for name, total in zip(names, totals, strict=True):
        _check(name, total, transform)
    spread = [_spread(np.concatenate(one)) for one in kept]
    low, median, high = zip(*(percentiles for percentiles, _ in spread), strict=True)
    return Statistics(
        bands=names, unit=unit, transform=transform, softening=softening,
        mean=tuple(one.mean for one in totals), std=tuple(one.std for one in totals),
        low=low, median=median, high=high,
        least=tuple(one.least for one in totals), most=tuple(one.most for one in totals),
        valid=tuple(one.known / max(one.all, 1) for one in totals),
        histogram=tuple(shares for _, shares in spread), samples=count,
    )  # fmt: skip


class _Draft:
    """The transform, before there are statistics."""

    def __init__(self, transform: Transform, softening: float) -> None:
        self._transform, self._softening = transform, softening

    def __call__(self, values: np.ndarray) -> np.ndarray:
        scaled = values / self._softening
        with np.errstate(divide="ignore", invalid="ignore"):
            match self._transform:
                case "log":
                    return np.asarray(np.log(scaled))
                case "arcsinh":
                    return np.asarray(np.arcsinh(scaled))
        return scaled


class _Sums:
    """Of one band: count, mean and squared deviations so far (Chan et al. 1979), smallest and largest value."""

    def __init__(self) -> None:
        self.all, self.known, self.mean, self.squares = 0, 0, 0.0, 0.0
        self.least, self.most = np.inf, -np.inf

    def add(self, values: np.ndarray, transform: _Draft) -> None:
        self.all += len(values)
        changed = transform(values)
        good = np.isfinite(changed)
        values, changed = values[good], changed[good]
        if not len(values):
            return
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        mean, count = float(changed.mean()), len(changed)
        shift, total = mean - self.mean, self.known + count
        self.squares += float(np.square(changed - mean).sum()) + shift**2 * self.known * count / total
        self.mean += shift * count / total
        self.known = total

    @property
    def std(self) -> float:
        return float(np.sqrt(self.squares / self.known))


def _check(name: str, total: _Sums, transform: str) -> None:
    what = f"band {name}" if name else "its values"
    if not total.known:
        why = "no value has a logarithm" if transform == "log" and total.all else "there is no value in any example"
        raise ValueError(f"{what}: {why}; see nodata, scale and transform of the sensor")
    if total.std <= SPREAD * max(abs(total.mean), 1e-30):
        raise ValueError(f"{what}: all values are {total.least:.6g}, which says nothing; leave it out (use)")


def _spread(values: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """The 2nd, 50th and 98th percentile, and the shares of values in equal parts between the outer two."""
    known = values[np.isfinite(values)]
    if not len(known):
        return (float("nan"),) * 3, (0.0,) * BINS
    low, median, high = (float(one) for one in np.percentile(known, (2, 50, 98)))
    counts = np.histogram(known, BINS, (low, high))[0]
    return (low, median, high), tuple((counts / len(known)).round(6).tolist())
