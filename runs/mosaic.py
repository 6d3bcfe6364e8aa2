"""One map of a whole scene: its rasters are cut into tiles that overlap, and what is generated of each is blended.

OUT/{target}.tif                        with the crs and transform of the scene
OUT/{target}.{std,probability}.tif      with an ensemble: how much its members differ
OUT/settings.json                       all that they follow from
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..infra import scratch, storage
from ..infra.progress import Progress
from ..modalities import LABELS, NO_CLASS, Form, Size, height_width, size_text
from ..pipelines.geo import georeference, maps
from ..pipelines.geo.rasters import Raster
from ..pipelines.packing import cut, plan
from ..pipelines.packing.files import Opened
from ..pipelines.packing.settings import Pack
from ..pipelines.packing.tiles import Area, Tile
from ..sensors.declared import SENSORS, window_of
from ..sensors.reading import OF_SEVERAL, Reading, is_of
from .files import MADE_BY, SETTINGS, check
from .names import input_of, label_of, target_of
from .results import Made
from .run import Run

OF_ARRAYS = (*OF_SEVERAL, "zarr", "nc")  # files in which an array has a name
OVERLAP = 4  # neighbours share one so-many-th of a tile
_AT_ONCE = 32  # tiles
_ROWS = 256  # of a map that are written at a time


@dataclass(frozen=True)
class Scene:
    """Rasters of one place, by the label that each is of. sides: pixels of a tile, by label. size: (height, width) in
    pixels of the first one."""

    pack: Pack
    area: Area
    sides: Mapping[str, Size]
    size: tuple[int, int]

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The upper left corners of tiles, as (column, row) of the first raster; the last ones reach beyond it."""
        down, across = (side * (1 - 1 / OVERLAP) for side in self.pack.tile)
        pairs = zip(self.size, self.pack.tile, (down, across), strict=True)
        rows, cols = (max(0, math.ceil((length - side) / step)) + 1 for length, side, step in pairs)
        return [(col * across, row * down) for row in range(rows) for col in range(cols)]

    def tile(self, corner: tuple[float, float], opened: Opened) -> dict[str, np.ndarray]:
        """What each raster has of a tile, masked where it has nothing; without those that have no value at all."""
        assert self.area.georeference is not None
        here = replace(self.area, georeference=self.area.georeference.window(*corner))
        found: dict[str, np.ndarray] = {}
        for name, side in self.sides.items():
            one = cut.read(self.pack, here, name, Tile("", 0, 0, 0), side, opened)
            if not isinstance(one, str):
                found[name] = _with_gaps(one)
        return found


def _with_gaps(one: cut.Cut) -> np.ma.MaskedArray[Any, Any]:
    """Pixels of a tile, masked where there is none: what stands for none may be another value than in the shards, and
    the type of the file may have no NaN."""
    if one.nodata is None or not one.missing:
        return np.ma.MaskedArray(one.pixels)
    gaps = np.isnan(one.pixels) if math.isnan(one.nodata) else one.pixels == one.nodata
    return np.ma.MaskedArray(one.pixels, gaps)


def scene(run: Run, inputs: Mapping[str, Any], tile: Size) -> Scene:
    """The rasters of a scene, looked at. ValueError if they cannot be cut."""
    layers = {}
    for name, given in inputs.items():
        label = label_of(input_of(run.model.config, name))
        if label not in SENSORS or LABELS[label].form not in (Form.RASTER, Form.CLASSES) or not isinstance(given, str):
            raise ValueError(f"--tile: {name} is no raster of a sensor in one file; give one file, or leave it out")
        _check_shape(label, label, tile)
        layers[label] = _layer(SENSORS[label].reading(), given)
    if not layers:
        raise ValueError("--tile: give the scene: --input s2=scene.tif")
    settings = {"out": "-", "layers": layers, "size": tile, "split": {"val": 0, "guard": 0}, "max_missing": 0.999}
    pack = Pack.model_validate(settings | {"needs": []})
    planned = plan.make(pack)
    area = planned.areas[0]
    if area.georeference is None or not georeference.has_rasterio():
        what = "the scene has no georeference" if area.georeference is None else f"it {georeference.NEEDS_RASTERIO}"
        raise ValueError(f"--tile: {what}")
    for label in layers:
        declared = SENSORS[label].dtype
        for file in area.files[label]:
            if declared is not None and np.dtype(file.dtype).newbyteorder("=") != np.dtype(declared):
                raise ValueError(f"--tile: {label}: the file holds {file.dtype}, and the recipe says {declared}")
    info = area.files[pack.reference][0]
    return Scene(pack, area, planned.sides, (info.shape[1], info.shape[2]))


