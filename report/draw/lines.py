"""Series as lines with axes: round numbers at both, the axis' name with its unit, and the names of several bands in
their colours."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...sensors.sensor import Sensor
from ...tokenize.id_colors import id_colors
from .ticks import tick_label, ticks

_LETTERS, _MARGIN = 11, 3
_ROW = _LETTERS + 2 * _MARGIN  # height of a line of text
_INK, _GRID, _PAPER = (0, 0, 0), (226, 226, 226), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Mark(NamedTuple):
    """A tick: where it is, as a share of the axis, and its text."""

    share: float
    text: str


def plot(sensor: Sensor, values: np.ndarray, limits: tuple[float, float], size: int) -> np.ndarray:
    """Lines of the bands that a sensor shows, uint8 (rows, size, 3).

    Args:
        values: float (length, bands), NaN where there is none. limits: of the upright axis; a line that leaves them
            runs along the edge.
    """
    font = ImageFont.load_default(size=_LETTERS)
    low, high = limits if limits[1] > limits[0] else (limits[0] - 1, limits[0] + 1)
    upright = [Mark((value - low) / (high - low), tick_label(value)) for value in ticks(low, high, 3)]
    names = {sensor.kept[band]: _colour(band) for band in sensor.shown if len(sensor.kept) > 1}
    unit = sensor.unit if sensor.unit != "1" else ""
    title = ", ".join(filter(None, (sensor.axis_name, sensor.axis.get("unit", ""))))
    left = max(int(font.getlength(mark.text)) for mark in upright) + 2 * _MARGIN
    # The highest number may reach half its height above the plot.
    top, height = _LETTERS // 2 + (_ROW if names or unit else _MARGIN), size // 2
    canvas = Image.new("RGB", (size, top + height + (2 if title else 1) * _ROW), _PAPER)
    draw, right, foot = ImageDraw.Draw(canvas), size - 1 - 2 * _MARGIN, top + height

    def at(mark: float) -> float:
        return left + mark * (right - left)

    for mark in upright:
        down = foot - mark.share * height
        draw.line([(left, down), (right, down)], fill=_GRID)
        draw.text((left - _MARGIN, down), mark.text, fill=_INK, font=font, anchor="rm")
    end = 0.0  # of the last text: one that would touch it is left out
    for mark in _marks(sensor, len(values)):
        half = font.getlength(mark.text) / 2
        middle = min(max(at(mark.share), half), size - half)
        draw.line([(at(mark.share), foot), (at(mark.share), foot + _MARGIN)], fill=_INK)
        if middle - half >= end:
            draw.text((middle, foot + _MARGIN), mark.text, fill=_INK, font=font, anchor="ma")
            end = middle + half + 2 * _MARGIN
    draw.line([(left, top), (left, foot), (right, foot)], fill=_INK)
    if title:
        draw.text(((left + right) / 2, foot + _ROW), title, fill=_INK, font=font, anchor="ma")
    across = at(np.linspace(0, 1, len(values)))  # type: ignore[arg-type]
    for band in sensor.shown:
        shares = (np.nan_to_num(values[:, band], nan=low) - low) / (high - low)
        down = foot - np.clip(shares, 0, 1) * height
        _line(draw, np.stack([across, down], axis=1), np.isfinite(values[:, band]), _colour(band))
    _legend(draw, font, names, unit, left)
    return np.asarray(canvas)


def _line(draw: ImageDraw.ImageDraw, points: np.ndarray, there: np.ndarray, colour: tuple[int, ...]) -> None:
    """A line that breaks where there is no value."""
    for part in np.split(np.arange(len(points)), np.flatnonzero(~there)):
        some = [(float(x), float(y)) for x, y in points[[i for i in part if there[i]]]]
        if len(some) > 1:
            draw.line(some, fill=colour, width=1)
        elif some:
            draw.point(some, fill=colour)


def _legend(draw: ImageDraw.ImageDraw, font: Font, names: Mapping[str, tuple[int, ...]], unit: str, left: int) -> None:
    """The unit at the upright axis, and from the right the names that there is room for, each in its colour."""
    draw.text((_MARGIN, _MARGIN), unit, fill=_INK, font=font)
    start = max(left, 3 * _MARGIN + font.getlength(unit))
    end = float(draw.im.size[0] - _MARGIN)
    for name, colour in reversed(list(names.items())):
        if end - font.getlength(name) < start:
            break
        draw.text((end, _MARGIN), name, fill=colour, font=font, anchor="ra")
        end -= font.getlength(name) + 3 * _MARGIN


def _colour(band: int) -> tuple[int, ...]:
    return tuple(int(part) for part in id_colors(np.array(band)))


def _marks(sensor: Sensor, length: int) -> list[Mark]:
    """Ticks of the axis: its own numbers or dates, else numbers of the values."""
    grid = sensor.grid
    if grid is None:
        return [Mark(value / max(length - 1, 1), tick_label(value)) for value in ticks(0, length - 1, 4)]
    span = grid.step_size * (grid.count - 1)
    if grid.is_of_dates:
        first = datetime.date(1970, 1, 1) + datetime.timedelta(days=grid.start)
        shares = (0.0, 0.5, 1.0)
        return [Mark(share, str(first + datetime.timedelta(days=round(share * span)))) for share in shares]
    return [Mark((value - grid.start) / span, f"{value:.6g}") for value in ticks(grid.start, grid.start + span, 4)]
