"""The two colour maps of the pictures, as tables: (256, 3) uint8, the same bytes as Matplotlib's."""

from __future__ import annotations

import functools

import cv2
import numpy as np

# ColorBrewer's RdBu from its blue end, 11 colours that the map passes through at equal steps.
_BLUE_TO_RED = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247), (253, 219, 199),
    (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
)  # fmt: skip


@functools.cache
def inferno() -> np.ndarray:
    """Perceptually even, from dark to bright."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).reshape(256, 3)


@functools.cache
def blue_to_red() -> np.ndarray:
    """Diverging: blue, white in the middle, red (RdBu, reversed)."""
    places, steps = np.arange(256) / 255, np.linspace(0, 1, len(_BLUE_TO_RED))
    channels = [np.interp(places, steps, channel) for channel in zip(*_BLUE_TO_RED, strict=True)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def colored(shares: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1], (...), as colours of a table, uint8 (..., 3)."""
    return table[np.minimum((shares * len(table)).astype(np.int64), len(table) - 1)]