def _check_shape(name: str, label: str, tile: Size) -> None:
    """ValueError if crops of a label are of another shape than tiles: parts of each tile would have no map."""
    (high, wide), (height, width) = height_width(window_of(label)), height_width(tile)
    if high * width != wide * height:
        crops = "squares" if high == wide else f"of {size_text((high, wide))} px"
        like = "one side, such as 96" if high == wide else f"one like them, such as {high}x{wide}"
        raise ValueError(
            f"--tile: crops of {name} are {crops}, and a tile of {size_text(tile)} px has another shape; give {like}, "
            "or generate it without --tile"
        )


def _layer(reading: Reading, file: str) -> dict[str, Any]:
    """A file of a sensor as a layer: all of its bands, whose meaning is the sensor's."""
    classes = {"classes": ["-"], "resampling": "nearest"} if reading.classes else {}
    nodata = {"nodata": reading.nodata[0]} if reading.nodata else {}
    # A scene may be a file of another kind than the members, which holds one array.
    array = reading.array if is_of(file.rstrip("/").lower(), OF_ARRAYS) else None
    return {"files": file, "array": array, "axes": reading.axes, "bands": reading.bands, **classes, **nodata}


class Canvas:
    """A map that tiles are blended into, on disk.

    Args:
        folder: of its arrays. shape: rows, columns and values of a pixel. size: pixels of a tile.
    """

    def __init__(self, folder: str, shape: tuple[int, int, int], size: Size) -> None:
        rows, cols, width = shape
        high, wide = height_width(size)
        # Tiles at the edges reach beyond the map.
        whole = (rows + 2 * high, cols + 2 * wide)
        self.shape = shape
        self._sum = np.lib.format.open_memmap(Path(folder, "sum.npy"), "w+", np.float32, (*whole, width))
        self._weight = np.lib.format.open_memmap(Path(folder, "weight.npy"), "w+", np.float32, (*whole, width))
        self._ramp = (_ramp(high)[:, None] * _ramp(wide)[None, :])[..., None].astype(np.float32)

    def add(self, col: int, row: int, values: np.ndarray) -> None:
        """A tile, (height, width, values), NaN where it has none: it weighs less toward its edges."""
        there = np.isfinite(values)
        place = (slice(row, row + len(values)), slice(col, col + values.shape[1]))
        self._sum[place] += np.where(there, values, 0) * self._ramp
        self._weight[place] += there * self._ramp

    def rows(self) -> Iterator[np.ndarray]:
        """The map from top to bottom, (some rows, columns, values) at a time; NaN where no tile has a value."""
        for first in range(0, self.shape[0], _ROWS):
            place = (slice(first, min(first + _ROWS, self.shape[0])), slice(0, self.shape[1]))
            total, weight = self._sum[place], self._weight[place]
            yield np.where(weight > 0, total / np.maximum(weight, 1e-12), np.nan).astype(np.float32)


def _ramp(side: int) -> np.ndarray:
    """How much each pixel of a tile's side weighs, from one edge to the other."""
    far = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5)
    return np.minimum(1.0, far * OVERLAP / side)


