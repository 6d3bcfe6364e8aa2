"""From what a file holds to a sensor's record: coordinates, a time, a catalogue. What is wrong is a ValueError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from ...modalities import Form
from ...sensors.parts import EARTH
from ...sensors.reading import Reading
from ...tokenize.text import sensor_sentences

_TURN = 360.0  # degrees
_LACKING = object()
_EPOCH = datetime(1970, 1, 1)


def label(found: Any, reading: Reading) -> Any:
    """The label of a sample, as `Form` says it.

    Args:
        found: what `readers.read` gives; of several arrays of a file a mapping by their names.
    """
    if reading.form is Form.COORDINATES:
        return _place(found, reading)
    if reading.form is Form.TIME:
        return sensor_sentences.time_label(moment(found, reading), reading.hour)
    return _catalogue(found, reading)


def _place(found: Any, reading: Reading) -> dict[str, float]:
    if reading.fields:
        values = [number(field(found, name), name) for name in reading.fields]
    else:
        array = np.asarray(found)
        if array.dtype.kind not in "iuf" or array.size != len(reading.names):
            raise ValueError(f"{array.dtype.name} {array.shape}, expected two numbers: {', '.join(reading.names)}")
        values = [float(value) for value in array.reshape(-1)]
    place = {}
    for name, value in zip(reading.names, values, strict=True):
        if not math.isfinite(value) or value in reading.nodata:
            raise ValueError(f"{name}: there is no value (missing, nodata, NaN or infinite)")
        value, (low, high) = value * reading.scale + reading.offset, reading.limits[name]
        if reading.wrap and name == reading.names[0] and not low <= value <= high:
            value = (value - low) % _TURN + low
        if not low <= value <= high:
            turned = (low, high) == EARTH[0]
            more = "wrap: true counts on from the other end" if turned else "see ranges, scale and offset"
            raise ValueError(f"{name} is {value:g}, expected {low:g} to {high:g}; {more}")
        place[name] = value
    return place


def moment(found: Any, reading: Reading) -> datetime:
    """A time in UTC: ISO 8601, NumPy's, or seconds since 1970 after scale and offset."""
    what = reading.field or reading.array or "the time"
    is_column = isinstance(found, np.ndarray)  # of FITS: what the field names
    value = field(found, reading.field) if reading.field and not is_column else found
    if isinstance(value, np.ndarray | np.generic | list):
        array = np.asarray(value)
        if array.size != 1:
            raise ValueError(f"{what}: {array.size} values, expected one time")
        value = array.reshape(-1)[0]
    if value is None:
        raise ValueError(f"{what}: there is no value")
    try:
        if isinstance(value, np.datetime64):
            if np.isnat(value):
                raise ValueError(f"{what}: there is no value (NaT)")
            return _EPOCH + timedelta(microseconds=int(value.astype("datetime64[us]").astype(np.int64)))
        if isinstance(value, str):
            return _iso(value, what)
        if isinstance(value, date):
            return _iso(value.isoformat(), what)
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise ValueError(f"{what} is {value!r:.60}, expected ISO 8601, or seconds since 1970")
        if not math.isfinite(value) or float(value) in reading.nodata:
            raise ValueError(f"{what}: there is no value (nodata, NaN or infinite)")
        return _EPOCH + timedelta(seconds=float(value) * reading.scale + reading.offset)
    except OverflowError:
        raise ValueError(f"{what} is {value}, which is no time in seconds since 1970; see scale and offset") from None


def _iso(text: str, what: str) -> datetime:
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{what} is {text!r:.60}, expected ISO 8601, such as 2021-05-03T10:20:00Z") from None
    return when if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None)


def _catalogue(found: Any, reading: Reading) -> list[dict[str, float | None]]:
    rows = [dict(zip(reading.names, row, strict=True)) for row in _table(found, reading).tolist()]
    order = [name.removeprefix("-") for name in reading.order_by]
    if len(order) == 1:
        sign = -1 if reading.order_by[0].startswith("-") else 1
        rows.sort(key=lambda row: _last(sign * row[order[0]]))
    elif order:
        rows.sort(key=lambda row: _last(math.dist([row[name] for name in order], reading.centre)))
    known = [{name: None if math.isnan(value) else value for name, value in row.items()} for row in rows]
    return [row for row in known if any(value is not None for value in row.values())][: reading.rows]


def _last(value: float) -> float:
    """What has no value comes after all that has one."""
    return math.inf if math.isnan(value) else value


def _table(found: Any, reading: Reading) -> np.ndarray:
    """float64 (n, fields), NaN where there is no value: of a list of records, of columns by name, or of an array."""
    if reading.field and isinstance(found, Mapping):
        found = field(found, reading.field)
    width = len(reading.fields)
    if isinstance(found, Mapping):
        columns = [np.ravel(np.array(_column(found, name), np.float64)) for name in reading.fields]
        sizes = {len(column) for column in columns}
        if len(sizes) > 1:
            raise ValueError(f"columns of {' and '.join(map(str, sorted(sizes)))} values, expected equally many")
        table = np.stack(columns, axis=1)
    elif isinstance(found, np.ndarray):
        if found.dtype.kind not in "iuf" or found.ndim != 2 or found.shape[1] != width:
            raise ValueError(
                f"{found.dtype.name} {found.shape}, expected numbers (n, {width}): {', '.join(reading.fields)}"
            )
        table = found.astype(np.float64)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        if wrong := [row for row in found if not isinstance(row, Mapping)]:
            raise ValueError(f"a row is {wrong[0]!r:.60}, expected an object of {', '.join(reading.fields)}")
        lacking = [name for name in reading.fields if all(field(row, name, _LACKING) is _LACKING for row in found)]
        if found and lacking:
            raise ValueError(
                f"no row has the field {lacking[0]}; the first has {', '.join(map(str, list(found[0])[:8]))}"
            )
        table = np.array([[number(field(row, name), name) for name in reading.fields] for row in found], np.float64)
    else:
        raise ValueError(f"{type(found).__name__}, expected a list of objects of {', '.join(reading.fields)}")
    table = table.reshape(-1, width)
    table[~np.isfinite(table) | np.isin(table, reading.nodata)] = np.nan
    return table


def _column(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        raise ValueError(f"there is no column {name}; it has {', '.join(map(str, list(found)[:8])) or 'none'}")
    return [math.nan if value is None else value for value in np.asarray(found[name], object).reshape(-1).tolist()]


def field(found: Any, name: str, default: Any = None) -> Any:
    """A field, dotted where objects lie in each other; `default` if it is missing."""
    value = found
    if isinstance(found, Mapping) and name in found:
        return found[name]
    for part in name.split("."):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: {type(value).__name__}, expected an object")
        if part not in value:
            return default
        value = value[part]
    return value


def number(value: Any, name: str) -> float:
    """NaN if it is missing or null."""
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).size == 1:
        value = np.asarray(value).reshape(-1)[0].item()
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r:.60}, expected a number")
    return float(value)
