"""What instruments see of a place: bands, radar, heights, a year of NDVI, a spectrum; and its biomass.

Everything follows from the ground by materials and their spectra, so that what one instrument sees says something of
what the others do.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from . import noise
from .ground import BARE, BUILT, CROPS, GRASS, TREES, WATER, Ground, Place

BANDS: Mapping[str, float] = {"B02": 490, "B03": 560, "B04": 665, "B08": 842, "B11": 1610, "B12": 2190}  # nm
POLARIZATIONS = ("VV", "VH")
WAVELENGTHS = np.linspace(400, 2_450, 128)  # nm, of the spectrum
WEEKS = 52
NO_REFLECTANCE, NO_HEIGHT = 0, -9_999  # nodata, as files of such instruments have it
NOISE = 0.25  # deviation of the logarithm of biomass around what the rasters say
_LOOKS = 6  # of the radar: the fewer, the more speckle
# Backscatter in dB, VV and VH, of each class; of trees that of seedlings, and what is added when they are tall.
_BACKSCATTER = {
    WATER: (-19, -27), TREES: (-11, -17.5), GRASS: (-13, -20.5), CROPS: (-11.5, -18.5), BUILT: (-4, -12.5),
    BARE: (-13, -21.5),
}  # fmt: skip
_TALL = (2.5, 6.0)


def materials(wavelengths: np.ndarray) -> np.ndarray:
    """Reflectance (6, n) of needles, leaves, soil, stone, water and snow."""

    def around(centre: float, width: float) -> np.ndarray:
        return np.exp(-np.square((wavelengths - centre) / width) / 2)

    red_edge = 1 / (1 + np.exp(-(wavelengths - 715) / 14))
    absorbed = 0.9 * around(1_450, 55) + 1.3 * around(1_940, 80) + 1.3 * np.clip((wavelengths - 1_250) / 1_250, 0, 1)
    rise = np.clip((wavelengths - 400) / 1_300, 0, 1)

    def plants(dark: float, bright: float, moisture: float) -> np.ndarray:
        visible = dark * (0.6 + around(550, 45))
        return np.asarray(visible * (1 - red_edge) + bright * red_edge * np.exp(-moisture * absorbed))

    return np.stack(
        [
            plants(0.03, 0.27, 1.5),
            plants(0.05, 0.45, 1.1),
            0.07 + 0.24 * rise - 0.04 * around(1_940, 80),
            0.13 + 0.12 * rise,
            0.05 * np.exp(-(wavelengths - 400) / 250) + 0.004,
            0.06 + (0.84 - 0.2 * rise) / (1 + np.exp((wavelengths - 1_250) / 90)),
        ]
    )


def amounts(ground: Ground) -> np.ndarray:
    """Shares (6, size, size) of the materials in each pixel."""
    cover, green = ground.cover, ground.green
    needles = np.where(cover == TREES, green * ground.needles, 0)
    stone = np.isin(cover, (BUILT, BARE)) * (1 - green)
    water = (cover == WATER).astype(float)
    soil = (1 - green - stone) * (1 - water)
    bare = np.stack([needles, green - needles, soil, stone, water])
    return np.concatenate([bare * (1 - ground.snow), ground.snow[None]])


def bands(rng: np.random.Generator, ground: Ground) -> np.ndarray:
    """uint16 (bands, size, size): reflectance in ten thousandths; 0 where clouds were taken out."""
    size = len(ground.cover)
    pure = np.einsum("mb,mhw->hwb", materials(np.array(list(BANDS.values()))), amounts(ground))
    lit = pure * (ground.shade * (1 - 0.25 * ground.wet * (1 - ground.green)))[..., None]  # wet soil is darker
    lit *= 1 + 0.04 * noise.fractal(rng, size, 1.0)[..., None]
    seen = cv2.GaussianBlur(lit, (3, 3), 0.6, borderType=cv2.BORDER_REFLECT)  # a pixel sees its neighbours
    seen = seen * rng.normal(1, 0.02, len(BANDS)) + rng.normal(0, 0.003, seen.shape)
    values = np.clip(np.rint(seen * 10_000), 1, 10_000).astype(np.uint16)
    if rng.uniform() < 0.35:
        clouds = noise.fractal(rng, size, 1.8)
        values[clouds > np.quantile(clouds, 1 - rng.uniform(0.02, 0.3))] = NO_REFLECTANCE
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def radar(rng: np.random.Generator, ground: Ground) -> np.ndarray:
    """float32 (2, size, size): backscatter in dB, with speckle; NaN where the strip of an orbit ends."""
    size = len(ground.cover)
    levels = np.array([_BACKSCATTER[one] for one in sorted(_BACKSCATTER)], float)[ground.cover]
    levels += ground.stock[..., None] * _TALL + (ground.cover != WATER)[..., None] * 3 * (ground.wet[..., None] - 0.5)
    power = 10 ** (levels / 10) * ground.facing[..., None]
    power = cv2.GaussianBlur(power, (3, 3), 0.6, borderType=cv2.BORDER_REFLECT)
    power *= rng.gamma(_LOOKS, 1 / _LOOKS, power.shape)
    values = (10 * np.log10(np.maximum(power, 1e-4)) + rng.normal(0, 0.3, 2)).astype(np.float32)
    if rng.uniform() < 0.1:
        along, _ = noise.turned(rng, size)
        values[along > size * rng.uniform(0.2, 0.45)] = np.nan
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def heights(rng: np.random.Generator, ground: Ground) -> np.ndarray:
    """float32 (size, size): metres, to within about one; -9999 where the radar that measured them saw nothing."""
    size = len(ground.height)
    values = (ground.height + rng.normal(0, 0.7, (size, size))).astype(np.float32)
    if rng.uniform() < 0.15:
        hidden = noise.fractal(rng, size, 1.6) + 2 * np.minimum(ground.slope, 1)
        values[hidden > np.quantile(hidden, 1 - rng.uniform(0.005, 0.05))] = NO_HEIGHT
    return values


def year(rng: np.random.Generator, ground: Ground, where: Place) -> np.ndarray:
    """float32 (52,): the NDVI of the whole place in each week; NaN where clouds were over it."""
    shares = ground.shares()
    week = np.arange(WEEKS) + 0.5
    # Spring comes later in the north and higher up, autumn earlier.
    late = 0.18 * (where.lat - 50) + 0.004 * (float(ground.height.mean()) - 400)
    spring, autumn = 15 + late + rng.normal(0, 0.7), 42 - 0.6 * late + rng.normal(0, 0.7)

    def season(start: float, end: float, speed: float) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-(week - start) / speed)) - 1 / (1 + np.exp(-(week - end) / speed)))

    stock = float(ground.stock[ground.cover == TREES].mean()) if shares[TREES] else 0.0
    curves = {
        WATER: np.full(WEEKS, -0.15), TREES: 0.45 + 0.2 * stock + (0.35 - 0.2 * stock) * season(spring, autumn, 1.8),
        GRASS: 0.25 + 0.4 * season(spring - 1, autumn + 1, 2.2),
        CROPS: 0.18 + 0.65 * season(spring + 2, 33 + late / 2, 1.4),
        BUILT: 0.12 + 0.06 * season(spring, autumn, 2), BARE: 0.06 + 0.03 * season(spring, autumn, 2),
    }  # fmt: skip
    values = sum(shares[one] * curve for one, curve in curves.items()) + rng.normal(0, 0.02, WEEKS)
    clouded = rng.uniform(size=WEEKS) < 0.1 + 0.25 * (np.abs(week - 28) > 16)
    return np.where(clouded, np.nan, values).astype(np.float32)


def spectrum(rng: np.random.Generator, ground: Ground) -> np.ndarray:
    """float32 (128,): reflectance of the whole place at WAVELENGTHS."""
    shares = amounts(ground).mean((1, 2))
    values = shares @ materials(WAVELENGTHS) * rng.normal(1, 0.03) + rng.normal(0, 0.004, len(WAVELENGTHS))
    return np.maximum(values, 0).astype(np.float32)


def expected_biomass(bands: np.ndarray, radar: np.ndarray, heights: np.ndarray) -> float:
    """Mg/ha of a place: what its rasters say, as they are stored.

    The mean, over the pixels that all three know, of 5 + 330 v g exp(-height / 2500 m), where
    v = 1 / (1 + exp(-(VH + 14.5 dB) / 1.2 dB)) is how much there is for the radar to see, and
    g = (NDVI - 0.3) / 0.4, between 0 and 1, whether it is green.
    """
    known = (bands != NO_REFLECTANCE).all(0) & np.isfinite(radar).all(0) & (heights != NO_HEIGHT)
    red, infrared = (bands[list(BANDS).index(name)][known] / 10_000 for name in ("B04", "B08"))
    cross, high = (values[known].astype(np.float64) for values in (radar[POLARIZATIONS.index("VH")], heights))
    volume = 1 / (1 + np.exp(-(cross + 14.5) / 1.2))
    leaves = np.clip(((infrared - red) / (infrared + red) - 0.3) / 0.4, 0, 1)
    return float(np.mean(5 + 330 * volume * leaves * np.exp(-high / 2_500)))


def biomass(rng: np.random.Generator, expected: float) -> float:
    """Mg/ha as a field crew finds it: what the rasters say is right on average, and each time off by a factor."""
    return float(expected * np.exp(NOISE * rng.standard_normal() - NOISE**2 / 2))


def explainable(count: int, total: float, squares: float) -> float:
    """The share of the variance of biomass that its rasters explain, at best, over some places.

    Args:
        total, squares: sums over the places of what their rasters say, and of its squares.
    """
    signal = squares / count - (total / count) ** 2
    return signal / (signal + squares / count * (np.exp(NOISE**2) - 1))
