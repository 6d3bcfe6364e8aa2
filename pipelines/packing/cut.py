"""One tile of one layer: its pixels, from whatever files lie there, on the tile's own grid.

Where a file has exactly these pixels, they are read as they are; else the window of the file that the tile lies in is
read and resampled. Of several files the first one that has a value counts, by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...modalities import NO_CLASS, Size, height_width
from ..geo import georeference
from ..geo.georeference import Georeference, Window
from .files import Info, Opened, Source
from .settings import Layer, Pack
from .tiles import Area, Tile

_SHRINKS = 1.5  # pixels of a file for one of the tile, from which they are averaged


@dataclass(frozen=True)
class Cut:
    """pixels: (bands, rows, columns) of the files' type. missing: share without a value. nodata: what stands for none,
    None if nothing does. files: that gave pixels, each with the window that was read. how: resampled by what, "" if
    pixels are as they are. georeference: of the pixels."""

    pixels: np.ndarray
    missing: float
    nodata: float | None
    files: tuple[tuple[Info, Window], ...]
    how: str
    georeference: Georeference | None


def read(pack: Pack, area: Area, name: str, tile: Tile, size: Size, opened: Opened) -> Cut | str:
    """A tile of a layer, of so many pixels, or why there is none."""
    layer, infos = pack.layers[name], area.files[name]
    if not infos:
        return "there is no file"
    bands = [layer.bands.index(one) for one in layer.use] or list(range(infos[0].shape[0]))
    rows, cols = height_width(size)
    target = None
    if area.georeference is not None:
        height, width = pack.tile
        target = area.georeference.window(tile.col * width, tile.row * height).scaled(width / cols, height / rows)
    pixels = np.zeros((len(bands), rows, cols), infos[0].dtype)
    missing = np.ones(pixels.shape, bool)
    used: list[tuple[Info, Window]] = []
    how = ""
    for info in infos:
        if found := _part(
            opened.get(info.url, layer), info, layer, bands, target, (tile.col * cols, tile.row * rows, cols, rows)
        ):
            values, lacking, window, resampled = found
            fill = missing & ~lacking
            if fill.any():
                pixels[fill] = values[fill]
                missing &= lacking
                used.append((info, window))
                how = how or resampled
        if not missing.any():
            break
    nodata = _nodata(layer, infos, pixels.dtype)
    if missing.any() and nodata is None:
        return "some pixels are outside of its files, and no nodata is declared"
    if nodata is not None:
        pixels[missing] = nodata
    if (share := float(missing.mean())) > pack.max_missing or not used:
        return "too many pixels have no value" if used else "no pixel has a value"
    return Cut(pixels, share, nodata, tuple(used), how, target)


def _nodata(layer: Layer, infos: Sequence[Info], dtype: np.dtype[Any]) -> float | None:
    """What stands for no value in the tiles of a layer."""
    if layer.nodata is not None:
        return layer.nodata
    if infos[0].nodata is not None and not math.isnan(infos[0].nodata):
        return infos[0].nodata
    if dtype.kind == "f":
        return math.nan
    return float(NO_CLASS) if layer.classes and dtype == np.uint8 else None


def nodata_of(layer: Layer, info: Info) -> float | None:
    """The same, of a layer whose files are like this one."""
    return _nodata(layer, [info], np.dtype(info.dtype))


Part = tuple[np.ndarray, np.ndarray, Window, str]  # values, where there are none, the window, how it was resampled


def _part(
    source: Source, info: Info, layer: Layer, bands: Sequence[int], target: Georeference | None,
    place: Window,
) -> Part | None:  # fmt: skip
    """What one file has of a tile; None if it has nothing.

    Args:
        place: the tile in a file without georeference, of the tile's pixels.
    """
    if target is None or info.georeference is None:
        return _exact(source, info, layer, bands, place)
    window = None
    if georeference.same_crs(info.georeference.crs, target.crs):
        window = georeference.exact_window(info.georeference.transform, target.transform, *place[2:])
    if window is not None:
        return _exact(source, info, layer, bands, window)
    return _resampled(source, info, layer, bands, target, (place[3], place[2]))


def _exact(source: Source, info: Info, layer: Layer, bands: Sequence[int], window: Window) -> Part | None:
    col, row, width, height = window
    left, top = max(col, 0), max(row, 0)
    right, bottom = min(col + width, info.shape[2]), min(row + height, info.shape[1])
    if right <= left or bottom <= top:
        return None
    inner: Window = (left, top, right - left, bottom - top)
    values, lacking = _values(source, info, layer, bands, inner)
    if inner == window:
        return values, lacking, window, ""
    whole = np.zeros((len(bands), height, width), values.dtype)
    outside = np.ones(whole.shape, bool)
    there = (slice(None), slice(top - row, bottom - row), slice(left - col, right - col))
    whole[there], outside[there] = values, lacking
    return whole, outside, inner, ""


def _values(
    source: Source, info: Info, layer: Layer, bands: Sequence[int], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a window, and where they stand for none."""
    values = source.read(window, bands)
    lacking = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    nodata = info.nodata if layer.nodata is None else layer.nodata
    if nodata is not None and not math.isnan(nodata):
        lacking |= values == np.float64(nodata).astype(values.dtype if values.dtype.kind == "f" else np.float64)
    if (mask := source.mask(window)) is not None:
        lacking |= ~mask
    return values, lacking


def _resampled(
    source: Source, info: Info, layer: Layer, bands: Sequence[int], target: Georeference, size: tuple[int, int]
) -> Part | None:
    from affine import Affine
    from rasterio import warp
    from rasterio.enums import Resampling

    assert info.georeference is not None
    shape, (rows, cols) = info.shape[1:], size
    if georeference.covering_window(info.georeference, shape, target, cols, rows, 0) is None:
        return None
    across = math.sqrt(georeference.pixels_covered(target, size, info.georeference)) / math.sqrt(rows * cols)
    margin = 2 * math.ceil(max(1.0, across)) + 2
    window = georeference.covering_window(info.georeference, shape, target, cols, rows, margin)
    assert window is not None
    values, lacking = _values(source, info, layer, bands, window)
    how = layer.resampling or ("nearest" if layer.classes else "average" if across >= _SHRINKS else "bilinear")
    # Integers of up to 16 bits are exact in float32.
    wide = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    numbers = np.where(lacking, np.nan, values.astype(wide))
    made = np.full((len(bands), rows, cols), np.nan, wide)
    # GDAL guesses how much it shrinks, and widens kernels by a few percent: slopes would move by a part of a pixel.
    kernel = {"XSCALE": 1, "YSCALE": 1} if across < _SHRINKS and how in ("bilinear", "cubic") else {}
    for band, into in zip(numbers, made, strict=True):  # one by one: what one lacks, others may have
        warp.reproject(
            band, into, src_transform=Affine(*info.georeference.window(*window[:2]).transform),
            src_crs=info.georeference.crs, src_nodata=np.nan, dst_transform=Affine(*target.transform),
            dst_crs=target.crs, dst_nodata=np.nan, resampling=Resampling[how], num_threads=1, **kernel,
        )  # fmt: skip
    absent = ~np.isfinite(made)
    if absent.all():
        return None
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        made = np.rint(np.where(absent, 0, made)).clip(limits.min, limits.max)
    return made.astype(values.dtype), absent, window, how
