"""Files of a user's own instruments as a person gives them: read as the labels that the sensor's members give."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from ...modalities import Form
from ...sensors.declared import SENSORS
from ...sensors.reading import Reading
from ..geo import located
from ..geo.georeference import Located
from ..sensors import readers, values
from .given import Given, Mistake, file_bytes, is_path

_NUMBERS = re.compile(r"\s*[-+.\d][-+.\deE\s,]*")  # "12.5", or several with commas


def suffixes() -> tuple[str, ...]:
    """The ends of files that hold what a sensor measures."""
    return tuple(dict.fromkeys(f".{kind.rpartition('.')[2]}" for kind in readers.READERS))


def read(label: str, given: Any) -> Given:
    """A label of a sensor: from a file of any kind that is read, whatever its members are, from an array, or, of
    numbers, from the numbers themselves.

    Raises:
        Mistake: it cannot be read, or is no such label.
    """
    sensor = SENSORS[label]
    reading = sensor.reading()
    place: Located | None = None
    if sensor.form is Form.NUMBERS and (said := _numbers(given)) is not None:
        if len(said) != sensor.width or not np.isfinite(said).all():
            raise Mistake(f"got {len(said)} numbers, expected {sensor.width}, in {sensor.unit or 'its unit'}")
        return Given(said)
    try:
        if is_path(given):
            name = os.fspath(given)
            data = file_bytes(given)
            found = readers.read(data, _as_named(reading, name), sensor.unit)
            place = located.of_file(name, data)
        else:
            found = np.asanyarray(given)  # a part of a file may be masked
        value = values.label(found, reading)
    except Mistake:
        raise
    except (ValueError, ImportError) as error:
        raise Mistake(str(error)) from None
    framed = sensor.form in (Form.RASTER, Form.CLASSES)
    return Given(value, (value.shape[1], value.shape[0]) if framed else None, place=place)


def _numbers(given: Any) -> np.ndarray | None:
    """Numbers in the sensor's own unit that a person wrote, or has in memory; None of anything else."""
    if isinstance(given, str) and _NUMBERS.fullmatch(given):
        try:
            return np.array([float(one) for one in given.split(",")], np.float32)
        except ValueError:
            return None
    return None if is_path(given) else np.asarray(given, np.float32).reshape(-1)


def _as_named(reading: Reading, name: str) -> Reading:
    """The reading of a file of this name: another kind of file may hold the same array."""
    base = os.path.basename(name).lower()
    kind = next((one for one in sorted(readers.READERS, key=len, reverse=True) if base.endswith(f".{one}")), None)
    if kind is None or reading.reader or reading.member.endswith(kind):
        return reading
    if reading.field or reading.fields:
        raise ValueError(f"got .{kind}, expected a .json with its fields, or the numbers themselves")
    if why := readers.missing_package(base):
        raise ValueError(why)
    return reading.model_copy(update={"member": kind})
