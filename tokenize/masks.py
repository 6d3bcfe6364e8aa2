"""Binary masks: COCO's run-length form, and windows of a mask at another size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask, bool or integers (H, W), non-zero inside, as COCO's compressed run-length encoding.

    Returns:
        {"size": [H, W], "counts": ASCII}, which JSON can say.
    """
    from pycocotools import mask as rle

    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"mask: got shape {mask.shape}; expected (H, W), not empty")
    code = rle.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(code: Mapping[str, Any]) -> np.ndarray:
    """The mask of a run-length encoding, uint8 (H, W), 0 or 1; ValueError if it is none or its runs miss H x W.

    Not by pycocotools, which leaves memory as it was where the runs of a damaged code end too early.
    """
    try:
        height, width = (int(side) for side in code["size"])
        runs = _runs(code["counts"].encode("ascii"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"mask: got {str(code)[:80]!r}; expected {{'size': [H, W], 'counts': ASCII}}") from error
    if height < 1 or width < 1 or min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"mask: got runs over {sum(runs)} pixels; expected {height} x {width}")
    inside = np.arange(len(runs), dtype=np.uint8) & 1  # runs alternate, and the first is outside of the mask
    return np.repeat(inside, runs).reshape(width, height).T  # COCO counts column by column


def _runs(counts: bytes) -> list[int]:
    """Lengths of the runs. ValueError if they are cut.

    A number is written low bits first, in characters 48 + c of six bits: five of value; the sixth says that more
    follow; the fifth of the last one is the sign. From the fourth run on, it is the difference to the run before the
    last.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the last number is cut")
    return runs


def resample(mask: np.ndarray, window: tuple[float, float, float, float], size: int) -> np.ndarray:
    """How much of each cell of a window a mask covers, float32 (size, size) in [0, 1]; exact for windows of any size.

    Args:
        mask: 0 or 1, (H, W).
        window: left, top, right, bottom in pixels of the mask, not necessarily whole; what lies outside is empty.
        size: cells along each side of the window.
    """
    left, top, right, bottom = window
    height, width = mask.shape
    # Only the pixels that the window touches: an instance's box is a small part of its image.
    rows = slice(max(math.floor(top), 0), min(math.ceil(bottom), height))
    columns = slice(max(math.floor(left), 0), min(math.ceil(right), width))
    # Areas of a grid are products of lengths, so that two thin matrices do all cells at once.
    down = _overlaps(top, bottom, rows, size)
    across = _overlaps(left, right, columns, size)
    return down @ mask[rows, columns].astype(np.float32) @ across.T


def _overlaps(start: float, stop: float, pixels: slice, size: int) -> np.ndarray:
    """How much of each of `size` equal cells of [start, stop) each pixel covers, float32 (size, pixels) in [0, 1]."""
    edges = np.linspace(start, stop, size + 1)[:, None]
    first = np.arange(pixels.start, pixels.stop)
    overlap = np.minimum(edges[1:], first + 1) - np.maximum(edges[:-1], first)
    shares: np.ndarray = np.maximum(overlap, 0) * (size / (stop - start))
    return shares.astype(np.float32)
