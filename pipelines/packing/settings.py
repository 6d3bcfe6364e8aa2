"""The description of what is packed: files of layers, the grid of tiles, the split by place."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...infra.fields import Count, Pixels, Positive, Section, Share, UrlList
from ...modalities import height_width
from ..engine.settings import Engine

AREA = "{area}"  # in a pattern: what files of one area have in common
_NAME = re.compile(r"[a-z][a-z0-9_]*")
Resampling = Literal["nearest", "bilinear", "cubic", "average", "mode"]
Axes = Literal["chw", "hwc"]


class Layer(Section):
    """Rasters of one instrument.

    files: names, patterns, or a pattern with {area}. array: its name in an HDF5, NetCDF or Zarr. axes: of an array.
    bands: names of all of the file's, in its order; use: those that are kept. classes: ids of classes, by their names.
    nodata: in place of the file's own. crs, transform: in place of the file's own, or of an array, which has none.
    size: pixels along a side of its tiles, or [height, width].
    time: a regular expression whose group in the file's path is the time.
    """

    files: UrlList
    array: str | None = None
    axes: Axes | None = None
    bands: list[str] = []
    use: list[str] = []
    classes: list[str] | dict[int, str] = []
    nodata: float | None = None
    unit: str = ""
    scale: float | None = None
    offset: float | None = None
    crs: str | None = None
    transform: Annotated[list[float], Field(min_length=6, max_length=6)] | None = None
    resampling: Resampling | None = None
    size: Pixels | None = None
    format: Literal["npy", "tif"] = "npy"
    time: str | None = None

    @field_validator("time")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            groups = re.compile(value or "()").groups
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"{value!r} has {groups} groups, expected one: the time, such as _(\\d{{8}}T\\d{{6}})")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for what, names in (("bands", self.bands), ("use", self.use)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: a name stands twice in {names}")
        if unknown := [name for name in self.use if name not in self.bands]:
            raise ValueError(f"use: {unknown[0]!r} is not among the bands, {', '.join(self.bands) or 'which are none'}")
        if self.classes and self.resampling not in (None, "nearest", "mode"):
            raise ValueError(f"resampling: {self.resampling} would mix ids of classes; expected nearest or mode")
        if self.transform and not self.crs:
            raise ValueError("crs: it goes with transform")
        return self

    @property
    def kept(self) -> list[str]:
        """Names of the bands of its tiles; [] if they have none."""
        return self.use or self.bands


class Points(Section):
    """Rows of tables with a place and values, such as footprints of a lidar: Parquet or CSV.

    x, y: the columns of its place, in the system `crs`. values: columns of numbers. nodata: values that stand for none.
    form: numbers are the mean and the count of the rows of a tile, in its JSON; a raster has the mean of each pixel,
    NaN where there is no row.
    """

    files: UrlList
    x: str = "lon"
    y: str = "lat"
    crs: str = "EPSG:4326"
    values: Annotated[UrlList, Field(min_length=1)]
    nodata: Annotated[list[float], BeforeValidator(lambda v: v if isinstance(v, list) else [v])] = []
    unit: str = ""
    form: Literal["numbers", "raster"] = "numbers"
    size: Pixels | None = None


class Grid(Section):
    """layer: whose files are the areas that are cut, and whose pixels the tiles have, unless crs and resolution are
    given: then tiles lie on one grid, at multiples of their sides."""

    layer: str | None = None
    crs: str | None = None
    resolution: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.crs is None) != (self.resolution is None):
            raise ValueError("crs and resolution go together: the resolution is in units of the crs")
        return self


class Split(Section):
    """val, test: their shares of blocks. block: tiles along a side of one. guard: tiles of training that are left out
    around blocks of the others, so that no training tile is near them."""

    val: Share = 0.1
    test: Share = 0.0
    block: Positive = 8
    guard: Count = 1

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val and test are {self.val + self.test:g} together, which leaves nothing to train on")
        return self


def _as_grid(value: Any) -> Any:
    return {"layer": value} if isinstance(value, str) else value


class Pack(Section):
    """What `fourmill pack` reads.

    size: pixels of the grid along a side of a tile, or [height, width]. pixels: each layer's tiles have about its own
    resolution, or all the grid's. max_missing: the share of pixels without a value above which a layer has no tile.
    needs: layers and points without which a tile is left out; the grid's layer unless given.
    """

    out: str
    layers: Annotated[dict[str, Layer], Field(min_length=1)]
    points: dict[str, Points] = {}
    grid: Annotated[Grid, BeforeValidator(_as_grid)] = Grid()
    size: Pixels = 224
    pixels: Literal["own", "grid"] = "own"
    max_missing: Share = 0.5
    needs: list[str] | None = None
    split: Split = Split()
    shard_size: Positive = 1000
    seed: int = 0
    licence: str = ""
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [*self.layers, *self.points]
        for name in names:
            if not _NAME.fullmatch(name) or name.startswith("tok_"):
                raise ValueError(f"layers: got the name {name!r}; expected small letters, digits and _, without tok_")
        if twice := self.layers.keys() & self.points.keys():
            raise ValueError(f"points: {min(twice)} is a layer as well; choose another name")
        if self.grid.layer is not None and self.grid.layer not in self.layers:
            raise ValueError(f"grid: there is no layer {self.grid.layer!r}, but {', '.join(self.layers)}")
        if unknown := [name for name in self.needs or () if name not in names]:
            raise ValueError(f"needs: there is no layer {unknown[0]!r}, but {', '.join(names)}")
        return self

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a tile, in pixels of the grid."""
        return height_width(self.size)

    @property
    def reference(self) -> str:
        """The layer whose files are the areas."""
        return self.grid.layer or next(iter(self.layers))

    @property
    def needed(self) -> list[str]:
        return [self.reference] if self.needs is None else self.needs
