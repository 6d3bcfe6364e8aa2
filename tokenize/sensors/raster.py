"""Rasters of a sensor in the frame of a crop: pixels without a value are no part of any average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...modalities import LABELS, OF_NO_PLACE, Form, Size, height_width
from ..crops import Crop, Resample, apply, crops

_LEAST = 0.5  # share of a resampled pixel that must have a value, or it has none
_AT_ONCE = 4  # channels that OpenCV resamples together, whatever the method


@dataclass(frozen=True)
class Drawing:
    """How crops are drawn: the dataset's seed, and a recipe's `images`."""

    seed: int
    count: int
    scale: tuple[float, float]
    hflip: float

    def windows(self, key: str, size: tuple[int, int], shape: Size = 1) -> list[Crop]:
        """The crops of a sample in a frame of (width, height) pixels; `shape` as of `crops`."""
        return crops(self.seed, key, *size, self.count, scale=self.scale, hflip=self.hflip, shape=shape)


def frame_of(label: str, value: Any) -> tuple[int, int]:
    """(width, height) of a sensor's label, or of one that has no image beside it: a map's own, (1, 1) of what has no
    place, (0, 0) of what only an image gives one.

    Crops of two sensors of one place are the same part of it up to a pixel of the coarser one: what is drawn are shares
    of the frame.
    """
    form = LABELS[label].form
    if form in OF_NO_PLACE or (form.is_record and form is not Form.RECORD):
        return (1, 1)
    return (0, 0) if form in (Form.RECORD, Form.SEQUENCE) else (value.shape[1], value.shape[0])


def window(value: np.ndarray, crop: Crop, size: Size) -> np.ndarray:
    """A raster (H, W, n) in a crop of its own frame: float32 (h, w, n) of a size, NaN where there is no value."""
    there = np.isfinite(value)
    if there.all():
        return _resampled(value, crop, size)
    share = _resampled(there.astype(np.float32), crop, size)
    total = _resampled(np.where(there, value, 0).astype(np.float32), crop, size)
    return np.where(share >= _LEAST, total / np.maximum(share, 1e-6), np.nan).astype(np.float32)


def _resampled(value: np.ndarray, crop: Crop, size: Size) -> np.ndarray:
    parts: Sequence[np.ndarray] = [
        apply(crop, np.ascontiguousarray(value[..., i : i + _AT_ONCE], np.float32), size, Resample.LINEAR)
        for i in range(0, value.shape[2], _AT_ONCE)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def check_upright(what: str, value: np.ndarray, size: Size) -> None:
    """ValueError if a map has the shape of a size that is no square, with height and width exchanged."""
    high, wide = height_width(size)
    if high != wide and value.shape[0] * high == value.shape[1] * wide:
        raise ValueError(
            f"{what}: {value.shape[0]} x {value.shape[1]} pixels, and its size is {high} x {wide}: height and width "
            "are exchanged"
        )


def check_some(what: str, values: np.ndarray) -> None:
    """ValueError if a crop has no value at all."""
    if not np.isfinite(values).any():
        raise ValueError(f"{what}: no pixel of the crop has a value")
