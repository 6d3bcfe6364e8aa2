"""The colour of an id: of a class in a picture of classes, of a token in a picture of tokens; and back."""

from __future__ import annotations

import numpy as np

from ..modalities import NO_CLASS

_GOLDEN = (0.6180339887, 0.7548776662, 0.5698402910)  # low-discrepancy steps: neighbouring ids get far colours


def id_colors(ids: np.ndarray) -> np.ndarray:
    """A stable colour for each id, whatever else is in the picture: integers (...) -> uint8 (..., 3)."""
    steps = np.asarray(ids, np.float64)[..., None] * np.array(_GOLDEN)
    hue, saturation, value = np.moveaxis(steps % 1.0, -1, 0)
    saturation, value = 0.25 + 0.4 * saturation, 0.45 + 0.5 * value
    # HSV to RGB as f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + h / 60 deg) mod 6, for n = 5, 3, 1.
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue[..., None]) % 6.0
    ramp = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    rgb: np.ndarray = value[..., None] * (1.0 - saturation[..., None] * ramp)
    return (rgb * 255 + 0.5).astype(np.uint8)


def class_table() -> np.ndarray:
    """The colours that class maps are drawn in, uint8 (256, 3): that of each class, and black for none (255)."""
    table = id_colors(np.arange(256))
    table[NO_CLASS] = 0
    return table


def classes_of_colors(pixels: np.ndarray, classes: int, tolerance: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The class of each pixel of a picture that is drawn in the colours of `class_table`.

    Args:
        pixels: uint8 (H, W, 3).
        classes: how many there are, from 0; only their colours, and that of none, are known.
        tolerance: how far a channel may be off, as in a picture that was saved as JPEG.

    Returns:
        uint8 (H, W), and bool (H, W): where the colour is that of no class.
    """
    known = np.array([*range(classes), NO_CLASS])
    table = class_table()[known].astype(np.int16)
    # A drawing has few colours: each is looked up once.
    colors, inverse = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    off = np.abs(colors[:, None].astype(np.int16) - table).max(axis=2) if len(colors) <= 4096 else None
    if off is None:  # a photo: nothing to look up
        return np.full(pixels.shape[:2], NO_CLASS, np.uint8), np.ones(pixels.shape[:2], bool)
    nearest = known[off.argmin(axis=1)].astype(np.uint8)
    unknown = off.min(axis=1) > tolerance
    shape = pixels.shape[:2]
    return nearest[inverse.reshape(-1)].reshape(shape), unknown[inverse.reshape(-1)].reshape(shape)
