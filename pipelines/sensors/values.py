"""From what a file holds to a sensor's label: bands first or last, nodata, scale and offset, ids of classes.

Labels have native byte order and C order, whatever the file has. What is wrong is a ValueError, in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...modalities import NO_CLASS, Form
from ...sensors import Reading
from ..specialists.members import maps

_EXACT_BYTES = 2  # integers of so many bytes are exact in float32


def label(found: Any, reading: Reading) -> np.ndarray:
    """The label of a sample.

    Args:
        found: what `readers.read` gives.

    Returns:
        float32 (H, W, bands) of a raster, (length, bands) of a series, NaN where there is no value; uint8 (H, W) of
        classes, 255 for none; float32 (n,) of numbers.
    """
    if reading.form is Form.NUMBERS:
        return _numbers(found, reading)
    array = _checked(found, reading)
    if reading.form is Form.CLASSES:
        return _classes(array, reading)
    if reading.form is Form.SERIES:
        values = _values(_series(array, reading), reading)
    else:
        values = _values(_bands_last(array, reading), reading)
    if not np.isfinite(values).any():
        raise ValueError("no pixel has a value: all are nodata, NaN or infinite")
    return values


def _checked(found: Any, reading: Reading) -> np.ndarray:
    """An array of numbers, of the dtype and shape that are declared."""
    array = np.asarray(found) if not isinstance(found, np.ndarray) else found
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype.name}, expected an array of numbers")
    if reading.dtype is not None and array.dtype.newbyteorder("=") != np.dtype(reading.dtype):
        raise ValueError(f"{array.dtype.name}, and the recipe says {reading.dtype}")
    if reading.shape is not None and list(array.shape) != reading.shape:
        raise ValueError(f"{array.shape}, and the recipe says {tuple(reading.shape)}")
    if not array.size:
        raise ValueError(f"{array.shape}, which is empty")
    return array


def _bands_last(array: np.ndarray, reading: Reading) -> np.ndarray:
    """(H, W, bands) of the bands that are kept; axes of 1 before the others (a time) are dropped."""
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    count = len(reading.bands) or 1
    if array.ndim == 2 and count == 1:
        return array[..., None]
    if array.ndim != 3:
        expected = "(H, W)" if count == 1 else f"{count} bands: ({count}, H, W) or (H, W, {count})"
        raise ValueError(f"{array.shape}, expected {expected}")
    first, last = array.shape[0] == count, array.shape[2] == count
    if reading.axes is None and first and last:
        raise ValueError(f"{array.shape}: the bands may be the first or the last axis; say axes: chw, or hwc")
    if not (first if reading.axes == "chw" else last if reading.axes == "hwc" else first or last):
        where = {"chw": "first", "hwc": "last", None: "first or last"}[reading.axes]
        swapped = " (the axes are the other way round; see axes)" if (first or last) else ""
        raise ValueError(f"{array.shape}, expected {count} bands {where}; see bands{swapped}")
    bands = np.moveaxis(array, 0, -1) if (reading.axes or ("chw" if first else "hwc")) == "chw" else array
    return bands[..., [reading.bands.index(name) for name in reading.use]] if reading.use else bands


def _series(array: np.ndarray, reading: Reading) -> np.ndarray:
    """(length, bands) of the bands that are kept."""
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    count, length, found = len(reading.bands) or 1, reading.length, array.shape
    if array.ndim == 1 and count == 1:
        array = array[:, None]
    shapes = {"chw": (count, length), "hwc": (length, count)}
    fits = [axes for axes, shape in shapes.items() if array.shape == shape and reading.axes in (None, axes)]
    if not fits:
        expected = f"({length},)" if count == 1 else f"({count}, {length}) or ({length}, {count})"
        raise ValueError(f"{found}, expected {expected}; see length, bands and axes")
    if len(fits) > 1 and count > 1:
        raise ValueError(f"{array.shape}: the bands may be the first or the last axis; say axes: chw, or hwc")
    series = array.T if fits[-1] == "chw" else array
    return series[:, [reading.bands.index(name) for name in reading.use]] if reading.use else series


def _values(array: np.ndarray, reading: Reading) -> np.ndarray:
    """float32 in the sensor's unit, NaN where there is none."""
    none = np.zeros(array.shape, bool)
    for value in reading.nodata:
        # Of integers one that the type cannot hold is no value of the file.
        if not math.isnan(value) and (array.dtype.kind == "f" or float(value).is_integer()):
            none |= array == np.asarray(value).astype(array.dtype if array.dtype.kind == "f" else np.float64)
    exact = array.dtype.kind in "biu" and array.dtype.itemsize <= _EXACT_BYTES
    values: np.ndarray = array.astype(np.float32 if exact else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if reading.scale != 1 or reading.offset:
            values = values * reading.scale + reading.offset
        values = np.ascontiguousarray(values, np.float32)
    values[none | ~np.isfinite(values)] = np.nan
    return values


def _classes(array: np.ndarray, reading: Reading) -> np.ndarray:
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise ValueError(f"{array.shape}, expected ids of classes (H, W)")
    if array.dtype.kind == "f":
        whole = np.where(np.isfinite(array), array, -1)
        if (whole != np.round(whole)).any() or np.abs(whole).max() > 0xFFFF:
            raise ValueError(f"{array.dtype.name} with values that are no whole numbers, expected ids of classes")
        array = np.where(np.isfinite(array), array, NO_CLASS).astype(np.int32)
    ids = reading.ids
    table = {NO_CLASS: NO_CLASS} | ids | {int(value): NO_CLASS for value in reading.nodata}
    negative = [int(value) for value in reading.nodata if value < 0]
    if negative:
        array = np.where(np.isin(array, negative), NO_CLASS, array.astype(np.int64))
    if NO_CLASS in ids and negative:
        raise ValueError(f"the class {NO_CLASS} and a negative nodata; give the file's id {NO_CLASS} another number")
    return maps.classes(np.ascontiguousarray(array, array.dtype.newbyteorder("=")), table, len(reading.class_names))


def _numbers(found: Any, reading: Reading) -> np.ndarray:
    names = reading.fields or ([reading.field] if reading.field else [])
    if names:
        values = [_number(found, name) for name in names]
    else:
        array = _checked(found, reading)
        if array.size != reading.width:
            raise ValueError(f"{array.shape}, expected {reading.width} numbers")
        values = [float(value) for value in array.reshape(-1)]
    lacking = [str(i) for i, value in enumerate(values) if not math.isfinite(value) or value in reading.nodata]
    if lacking:
        what = ", ".join(names[int(i)] for i in lacking) if names else f"number {', '.join(lacking)}"
        raise ValueError(f"{what}: there is no value (missing, nodata, NaN or infinite)")
    return np.array([value * reading.scale + reading.offset for value in values], np.float32)


def _number(found: Any, name: str) -> float:
    """A field of a JSON, dotted where objects lie in each other; NaN if it is missing or null."""
    value = found
    for part in name.split("."):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: {type(value).__name__}, expected an object")
        value = value.get(part)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r:.60}, expected a number")
    return float(value)
