"""Pictures of sensors: bands in false colours, one band with a colour bar and its unit, numbers in words."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...modalities import MODALITIES, Form
from ...sensors.declared import SENSORS
from ...sensors.sensor import Sensor
from . import lines
from .colormaps import colored, inferno
from .panels import Panel, TablePanel, TextPanel, picture, scaled

_NOTHING = (112, 112, 120)  # grey of pixels without a value: no colour of a map
_BAR, _MARGIN = 10, 3  # height of a colour bar, pixels; room around its numbers
_LETTERS = 11


def draw_sensor(sensor: Sensor, label: Any, like: Any = None, *, size: int = 320) -> Panel:
    """A sensor's label.

    Args:
        label: float32 (H, W, bands), or (n,) of numbers.
        like: the label that this one is a reconstruction of: both then have the same colours for the same values.
    """
    if sensor.form is Form.NUMBERS:
        return _numbers(sensor, np.asarray(label))
    if sensor.form is Form.SERIES:
        return _lines(sensor, np.asarray(label, np.float32), like, size)
    values = np.asarray(label, np.float32)
    if values.ndim != 3 or values.shape[2] != sensor.width:
        return TextPanel(f"{values.shape}, expected (H, W, {sensor.width})", quiet=True)
    bands = sensor.shown
    scale = values if like is None else np.asarray(like, np.float32)
    found = [_limits(sensor, scale[..., band]) for band in bands]
    limits = [limit for limit in found if limit is not None]
    if len(limits) < len(bands):
        return TextPanel("no pixel has a value", quiet=True)
    height, width = scaled(values.shape[:2], size)
    pixels = _coloured(sensor, values, limits)
    names = [sensor.kept[band] for band in bands]
    if len(bands) == 3:
        return picture(_resized(pixels, height, width), f"{', '.join(names)} as red, green, blue", size=size)
    low, high = limits[0]
    canvas = _with_bar(_resized(pixels, height, width), low, high, sensor.unit)
    what = f"{names[0]}: " if names[0] else ""
    said = f"{what}{low:.4g} (dark) to {high:.4g} {sensor.unit}".rstrip()
    return picture(canvas, said, size=max(canvas.shape[:2]))


def false_colours(modality: str, values: np.ndarray) -> np.ndarray:
    """Pixels of a modality as a picture, uint8 (H, W, 3): RGB as it is, bands of a sensor as it says."""
    sensor = SENSORS.get(MODALITIES[modality].label) if modality in MODALITIES else None
    if sensor is None or values.dtype == np.uint8:
        return values
    return _coloured(sensor, values, [_limits(sensor, values[..., band]) or (0.0, 1.0) for band in sensor.shown])


def _coloured(sensor: Sensor, values: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """The bands (H, W, n) that a sensor shows between what is dark and bright of each, uint8 (H, W, 3); grey where
    there is no value."""
    bands = sensor.shown
    shares = [_shares(values[..., band], *limit) for band, limit in zip(bands, limits, strict=True)]
    pixels = colored(shares[0], inferno())
    if len(bands) == 3:
        pixels = np.rint(np.stack(shares, axis=-1) * 255).astype(np.uint8)
    pixels[~np.isfinite(values[..., bands]).all(axis=2)] = _NOTHING
    return pixels


def written(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{value:.4g} {unit}".rstrip() if unit != "1" else f"{value:.4g}"


def _numbers(sensor: Sensor, values: np.ndarray) -> Panel:
    flat = values.reshape(-1).astype(np.float64)
    if flat.size == 1:
        return TextPanel(written(float(flat[0]), sensor.unit))
    names = sensor.fields or [str(i) for i in range(flat.size)]
    return TablePanel(tuple((name, written(float(v), sensor.unit), "") for name, v in zip(names, flat, strict=False)))


def _lines(sensor: Sensor, values: np.ndarray, like: Any, size: int) -> Panel:
    """A series (length, bands) as a line for each band, on the axis of the label that it is a reconstruction of."""
    if values.ndim != 2 or values.shape[1] != sensor.width:
        return TextPanel(f"{values.shape}, expected (length, {sensor.width})", quiet=True)
    scale = values if like is None else np.asarray(like, np.float32)
    known = scale[:, sensor.shown][np.isfinite(scale[:, sensor.shown])]
    if not known.size:
        return TextPanel("no value is there", quiet=True)
    low, high = float(known.min()), float(known.max())
    said = f"{len(values)} values, {low:.4g} to {written(high, sensor.unit)}"
    if sensor.grid is not None:
        first, last = _ends(sensor)
        said += f"; {sensor.axis_name} {first} to {last}"
    return picture(lines.plot(sensor, values, (low, high), size), said, size=size, lossless=True)


def _ends(sensor: Sensor) -> tuple[str, str]:
    """The first and the last point of a series' grid, the last one with the unit of its axis."""
    grid = sensor.grid
    assert grid is not None
    last = grid.start + grid.step_size * (grid.count - 1)
    if grid.is_of_dates:
        return str(grid.from_), str(datetime.date(1970, 1, 1) + datetime.timedelta(days=last))
    return f"{grid.start:.6g}", f"{last:.6g} {sensor.axis.get('unit', '')}".rstrip()


def _limits(sensor: Sensor, values: np.ndarray) -> tuple[float, float] | None:
    """What is dark and what is bright; None if there is no value."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    if sensor.percentiles is None:
        assert not isinstance(sensor.stretch, str)
        return sensor.stretch
    low, high = np.percentile(known, sensor.percentiles)
    return float(low), float(high)


def _shares(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0, 1)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """By nearest pixels where it grows: what an instrument has not seen is not made up."""
    method = Image.Resampling.NEAREST if height >= pixels.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


def _with_bar(pixels: np.ndarray, low: float, high: float, unit: str) -> np.ndarray:
    """A picture with a colour bar below it, and the values at its ends."""
    height, width = pixels.shape[:2]
    bar = np.broadcast_to(colored(np.linspace(0, 1, width), inferno()), (_BAR, width, 3))
    foot = np.full((_LETTERS + 2 * _MARGIN, width, 3), 255, np.uint8)
    gap = np.full((_MARGIN, width, 3), 255, np.uint8)
    canvas = Image.fromarray(np.concatenate([pixels, gap, bar, foot]))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_LETTERS)
    y = height + _MARGIN + _BAR + _MARGIN
    draw.text((_MARGIN, y), f"{low:.4g}", fill=(0, 0, 0), font=font)
    draw.text((width - _MARGIN, y), written(high, unit), fill=(0, 0, 0), font=font, anchor="ra")
    return np.asarray(canvas)
