"""Rasters with a georeference as files: GeoTIFF by rasterio."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .georeference import Georeference, Located, crs_text


@dataclass(frozen=True)
class Raster:
    """A GeoTIFF, compressed without loss, before it is written.

    shape: bands, rows, columns. names: of the bands. unit: of all of them. classes: names of the ids of one band of
    uint8, kept as its tags CLASS_0, ...; colors: (256, 3) uint8 of ids.

    Its methods raise ImportError without rasterio.
    """

    place: Georeference
    shape: tuple[int, int, int]
    dtype: str
    nodata: float | None = None
    names: Sequence[str] = ()
    unit: str = ""
    classes: Sequence[str] = ()
    colors: np.ndarray | None = None

    def encode(self, pixels: np.ndarray) -> bytes:
        """The file of (bands, rows, columns)."""
        from rasterio.io import MemoryFile

        with MemoryFile() as memory:
            with memory.open(**self._profile()) as file:
                file.write(pixels)
                self._describe(file)
            return bytes(memory.read())

    def write(self, path: Path, parts: Iterable[np.ndarray]) -> None:
        """Write parts from top to bottom, (some rows, columns, bands) each: no more of them is in memory."""
        import rasterio
        from rasterio.windows import Window

        with rasterio.open(path, "w", **self._profile(), BIGTIFF="IF_SAFER") as file:
            first = 0
            for part in parts:
                window = Window(0, first, self.shape[2], len(part))
                file.write(np.ascontiguousarray(np.moveaxis(part, -1, 0), self.dtype), window=window)
                first += len(part)
            self._describe(file)

    def _profile(self) -> dict[str, Any]:
        from affine import Affine

        bands, rows, cols = self.shape
        return {
            "driver": "GTiff", "count": bands, "height": rows, "width": cols, "dtype": self.dtype,
            "crs": self.place.crs, "transform": Affine(*self.place.transform), "nodata": self.nodata,
            "compress": "deflate",
        }  # fmt: skip

    def _describe(self, file: Any) -> None:
        for band, name in enumerate(self.names, 1):
            if name:
                file.set_band_description(band, name)
        if self.unit:
            file.units = (self.unit,) * self.shape[0]
        if self.colors is not None:
            file.write_colormap(1, {i: (*map(int, color), 255) for i, color in enumerate(self.colors)})
        if self.classes:
            file.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(self.classes)})


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
