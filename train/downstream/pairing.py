"""Which sample's input a sample is given, to see what a model says without looking."""

from __future__ import annotations

import numpy as np


def others(count: int, seed: int) -> np.ndarray:
    """For each of `count` samples another one, each of them once: int64 (count,). ValueError for fewer than 2."""
    if count < 2:
        raise ValueError(f"got {count} samples, expected at least 2 to give one the input of another")
    # One cycle through all samples: nobody meets itself.
    cycle = np.random.default_rng(seed).permutation(count)
    paired = np.empty(count, np.int64)
    paired[cycle] = np.roll(cycle, -1)
    return paired
