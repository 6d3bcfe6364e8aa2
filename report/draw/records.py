"""Pictures of a sensor's records: coordinates on a map, a time in words, a catalogue as points or as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...modalities import Form
from ...sensors.sensor import Sensor
from ...tokenize.text.sensor_sentences import table_of
from .panels import Panel, TablePanel, TextPanel, picture

_WHITE, _LINE, _AXIS, _POINT, _TRUTH = (255, 255, 255), (222, 226, 230), (173, 181, 189), (200, 30, 40), (40, 90, 200)
_EVERY = 30  # degrees between lines of the map
_LETTERS, _MARGIN = 11, 4
_RADIUS = 4  # pixels
_ROWS = 12  # of a table


def draw_record(sensor: Sensor, label: Any, like: Any = None, *, size: int = 320) -> Panel:
    """A sensor's coordinates, time or catalogue.

    Args:
        label: as `Form` says; empty if its sentence could not be read.
        like: the label that this one is a reconstruction of: it is drawn too.
    """
    if sensor.form is Form.CATALOGUE:
        return _catalogue(sensor, label, like, size)
    if not label:
        return TextPanel("the sentence is broken", quiet=True)
    if sensor.form is Form.TIME:
        hour = f", {label['hour']:02d} h" if "hour" in label else ""
        return TextPanel(f"{label['time'][:10]}{hour} (day {label['day']} of {label['year']})")
    places = [[place[name] for name in sensor.names] for place in (label, like or label)]
    return _map(sensor, places, size)


def said_place(sensor: Sensor, place: Sequence[float]) -> str:
    """Coordinates in words."""
    if not sensor.on_earth:
        return ", ".join(
            f"{name} {value:.6g} {sensor.unit}".rstrip() for name, value in zip(sensor.names, place, strict=True)
        )
    east, north = place
    sides = ("N" if north >= 0 else "S", "E" if east >= 0 else "W")
    return ", ".join(f"{abs(one):.4g}\N{DEGREE SIGN} {side}" for one, side in zip((north, east), sides, strict=True))


def _map(sensor: Sensor, places: Sequence[Sequence[float]], size: int) -> Panel:
    """The range of the coordinates, north at the top: a point where the label is, and a ring around the true one."""
    (west, east), (south, north) = sensor.limits.values()
    height = max(1, round(min(2.0, (north - south) / (east - west)) * size))
    canvas = Image.new("RGB", (size, height + _LETTERS + 2 * _MARGIN), _WHITE)
    draw = ImageDraw.Draw(canvas)

    def at(place: Sequence[float]) -> tuple[float, float]:
        return (place[0] - west) / (east - west) * (size - 1), (north - place[1]) / (north - south) * (height - 1)

    step = _EVERY if sensor.on_earth and east - west > 2 * _EVERY else (east - west) / 6
    for degree in np.arange(np.ceil(west / step), np.floor(east / step) + 1) * step:
        draw.line([at((degree, north)), at((degree, south))], fill=_AXIS if not round(degree, 6) else _LINE)
    for degree in np.arange(np.ceil(south / step), np.floor(north / step) + 1) * step:
        draw.line([at((west, degree)), at((east, degree))], fill=_AXIS if not round(degree, 6) else _LINE)
    draw.rectangle([0, 0, size - 1, height - 1], outline=_AXIS)
    point, ring = (at(place) for place in places)
    draw.ellipse(_around(point, _RADIUS), fill=_POINT)
    if places[0] != places[1]:
        draw.ellipse(_around(ring, _RADIUS + 3), outline=_TRUTH, width=2)
    said = said_place(sensor, places[0])
    draw.text((_MARGIN, height + _MARGIN), said, fill=(0, 0, 0), font=ImageFont.load_default(size=_LETTERS))
    return picture(np.asarray(canvas), said, size=max(canvas.size), lossless=True)


def _around(point: tuple[float, float], radius: float) -> list[float]:
    return [point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius]


def _catalogue(sensor: Sensor, rows: Sequence[Mapping[str, Any]], like: Any, size: int) -> Panel:
    if not rows:
        return TextPanel("no rows", quiet=True)
    by = [name.removeprefix("-") for name in sensor.order_by]
    if len(by) == 2:
        return _points(by, rows, like, size)
    shown = [
        (str(number), ", ".join(f"{name} {_said(row.get(name))}" for name in sensor.names), "")
        for number, row in enumerate(rows[:_ROWS], 1)
    ]
    more = [("...", f"{len(rows) - _ROWS} more rows", "")] if len(rows) > _ROWS else []
    return TablePanel((*shown, *more))


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _points(by: Sequence[str], rows: Sequence[Mapping[str, Any]], like: Any, size: int) -> Panel:
    """Rows as points at two of their values, on the axes of the label that they are a reconstruction of."""
    points, true = table_of(rows, by), table_of(like or rows, by)
    known = true[np.isfinite(true).all(1)]
    if not len(known):
        return TextPanel("no row has a place", quiet=True)
    low, high = known.min(0), known.max(0)
    span = np.maximum(high - low, 1e-6)
    foot = _LETTERS + 2 * _MARGIN
    canvas = Image.new("RGB", (size, size + foot), _WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, 0, size - 1, size - 1], outline=_AXIS)
    room = size - 1 - 4 * _MARGIN
    for values, is_truth in ((true, True), (points, False)) if like else ((points, False),):
        for value in values[np.isfinite(values).all(1)]:
            across, up = np.clip((value - low) / span, 0, 1) * room + 2 * _MARGIN
            place = (float(across), size - 1 - float(up))
            if is_truth:
                draw.ellipse(_around(place, _RADIUS), outline=_TRUTH)
            else:
                draw.ellipse(_around(place, _RADIUS / 2), fill=_POINT)
    ends = ", ".join(f"{name} {a:.4g} to {b:.4g}" for name, a, b in zip(by, low, high, strict=True))
    draw.text((_MARGIN, size + _MARGIN), ends, fill=(0, 0, 0), font=ImageFont.load_default(size=_LETTERS))
    return picture(np.asarray(canvas), f"{len(rows)} rows, {ends}", size=max(canvas.size), lossless=True)
