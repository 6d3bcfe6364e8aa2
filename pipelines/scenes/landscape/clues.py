"""How much bands and radar say of the heights of a place: a fit by least squares, which needs sums alone.

Heights follow from no formula of the rasters, as biomass does. What a fit on a few signs of height explains can be
known for certain; a model that sees more may know more.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .instruments import BANDS, NO_HEIGHT, NO_REFLECTANCE

SIGNS = (
    "snow", "snow, squared", "bare", "green", "NDVI of the green", "B11 over B08 of the green", "water",
    "shading of B08", "shading of B11", "VV by slope", "VH",
)  # fmt: skip
_LEAST = 16  # pixels of which a mean is taken
_PLACES_A_SIGN = 5  # fewer places fit by chance


def signs(bands: np.ndarray, radar: np.ndarray) -> np.ndarray:
    """SIGNS of a place (n,), of its rasters as they are stored; NaN if too little of it was seen."""
    seen = (bands != NO_REFLECTANCE).all(0) & np.isfinite(radar).all(0)
    if seen.sum() < _LEAST:
        return np.full(len(SIGNS), np.nan)
    values = dict(zip(BANDS, bands / 10_000, strict=True))
    ndvi = (values["B08"] - values["B04"]) / np.maximum(values["B08"] + values["B04"], 1e-4)
    snow = seen & ((values["B03"] - values["B11"]) > 0.4 * (values["B03"] + values["B11"])) & (values["B08"] > 0.15)
    green, water = seen & (ndvi > 0.45), seen & (values["B11"] < 0.06)
    bare = seen & (ndvi < 0.25) & ~snow & ~water
    shares = [float(one.sum() / seen.sum()) for one in (snow, bare, green, water)]

    def mean(of: np.ndarray, where: np.ndarray) -> float:
        return float(of[where].mean()) if where.sum() >= _LEAST else 0.0

    def spread(of: np.ndarray, where: np.ndarray) -> float:
        return float(np.log(of[where]).std()) if where.sum() >= _LEAST else 0.0

    land = seen & ~water
    power = cv2.blur(np.where(seen, 10 ** (np.where(seen, radar[0], 0) / 10), 0), (5, 5))  # speckle is averaged
    of_look = power / np.maximum(cv2.blur(seen.astype(np.float64), (5, 5)), 0.04)
    return np.array(
        [
            shares[0], shares[0] ** 2, shares[1], shares[2], mean(ndvi, green),
            mean(values["B11"] / np.maximum(values["B08"], 1e-4), green), shares[3],
            spread(values["B08"], land), spread(values["B11"], land), spread(np.maximum(of_look, 1e-6), land),
            mean(radar[1], seen),
        ]
    )  # fmt: skip


def products(bands: np.ndarray, radar: np.ndarray, heights: np.ndarray) -> np.ndarray | None:
    """What a place adds to the sums of the fit: products of 1, its signs and its mean height, (signs + 2, signs + 2);
    None of one whose signs or heights are not known.
    """
    known = signs(bands, radar)
    there = heights[heights != NO_HEIGHT]
    if not len(there) or not np.isfinite(known).all():
        return None
    row = np.concatenate([[1.0], known, [float(there.mean()) / 1_000]])
    return np.outer(row, row)


def explained(sums: np.ndarray) -> float | None:
    """The share of the variance of heights among places that the fit explains, less what it would by chance.

    Args:
        sums: of `products`.

    None if there are too few places to say.
    """
    count, signs_, total, squares = sums[0, 0], sums[:-1, :-1], sums[:-1, -1], sums[-1, -1]
    free = count - len(SIGNS) - 1
    variance = squares - total[0] ** 2 / max(count, 1)
    if count < _PLACES_A_SIGN * len(SIGNS) or variance <= 0:
        return None
    fit = np.linalg.lstsq(signs_, total, rcond=None)[0]
    left = squares - fit @ total
    return float(1 - (left / free) / (variance / (count - 1)))


def added(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    """The sum of the products of some places."""
    return np.sum([np.zeros((len(SIGNS) + 2,) * 2), *(one for one in parts if one is not None)], axis=0)
