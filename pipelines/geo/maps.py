"""Generated maps of samples whose place is known, as files of the ground or the sky.

GeoTIFF, with a crs and the transform of exactly the pixels that are in it, or FITS with a WCS; with the names of bands
and classes, the unit, and what stands for no value; and how much the members of an ensemble differ in each pixel.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ...modalities import LABELS, NO_CLASS, Form
from ...sensors.declared import SENSORS, window_of
from ...tokenize.crops import crops
from ...tokenize.id_colors import class_table
from ...tokenize.labels import encode_array
from . import fits, georeference
from .georeference import Georeference, Located
from .rasters import Raster

logger = logging.getLogger(__name__)

MAPS = (Form.RASTER, Form.CLASSES, Form.DEPTH, Form.DISTANCE, Form.NORMALS, Form.COLORS, Form.EDGES)
_SPREADS = {Form.CLASSES: "probability", Form.RASTER: "std", Form.NUMBERS: "std", Form.SERIES: "std"}


def spread(label: str, members: np.ndarray, classes: int) -> np.ndarray | None:
    """How much the members of an ensemble differ, of a sensor's label; None of others, and of one member.

    Args:
        members: (members, n, ...) decoded labels. classes: how many a class map has.

    Returns:
        float32 (n, ...): the standard deviation over the members; of class maps (n, H, W, classes), the share of
        members that have each class.
    """
    if label not in SENSORS or len(members) < 2:
        return None
    if LABELS[label].form is Form.CLASSES:
        count = max(classes, int(members[members != NO_CLASS].max(initial=0)) + 1)
        return np.stack([(members == one).mean(axis=0, dtype=np.float32) for one in range(count)], axis=-1)
    return np.asarray(members.std(axis=0, dtype=np.float64), np.float32)


def files(
    label: str, value: np.ndarray, apart: np.ndarray | None, place: Located | None, classes: Sequence[str]
) -> dict[str, bytes]:
    """The files of one generated label, suffix -> content, beside the one that is always written.

    Args:
        value: a label in the frame of its sample's centre crop. apart: its `spread`.
        place: of the sample's frame, None if it is not known. classes: names of the label's classes.
    """
    form = LABELS[label].form
    made = {f"{_SPREADS[form]}.npy": encode_array(apart)} if apart is not None else {}
    if place is None or form not in MAPS:
        return made
    if place.wcs:
        if fits.has_astropy():
            return made | _fits(label, value, apart, place, classes)
        _say("FITS", "needs the package astropy; run `pip install fourmill[sensors]`")
    elif georeference.has_rasterio():
        return made | _tiffs(label, value, apart, place, classes)
    else:
        _say("GeoTIFF", georeference.NEEDS_RASTERIO)
    return made


@lru_cache
def _say(kind: str, why: str) -> None:
    """Once in a process: maps whose place is known are written without it."""
    logger.warning("maps are written without their place: %s %s", kind, why)


def _window(place: Located, label: str) -> tuple[int, int, int, int]:
    """The centre crop of a label in a frame."""
    crop = crops(0, "", *place.size, 1, shape=window_of(label))[0]  # the same for all seeds and keys
    return crop.left, crop.top, crop.width, crop.height


def _tiffs(
    label: str, value: np.ndarray, apart: np.ndarray | None, place: Located, classes: Sequence[str]
) -> dict[str, bytes]:
    assert place.georeference is not None
    left, top, width, height = _window(place, label)
    rows, cols = value.shape[:2]
    here = place.georeference.window(left, top).scaled(width / cols, height / rows)
    pixels = _first(value)
    made = {"tif": described(label, here, pixels.shape, pixels.dtype.name, classes).encode(pixels)}
    if apart is not None:
        shares = _first(apart)
        spread = described(label, here, shares.shape, shares.dtype.name, classes, spread=True)
        made[f"{_SPREADS[LABELS[label].form]}.tif"] = spread.encode(shares)
    return made


def described(
    label: str, place: Georeference, shape: tuple[int, ...], dtype: str, classes: Sequence[str] = (),
    spread: bool = False,
) -> Raster:  # fmt: skip
    """A GeoTIFF of a label, or of its `spread`, (bands, rows, columns)."""
    bands, rows, cols = shape
    if LABELS[label].form is not Form.CLASSES:
        nodata = float("nan") if np.dtype(dtype).kind == "f" else None
        return Raster(place, (bands, rows, cols), dtype, nodata, _names(label), _unit(label))
    if spread:
        return Raster(place, (bands, rows, cols), dtype, float("nan"), classes)
    return Raster(place, (bands, rows, cols), dtype, float(NO_CLASS), classes=classes, colors=class_table())


def _fits(
    label: str, value: np.ndarray, apart: np.ndarray | None, place: Located, classes: Sequence[str]
) -> dict[str, bytes]:
    form = LABELS[label].form
    images = {"map": _first(value)} | ({_SPREADS[form]: _first(apart)} if apart is not None else {})
    images = {name: image[0] if len(image) == 1 else image for name, image in images.items()}
    tags = {f"CLASS{i}": name for i, name in enumerate(classes)} if form is Form.CLASSES else {}
    return {"fits": fits.encode(images, place.wcs, _window(place, label), _unit(label), _names(label), tags)}


def _first(value: np.ndarray) -> np.ndarray:
    """(bands, rows, columns), of a type that files have."""
    pixels = value[None] if value.ndim == 2 else np.moveaxis(value, -1, 0)
    return np.ascontiguousarray(pixels, np.float32 if pixels.dtype == np.float16 else pixels.dtype)


def _names(label: str) -> Sequence[str]:
    sensor = SENSORS.get(label)
    return sensor.kept if sensor is not None and LABELS[label].form is Form.RASTER else ()


def _unit(label: str) -> str:
    sensor = SENSORS.get(label)
    return sensor.unit if sensor is not None else ""
