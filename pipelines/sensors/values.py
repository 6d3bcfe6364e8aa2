"""From what a file holds to a sensor's label: bands first or last, nodata, scale and offset, ids of classes.

Labels have native byte order and C order, whatever the file has. What is wrong is a ValueError, in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...modalities import NO_CLASS, Form
from ...sensors.reading import Reading
from ..specialists.members import maps
from . import grid, records

_EXACT_BYTES = 2  # integers of so many bytes are exact in float32


def label(found: Any, reading: Reading, beside: Mapping[str, Any] | None = None) -> Any:
    """The label of a sample.

    Args:
        found: what `readers.read` gives. beside: likewise what goes with it, by "weight" and "axis".

    Returns:
        float32 (H, W, bands) of a raster, (length, bands) of a series, NaN where there is no value; uint8 (H, W) of
        classes, 255 for none; float32 (n,) of numbers; records as of records.py.
    """
    if reading.form.is_record:
        return records.label(found, reading)
    if reading.form is Form.NUMBERS:
        return _numbers(found, reading)
    if reading.form is Form.CLASSES:
        return _classes(_checked(found, reading), reading)
    return weighed(found, reading, beside)[0]


def weighed(
    found: Any, reading: Reading, beside: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The label of a raster or a series, and the weights of its values, of its shape, 0 where there is none; None if
    all count alike. Arguments as of `label`."""
    beside = beside or {}
    values = _values(_bands_last(_checked(found, reading), reading), reading)
    weights = None
    if "weight" in beside:
        weights = _weights(beside["weight"], values.shape, reading)
        values[weights <= 0] = np.nan
    if not np.isfinite(values).any():
        raise ValueError("no pixel has a value: all are nodata, NaN or infinite")
    if reading.grid is not None:
        places = grid.positions(beside["axis"], reading)
        if len(places) != len(values):
            raise ValueError(f"{reading.axis_name}: {len(places)} places for {len(values)} values")
        values, known = grid.onto(values, places, reading.grid, weights)
        weights = None if weights is None else known
        if not np.isfinite(values).any():
            first, last = np.nanmin(places), np.nanmax(places)
            raise ValueError(f"no point of the grid has a value: {reading.axis_name} is {first:.6g} to {last:.6g}")
    return values, None if weights is None else np.where(np.isfinite(values), weights, 0).astype(np.float32)


def _weights(found: Any, shape: tuple[int, ...], reading: Reading) -> np.ndarray:
    """float64 of the label's shape, 0 where a weight is no number, or negative."""
    array = np.asarray(found)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"weight: {array.dtype.name}, expected an array of numbers")
    try:
        weights = _bands_last(array, reading)
    except ValueError as error:
        if array.ndim != len(shape) - 1:  # one for all bands
            raise ValueError(f"weight: {error}") from None
        weights = array[..., None]
    weights = weights.astype(np.float64)
    if weights.shape[:-1] != shape[:-1]:
        raise ValueError(f"weight: {weights.shape}, and the values are {shape}")
    return np.broadcast_to(np.where(np.isfinite(weights) & (weights > 0), weights, 0), shape)


def _checked(found: Any, reading: Reading) -> np.ndarray:
    """An array of numbers, of the dtype and shape that are declared. A masked one is a part of a file that was compared
    with them as a whole: NaN where it has none."""
    array = np.asarray(found) if not isinstance(found, np.ndarray) else found
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype.name}, expected an array of numbers")
    if isinstance(array, np.ma.MaskedArray):
        gaps = np.ma.getmaskarray(array)
        return np.where(gaps, np.nan, array.data) if gaps.any() else np.asarray(array.data)
    if reading.dtype is not None and array.dtype.newbyteorder("=") != np.dtype(reading.dtype):
        raise ValueError(f"{array.dtype.name}, and the recipe says {reading.dtype}")
    if reading.shape is not None and list(array.shape) != reading.shape:
        raise ValueError(f"{array.shape}, and the recipe says {tuple(reading.shape)}")
    if not array.size:
        raise ValueError(f"{array.shape}, which is empty")
    return array


def _bands_last(array: np.ndarray, reading: Reading) -> np.ndarray:
    """(H, W, bands) or (length, bands) of the bands that are kept; axes of 1 before the others (a time) are dropped."""
    is_series, found = reading.form is Form.SERIES, array.shape
    axes = 2 if is_series else 3
    while array.ndim > axes and array.shape[0] == 1:
        array = array[0]
    count, shape = len(reading.bands) or 1, f"{reading.length or 'n'}" if is_series else "H, W"
    stated = reading.axes
    if array.ndim == axes - 1 and count == 1:
        array, stated = array[..., None], "hwc"
    if array.ndim != axes:
        plain = f"({shape},)" if is_series else f"({shape})"
        bands = f"{count} bands: ({count}, {shape}) or ({shape}, {count})"
        raise ValueError(f"{found}, expected {plain if count == 1 else bands}")
    fits = {"chw": array.shape[0] == count, "hwc": array.shape[-1] == count}
    if is_series and reading.length is not None:
        rest = {"chw": array.shape[1:], "hwc": array.shape[:-1]}
        if not any(fits[one] and rest[one] == (reading.length,) for one in fits):
            plain = f"({shape},)" if count == 1 else f"({count}, {shape}) or ({shape}, {count})"
            raise ValueError(f"{found}, expected {plain}; see length, bands and axes")
        fits = {one: fits[one] and rest[one] == (reading.length,) for one in fits}
    if stated is None and all(fits.values()):
        raise ValueError(f"{array.shape}: the bands may be the first or the last axis; say axes: chw, or hwc")
    if not (fits[stated] if stated else any(fits.values())):
        where = {"chw": "first", "hwc": "last", None: "first or last"}[stated]
        swapped = " (the axes are the other way round; see axes)" if any(fits.values()) else ""
        raise ValueError(f"{array.shape}, expected {count} bands {where}; see bands{swapped}")
    last = np.moveaxis(array, 0, -1) if (stated or ("chw" if fits["chw"] else "hwc")) == "chw" else array
    return last[..., [reading.bands.index(name) for name in reading.use]] if reading.use else last


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
    found = maps.classes(np.ascontiguousarray(array, array.dtype.newbyteorder("=")), table, len(reading.class_names))
    if (found == NO_CLASS).all():
        raise ValueError("no pixel has a class: all are nodata, NaN or infinite")
    return found


def _numbers(found: Any, reading: Reading) -> np.ndarray:
    names = reading.fields or ([reading.field] if reading.field else [])
    if names and not isinstance(found, np.ndarray):  # a column of FITS is what its field names
        values = [records.number(records.field(found, name), name) for name in names]
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
