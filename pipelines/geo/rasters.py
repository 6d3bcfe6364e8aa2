"""Rasters with a georeference as files: GeoTIFF by rasterio."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .georeference import Georeference, Located, crs_text

_COLORS = 256


def geotiff(
    pixels: np.ndarray,
    place: Georeference,
    nodata: float | None = None,
    names: Sequence[str] = (),
    unit: str = "",
    classes: Sequence[str] = (),
    colors: np.ndarray | None = None,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """A GeoTIFF, compressed without loss.

    Args:
        pixels: (bands, rows, columns) of numbers.
        names: of the bands. unit: of all of them.
        classes: names of the ids of one band of uint8, kept as its tags CLASS_0, ...; colors: (n, 3) uint8 of ids.

    ImportError without rasterio.
    """
    from affine import Affine
    from rasterio.io import MemoryFile

    profile: dict[str, Any] = {
        "driver": "GTiff", "count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2],
        "dtype": pixels.dtype.name, "crs": place.crs, "transform": Affine(*place.transform), "nodata": nodata,
        "compress": "deflate",
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
            for band, name in enumerate(names, 1):
                if name:
                    file.set_band_description(band, name)
            if unit:
                file.units = (unit,) * pixels.shape[0]
            if colors is not None:
                file.write_colormap(1, {i: (*map(int, color), 255) for i, color in enumerate(colors[:_COLORS])})
            if classes:
                file.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(classes)})
            if tags:
                file.update_tags(**tags)
        return bytes(memory.read())


def located(data: bytes) -> Located | None:
    """Where a TIFF says that it lies; None if it does not, or rasterio does not open it."""
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with MemoryFile(data) as memory, memory.open() as file:
                if file.crs is None or file.transform.is_identity:
                    return None
                place = Georeference(crs_text(file.crs), tuple(file.transform)[:6])
                return Located((file.width, file.height), place)
        except RasterioError:
            return None
