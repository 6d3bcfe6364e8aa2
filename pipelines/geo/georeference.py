"""Where a raster lies on the ground: a coordinate reference system, and the transform from pixels to its coordinates.

A transform is (a, b, c, d, e, f), as rasterio's Affine has it: x = a col + b row + c, y = d col + e row + f, of the
upper left corner of a pixel. Its arithmetic needs no package; what needs one (PROJ, by rasterio) is asked for late.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

NEEDS_RASTERIO = "needs the package rasterio; run `pip install fourmill[geo]`"
LONLAT = "EPSG:4326"
_EDGE_POINTS = 9  # of a side of a window, where it is transformed: sides bend
_ERROR = 1e-3  # of a pixel, up to which two grids are one

Transform = tuple[float, float, float, float, float, float]
Window = tuple[int, int, int, int]  # first column, first row, columns, rows


@dataclass(frozen=True)
class Georeference:
    """crs: "EPSG:32633", or its WKT. transform: from pixels to its coordinates."""

    crs: str
    transform: Transform

    def window(self, col: float, row: float) -> Georeference:
        """That of a window which begins at this pixel."""
        return Georeference(self.crs, multiplied(self.transform, (1.0, 0.0, col, 0.0, 1.0, row)))

    def scaled(self, across: float, down: float) -> Georeference:
        """That of the same extent, with pixels so many times as wide and as high."""
        if across == down == 1:
            return self
        return Georeference(self.crs, multiplied(self.transform, (across, 0.0, 0.0, 0.0, down, 0.0)))

    def points(self, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of places in pixels."""
        return applied(self.transform, cols, rows)

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of places."""
        return applied(inverse(self.transform), x, y)

    @property
    def pixel_size(self) -> float:
        """The side of a square of a pixel's area, in units of the system."""
        a, b, _, d, e, _ = self.transform
        return math.sqrt(abs(a * e - b * d))


@dataclass(frozen=True)
class Located:
    """Where the frame of a sample lies.

    size: (width, height) of the frame, in pixels of one of the two: a georeference, or the WCS of a FITS, the cards of
    its header as text.
    """

    size: tuple[int, int]
    georeference: Georeference | None = None
    wcs: str = ""


def multiplied(one: Sequence[float], other: Sequence[float]) -> Transform:
    """The transform that does `other` first."""
    a, b, c, d, e, f = one
    g, h, i, j, k, m = other
    return (a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f)


def inverse(one: Sequence[float]) -> Transform:
    a, b, c, d, e, f = one
    size = a * e - b * d
    if not size:
        raise ValueError(f"the transform {tuple(one)} has pixels of no size")
    ra, rb, rd, re = e / size, -b / size, -d / size, a / size
    return (ra, rb, -c * ra - f * rb, rd, re, -c * rd - f * re)


def applied(one: Sequence[float], cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = one
    return a * cols + b * rows + c, d * cols + e * rows + f


def exact_window(source: Transform, target: Transform, width: int, height: int) -> Window | None:
    """The window of a source that has exactly the pixels of a target of this size; None if their grids differ."""
    a, b, col, d, e, row = multiplied(inverse(source), target)
    turned = max(abs(a - 1), abs(b), abs(d), abs(e - 1)) * max(width, height)
    if max(turned, abs(col - round(col)), abs(row - round(row))) > _ERROR:
        return None
    return round(col), round(row), width, height


def outline(target: Georeference, width: float, height: float, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y, in another system, of points along the sides of a raster."""
    steps = np.linspace(0.0, 1.0, _EDGE_POINTS)
    ends, zeros = np.ones_like(steps), np.zeros_like(steps)
    cols = np.concatenate([steps, ends, steps, zeros]) * width
    rows = np.concatenate([zeros, steps, ends, steps]) * height
    return transformed(*target.points(cols, rows), target.crs, crs)


def covering_window(
    source: Georeference, shape: tuple[int, int], target: Georeference, width: int, height: int, margin: int
) -> Window | None:
    """The window of a source (rows, columns) that a target of this size lies in; None if they do not overlap."""
    return window_of(source, shape, outline(target, width, height, source.crs), margin)


def window_of(
    source: Georeference, shape: tuple[int, int], places: tuple[np.ndarray, np.ndarray], margin: int
) -> Window | None:
    """The same of a target by its `outline` in the source's system."""
    cols, rows = source.pixels(*places)
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return None
    left, right = max(0, math.floor(cols.min()) - margin), min(shape[1], math.ceil(cols.max()) + margin)
    top, bottom = max(0, math.floor(rows.min()) - margin), min(shape[0], math.ceil(rows.max()) + margin)
    apart = cols.max() <= 0 or rows.max() <= 0 or cols.min() >= shape[1] or rows.min() >= shape[0]
    return None if apart or right <= left or bottom <= top else (left, top, right - left, bottom - top)


def pixels_covered(target: Georeference, size: tuple[int, int], source: Georeference) -> float:
    """How many pixels of a source are covered by (rows, columns) of pixels."""
    cols, rows = np.array([0.0, size[1], size[1], 0.0]), np.array([0.0, 0.0, size[0], size[0]])
    x, y = source.pixels(*transformed(*target.points(cols, rows), target.crs, source.crs))
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def same_crs(one: str, other: str) -> bool:
    """Whether two names are of one system."""
    return one == other or (has_rasterio() and _system(one) == _system(other))


def transformed(x: np.ndarray, y: np.ndarray, crs: str, into: str) -> tuple[np.ndarray, np.ndarray]:
    """Places in another system; x is east or longitude, whatever order of axes the system has.

    ValueError if rasterio, which does it, is not installed.
    """
    if same_crs(crs, into):
        return x, y
    if not has_rasterio():
        raise ValueError(f"the change from {crs:.40} to {into:.40} {NEEDS_RASTERIO}")
    from rasterio import warp

    found_x, found_y = warp.transform(_system(crs), _system(into), x.ravel().tolist(), y.ravel().tolist())
    return np.array(found_x).reshape(x.shape), np.array(found_y).reshape(y.shape)


def has_rasterio() -> bool:
    return importlib.util.find_spec("rasterio") is not None


def crs_text(system: Any) -> str:
    """A system of rasterio as "EPSG:n" if it is exactly that one, else as its WKT."""
    from rasterio.crs import CRS

    number = system.to_epsg()
    return f"EPSG:{number}" if number and CRS.from_epsg(number) == system else str(system.to_wkt())


@lru_cache(maxsize=256)
def _system(crs: str) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise ValueError(f"{crs:.60}: no coordinate reference system ({error}); expected EPSG:32633, or WKT") from None


def checked_crs(crs: str) -> str:
    """A system that a person wrote, as it is kept. ValueError if there is no such system."""
    return crs_text(_system(crs)) if has_rasterio() else crs


def described(info: Mapping[str, Any]) -> tuple[Georeference, tuple[int, int]] | None:
    """The georeference of a tile and its (width, height), as its JSON has them; None if it has none.

    ValueError if it has half of one.
    """
    if not info.get("crs") or "transform" not in info:
        return None
    transform, size = info["transform"], info.get("size")
    numbers = isinstance(transform, list) and len(transform) == 6 and all(_is_number(one) for one in transform)
    if not numbers or not isinstance(size, list) or len(size) != 2 or not all(_is_number(one) for one in size):
        raise ValueError(
            f"its JSON has the transform {transform!r:.80} and the size {size!r:.40}, expected 6 and 2 numbers"
        )
    return Georeference(str(info["crs"]), tuple(map(float, transform))), (int(size[0]), int(size[1]))  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