def generate(
    run: Run, inputs: Mapping[str, Any], to: Sequence[str], tile: Size, out: str, ensemble: int = 1,
    seed: int | None = None, **options: Any,
) -> list[str]:  # fmt: skip
    """Generate maps of a scene, and write them; returns their paths.

    Args:
        inputs: label or modality -> a file of rasterio's kinds, or an array with a place, of the whole scene.
        to: targets, as of `Run.generate`; all are maps.
        tile: pixels of the first input along a side of a tile, or (height, width).

    Raises:
        ValueError: something cannot be done; says what to do.
    """
    folder = storage.absolute(out)
    before = check(folder)
    targets = [target_of(run.model.config, one.partition(":")[0]) for given in to for one in given.split(",")]
    for name in targets:
        if LABELS[label_of(name)].form not in maps.MAPS:
            raise ValueError(f"--tile: {name} is no map; generate it without --tile")
        _check_shape(name, label_of(name), tile)
    whole = scene(run, inputs, tile)
    classes = {name: len(run.coder.classes([name]).get(label_of(name), ())) for name in targets}
    opened, corners = Opened(), whole.corners
    with scratch.folder() as place, Progress("generate", len(corners), "tiles") as progress:
        canvases: dict[str, Canvas] = {}
        for first in range(0, len(corners), _AT_ONCE):
            some = [(corner, whole.tile(corner, opened)) for corner in corners[first : first + _AT_ONCE]]
            some = [(corner, given) for corner, given in some if whole.pack.reference in given]
            if some:
                base = (run.settings.seed if seed is None else seed) + first  # tiles differ in their random numbers
                made = run.generate([given for _, given in some], to, seed=base, ensemble=ensemble, **options)
                for (corner, _), one in zip(some, made, strict=True):
                    _blend(canvases, place, whole, corner, one, classes)
            progress.update(min(_AT_ONCE, len(corners) - first))
        opened.close()
        if not canvases:
            raise ValueError("--tile: no tile of the scene has a value; look at its nodata")
        files = [path for name, canvas in canvases.items() for path in _write(run, whole, name, canvas, folder)]
    names = [path.rpartition("/")[2] for path in files]
    for name in sorted(before - set(names)):
        storage.delete(storage.join(folder, name))
    about = {
        "made_by": MADE_BY, "version": __version__, "run": run.place, "inputs": dict(inputs), "to": list(to),
        "tile": tile, "ensemble": ensemble, "seed": seed, "options": options, "files": names,
    }  # fmt: skip
    storage.put(storage.join(folder, SETTINGS), (json.dumps(about, indent=1, default=str) + "\n").encode())
    return files


def _blend(
    canvases: dict[str, Canvas], folder: str, whole: Scene, corner: tuple[float, float], made: Made,
    classes: Mapping[str, int],
) -> None:  # fmt: skip
    """Add what was generated of a tile to the maps of its targets; class maps as the share of each class."""
    for name, value in made.items():
        spread = made.spread.get(name)
        if LABELS[label_of(name)].form is Form.CLASSES:
            parts = {name: spread if spread is not None else _shares(value, classes[name])}
        else:
            parts = {name: value if value.ndim == 3 else value[..., None]}
            parts |= {f"{name}.std": spread} if spread is not None else {}
        for part, values in parts.items():
            down, across = (side / of for side, of in zip(values.shape[:2], whole.pack.tile, strict=True))
            if part not in canvases:
                height, width = round(whole.size[0] * down), round(whole.size[1] * across)
                below = Path(folder, part)
                below.mkdir()
                canvases[part] = Canvas(str(below), (height, width, values.shape[2]), values.shape[:2])
            col, row = round(corner[0] * across), round(corner[1] * down)
            canvases[part].add(col, row, np.asarray(values, np.float32))


def _shares(ids: np.ndarray, classes: int) -> np.ndarray:
    """1 for the class of each pixel and 0 for the others, float32 (H, W, classes)."""
    count = max(classes, int(ids[ids != NO_CLASS].max(initial=0)) + 1)
    shares: np.ndarray = (ids[..., None] == np.arange(count)).astype(np.float32)
    return shares


def _write(run: Run, whole: Scene, part: str, canvas: Canvas, folder: str) -> list[str]:
    """The files of a map: itself, and of classes how sure it is."""
    name, _, what = part.partition(".")
    label = label_of(name)
    rows, cols, width = canvas.shape
    assert whole.area.georeference is not None
    here = whole.area.georeference.scaled(whole.size[1] / cols, whole.size[0] / rows)
    if LABELS[label].form is not Form.CLASSES:
        raster = maps.described(label, here, (width, rows, cols), "float32", spread=bool(what))
        return [_put(folder, part, raster, canvas.rows())]
    names = run.coder.classes([name]).get(label, ())
    ids = (_likeliest(shares) for shares in canvas.rows())
    likeliest = maps.described(label, here, (1, rows, cols), "uint8", names)
    shares = maps.described(label, here, (width, rows, cols), "float32", names, spread=True)
    return [_put(folder, part, likeliest, ids), _put(folder, f"{part}.probability", shares, canvas.rows())]


def _likeliest(shares: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns, 1): the class of the largest share, 255 where none has a larger one, or no tile lies."""
    known = np.nan_to_num(shares)
    largest, none = known.max(axis=2), 1 - known.sum(axis=2)
    ids = np.where((largest > 0) & (largest >= none), known.argmax(axis=2), NO_CLASS)
    return ids[..., None].astype(np.uint8)


def _put(folder: str, name: str, raster: Raster, rows: Iterator[np.ndarray]) -> str:
    url = storage.join(folder, f"{name}.tif")
    with scratch.folder() as place:
        path = Path(place, "map.tif")
        raster.write(path, rows)
        storage.put_file(url, path)
    return url
