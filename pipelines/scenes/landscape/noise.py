"""Random fields of a place: fractals, curves that wind through it, and parcels of land."""

from __future__ import annotations

import numpy as np


def fractal(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Noise (size, size) whose amplitude falls with frequency^-exponent: 1 is rough, 2 as smooth as hills.

    Over all places it has mean 0 and deviation 1; a place is a part of it, and may lie high or low.
    """
    whole = 2 * size  # what the transform makes is periodic, and a place is not
    frequency = np.hypot(np.fft.fftfreq(whole)[:, None], np.fft.rfftfreq(whole)) * whole
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((whole, whole))) * frequency**-exponent, s=(whole, whole))
    return np.asarray(field[:size, :size] / field.std())


def turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (size, size) along and across a random direction, in pixels from the middle."""
    down, across = np.mgrid[0:size, 0:size] - (size - 1) / 2
    angle = rng.uniform(0, np.pi)
    return np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across


def winding(rng: np.random.Generator, along: np.ndarray, across: np.ndarray, offset: float) -> np.ndarray:
    """Distance of each pixel, in pixels, from a curve that runs along a direction and bends.

    Args:
        offset: of the curve from the middle, in pixels.
    """
    size = len(along)
    bends, steepness = np.full_like(along, offset), np.zeros_like(along)
    for wave in range(1, 5):
        height, turn = size * 0.1 * rng.uniform(0.2, 1) / wave**1.4, 2 * np.pi * wave / (1.3 * size)
        phase = turn * along + rng.uniform(0, 2 * np.pi)
        bends += height * np.sin(phase)
        steepness += height * turn * np.cos(phase)
    return np.asarray(np.abs(across - bends) / np.hypot(1, steepness))


def parcels(rng: np.random.Generator, size: int, width: float) -> np.ndarray:
    """Pieces of land in rows, as fields lie: numbers (size, size), from 0 on.

    Args:
        width: of a row, in pixels, on average; a parcel is about one and a half times as long.
    """
    along, across = turned(rng, size)
    bent = fractal(rng, size, 2.2)  # borders are no rulers
    along, across = along + 1.2 * bent, across + 1.2 * bent
    cuts = np.cumsum(width * rng.uniform(0.6, 1.5, int(3 * size / width) + 2)) - 1.5 * size
    row = np.searchsorted(cuts, across)
    lengths = 1.5 * width * rng.uniform(0.6, 1.6, len(cuts) + 1)
    starts = rng.uniform(0, 4 * width, len(cuts) + 1)
    column = np.floor((along + starts[row]) / lengths[row]).astype(np.int64)
    return np.unique(row * 10_000 + column, return_inverse=True)[1].reshape(size, size)


def means(field: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The mean of a field over each parcel, (parcels,)."""
    counts = np.bincount(numbers.ravel())
    return np.asarray(np.bincount(numbers.ravel(), field.ravel()) / counts)
