"""Records of sensors that a person gives: coordinates, times, catalogues, read as those of files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...modalities import Form
from ...sensors.declared import SENSORS
from ...sensors.reading import Reading
from ..sensors import records as sensor_records
from .given import Given, Mistake, is_path
from .records import content, is_json


def read(label: str, given: Any) -> Given:
    """Coordinates as `7.5,45.25`, a list or an object; a time as ISO 8601 or an object; a catalogue as a list.

    Mistake if it is none, or out of range.
    """
    sensor = SENSORS[label]
    value = os.fspath(given) if is_path(given) and not is_json(given) else content(given)
    try:
        if sensor.form is Form.COORDINATES:
            value = _place(value, sensor)
        elif sensor.form is Form.TIME and isinstance(value, Mapping):
            value = value.get("time", value.get(sensor.field or ""))
        plain = {
            "field": None,
            "fields": sensor.names if sensor.form is not Form.TIME else [],
            "scale": 1.0,
            "offset": 0.0,
        }
        return Given(sensor_records.label(value, Reading.model_construct(**{**dict(sensor), **plain})))
    except ValueError as error:
        raise Mistake(str(error)) from None


def _place(value: Any, sensor: Reading) -> dict[str, Any]:
    """Coordinates by name: of a text, a list, or what they are already."""
    if isinstance(value, str):
        try:
            value = [float(one) for one in value.split(",")]
        except ValueError:
            raise ValueError(f"got {value!r:.60}, expected {','.join(sensor.names)}, such as 7.5,45.25") from None
    if isinstance(value, list | tuple):
        if len(value) != len(sensor.names):
            raise ValueError(f"got {len(value)} numbers, expected {' and '.join(sensor.names)}")
        return dict(zip(sensor.names, value, strict=True))
    if not isinstance(value, Mapping):
        raise ValueError(f"got {value!r:.60}, expected an object of {' and '.join(sensor.names)}")
    return dict(value)
