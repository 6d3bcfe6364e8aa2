"""Rows of tables with a place, joined to the tiles that hold them: Parquet and CSV."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...infra import storage
from ...infra.secrets import public
from .. import patterns
from ..geo import georeference
from ..geo.georeference import Georeference
from .settings import Points

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Rows:
    """Rows of an area. cols, rows: their places in pixels of the grid. values: (rows, values), NaN where none."""

    cols: np.ndarray
    rows: np.ndarray
    values: np.ndarray

    def inside(self, col: int, row: int, size: tuple[int, int]) -> Rows:
        """Those in a tile of (rows, columns) pixels, with places from its corner on."""
        cols, rows = self.cols - col, self.rows - row
        there = (cols >= 0) & (cols < size[1]) & (rows >= 0) & (rows < size[0])
        return Rows(cols[there], rows[there], self.values[there])

    def numbers(self, names: Sequence[str]) -> dict[str, float | int]:
        """The mean of each value over the rows that have it, and the count of rows that have any; {} of none."""
        known = np.isfinite(self.values)
        count = int(known.any(axis=1).sum())
        if not count:
            return {}
        means = {name: self.values[known[:, i], i].mean() for i, name in enumerate(names) if known[:, i].any()}
        return {name: float(mean) for name, mean in means.items()} | {"count": count}

    def raster(self, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
        """float32 (values, *shape) of a tile of (rows, columns) pixels: the mean of the rows of each pixel, NaN of
        none."""
        pairs = zip((self.rows, self.cols), shape, size, strict=True)
        rows, cols = ((place * (side / of)).astype(np.int64).clip(0, side - 1) for place, side, of in pairs)
        into = rows * shape[1] + cols
        made = np.full((self.values.shape[1], shape[0] * shape[1]), np.nan, np.float32)
        for values, of in zip(self.values.T, made, strict=True):
            known = np.isfinite(values)
            count = np.bincount(into[known], minlength=made.shape[1])
            total = np.bincount(into[known], values[known], minlength=made.shape[1])
            of[count > 0] = (total[count > 0] / count[count > 0]).astype(np.float32)
        return made.reshape(-1, *shape)


def files(name: str, points: Points) -> list[str]:
    """The tables, sorted. ValueError if there are none, or one lacks a column or has one that is no number."""
    found: list[str] = []
    for pattern in points.files:
        for one in patterns.braces(storage.absolute(pattern)):
            urls = patterns.matching(one) if storage.is_local(one) else patterns.find(one)
            if not urls:
                raise ValueError(f"points.{name}.files: nothing is at {public(pattern)}; check the pattern")
            found += urls
    if not georeference.has_rasterio() and points.crs != georeference.LONLAT:
        raise ValueError(f"points.{name}.crs: {points.crs} {georeference.NEEDS_RASTERIO}")
    for url in found:
        schema = _dataset(url).schema
        for column in (points.x, points.y, *points.values):
            if column not in schema.names:
                raise ValueError(
                    f"points.{name}: {public(url)} has no column {column!r}, but {', '.join(schema.names[:12])}"
                )
    return sorted(set(found))


def read(points: Points, urls: Sequence[str], area: Georeference, width: int, height: int) -> Rows:
    """The rows of an area of so many pixels."""
    import pyarrow.compute as pc

    x, y = georeference.outline(area, width, height, points.crs)
    # Sides bend between the points that were transformed: a little more is read than lies there.
    across, down = 0.01 * (x.max() - x.min()), 0.01 * (y.max() - y.min())
    within = (
        (pc.field(points.x) >= x.min() - across) & (pc.field(points.x) <= x.max() + across)
        & (pc.field(points.y) >= y.min() - down) & (pc.field(points.y) <= y.max() + down)
    )  # fmt: skip
    columns = [points.x, points.y, *points.values]
    found: list[dict[str, np.ndarray]] = []
    for url in urls:
        table = _dataset(url).to_table(columns=list(dict.fromkeys(columns)), filter=within)
        found.append({name: _floats(url, name, table.column(name)) for name in table.column_names})
    whole = {name: np.concatenate([one[name] for one in found]) for name in dict.fromkeys(columns)}
    places = georeference.transformed(whole[points.x], whole[points.y], points.crs, area.crs)
    cols, rows = area.pixels(*places)
    values = np.stack([whole[name] for name in points.values], axis=1)
    values[np.isin(values, points.nodata)] = np.nan
    return Rows(cols, rows, values)


def _floats(url: str, name: str, column: Any) -> np.ndarray:
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        raise ValueError(f"{public(url)}: the column {name} is {column.type}, expected numbers")
    found: np.ndarray = (
        column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64, copy=True)
    )
    return found


@lru_cache(maxsize=128)
def _dataset(url: str) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as datasets

    kind = _FORMATS.get(posixpath.splitext(url)[1].lower())
    if kind is None:
        raise ValueError(f"{public(url)}: expected a table, .parquet or .csv")
    local = storage.is_local(url)
    fs, path = (None, str(storage.local_path(url))) if local else storage.filesystem(url)
    try:
        return datasets.dataset(path, format=kind, filesystem=fs)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{public(url)}: {str(error).splitlines()[0]}") from None
