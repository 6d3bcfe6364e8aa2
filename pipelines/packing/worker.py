"""The job of packing as the engine runs it: a task is a shard, whose tiles are cut from whatever files show them."""

from __future__ import annotations

import json
import math
import tarfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...infra import cluster, faults, scratch, storage
from ...infra.secrets import public
from ...modalities import Size, height_width
from ...tokenize.labels import encode_array
from .. import archive
from ..engine import access
from ..engine.job import Demand, Hints, NodeSetup, PlaceError, Status
from ..engine.settings import Engine
from ..geo import georeference
from ..geo.rasters import Raster
from . import cut, tables
from .cut import Cut
from .files import Opened
from .settings import Pack
from .tiles import Area, Tile

STATS = "stats"  # the folder of what came of each shard, beside the shards
_AREAS = 4  # whose points are kept, in each thread
_GIB = 2**30


@dataclass(frozen=True)
class Task:
    """A shard to make: its name, its tiles, and the areas that they are of, by number."""

    name: str
    tiles: tuple[Tile, ...]
    areas: Mapping[int, Area]


@dataclass(frozen=True)
class PackJob:
    """sides: pixels of a tile, by layer. tables: URLs of points, by name. sample: a file that is read."""

    pack: Pack
    sides: Mapping[str, Size]
    tables: Mapping[str, Sequence[str]]
    sample: str
    engine: Engine = field(default_factory=Engine)

    def demand(self, gpu_there: bool) -> Demand:
        return Demand(self.engine.cpus or 1.0, 0.0, _GIB)

    def uses_torch(self) -> bool:
        return False

    def node_setups(self) -> Sequence[NodeSetup]:
        return access.asked(self.pack.out, self.sample, cluster.started_here())

    def advice_if_too_large(self) -> str:
        return "lower engine.cpus"


@dataclass
class Stats:
    """What came of a shard. tiles: that are in it. left_out: the others, by reason. absent: tiles without a layer, by
    "LAYER: reason". bytes: of its tar, 0 if no tile is left, and so no tar."""

    tiles: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @classmethod
    def read(cls, url: str) -> Stats:
        found = json.loads(storage.read_bytes(url))
        return cls(found["tiles"], Counter(found["left_out"]), Counter(found["absent"]), found["bytes"])


class PackWorker:
    """Makes shards. `run` is called from two threads, each of which has open files of its own."""

    def __init__(self, job: PackJob) -> None:
        self.job, self._opened = job, Opened()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._tiles, self._left_out = 0, Counter[str]()

    def setup(self, device: str) -> None:
        """Nothing is loaded."""

    def status(self) -> Status:
        with self._lock:
            return Status(self._tiles, Counter(self._left_out))

    def run(self, task: Task, hints: Hints) -> Stats:
        try:
            return self._make(task)
        except Exception as error:
            if faults.of_place(error):
                raise PlaceError.of(error, f"shard {task.name}") from None
            raise

    def close(self) -> None:
        self._opened.close()

    def _make(self, task: Task) -> Stats:
        """Write the tar, whole, and then what came of it: a shard is there when that is."""
        stats, out = Stats(), self.job.pack.out
        with scratch.folder() as folder:
            path = Path(folder, "shard.tar")
            with open(Path(folder, "tiles"), "w+b") as file:
                places = self._cut(task, stats, file)
                with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                    for tile in task.tiles:
                        for name, start, size in places.get(tile.key, ()):
                            file.seek(start)
                            archive.add(tar, name, file.read(size))
            if stats.tiles:
                stats.bytes = path.stat().st_size
                storage.put_file(storage.join(out, f"{task.name}.tar"), path)
        storage.put(storage.join(out, STATS, f"{task.name}.json"), json.dumps(vars(stats), indent=1).encode())
        return stats

    def _cut(self, task: Task, stats: Stats, file: BinaryIO) -> dict[str, list[tuple[str, int, int]]]:
        """Cut the tiles into a file, one after the other on the ground: the tar mixes them, and neighbours lie in the
        same parts of the same files. Returns the members of each tile, by key: name, first byte and size."""
        places: dict[str, list[tuple[str, int, int]]] = {}
        for tile in sorted(task.tiles, key=lambda one: (one.area, one.row, one.col)):
            made, absent = self._tile(task.areas[tile.area], tile)
            stats.absent.update(absent)
            lacking = next((one for one in absent if one.partition(":")[0] in self.job.pack.needed), None)
            reason = lacking or ("" if made else "no layer shows it")
            with self._lock:
                self._tiles += not reason
                self._left_out.update([reason] if reason else [])
            if reason:
                stats.left_out[reason] += 1
                continue
            stats.tiles += 1
            for name, data in made.items():
                places.setdefault(tile.key, []).append((f"{tile.key}.{name}", file.tell(), len(data)))
                file.write(data)
        return places

    def _tile(self, area: Area, tile: Tile) -> tuple[dict[str, bytes], list[str]]:
        """The members of a tile, and what it lacks with the reason."""
        pack = self.job.pack
        made: dict[str, bytes] = {}
        absent: list[str] = []
        cuts: dict[str, Cut] = {}
        for name in sorted(pack.layers, key=lambda one: one not in pack.needed):
            found = cut.read(pack, area, name, tile, self.job.sides[name], self._opened)
            if isinstance(found, str):
                absent.append(f"{name}: {found}")
                if name in pack.needed:
                    return {}, absent
                continue
            cuts[name] = found
            made |= _member(pack, name, found)
        numbers: dict[str, Any] = {}
        for name in pack.points:
            given, member = self._points(area, tile, name)
            if given is None and member is None:
                absent.append(f"{name}: there is no row")
            numbers |= {name: given} if given else {}
            made |= {f"{name}.npy": encode_array(member)} if member is not None else {}
        if made or numbers:
            made["json"] = json.dumps(_about(pack, area, tile, cuts) | numbers, ensure_ascii=False).encode()
        return {name: made[name] for name in sorted(made)}, absent

    def _points(self, area: Area, tile: Tile, name: str) -> tuple[dict[str, float | int] | None, np.ndarray | None]:
        """What rows say of a tile: numbers, or a raster; None of what there is not."""
        pack, points = self.job.pack, self.job.pack.points[name]
        assert area.georeference is not None
        held: OrderedDict[tuple[str, str], tables.Rows] = self._local.__dict__.setdefault("held", OrderedDict())
        if (key := (area.name, name)) not in held:
            width, height = (count * side for count, side in zip(area.tiles, pack.tile[::-1], strict=True))
            held[key] = tables.read(points, self.job.tables[name], area.georeference, width, height)
            if len(held) > _AREAS * len(pack.points):
                held.popitem(last=False)
        held.move_to_end(key)
        rows = held[key].inside(tile.col * pack.tile[1], tile.row * pack.tile[0], pack.tile)
        numbers = rows.numbers(points.values)
        if not numbers:
            return None, None
        if points.form == "numbers":
            return numbers, None
        return None, rows.raster(pack.tile, height_width(points.size or pack.size))


def _member(pack: Pack, name: str, found: Cut) -> dict[str, bytes]:
    layer = pack.layers[name]
    if layer.format == "npy" or found.georeference is None:
        return {f"{name}.npy": encode_array(found.pixels if len(found.pixels) > 1 else found.pixels[0])}
    classes = layer.classes if isinstance(layer.classes, list) else []
    place, pixels, unit = found.georeference, found.pixels, layer.unit
    bands, rows, cols = pixels.shape
    raster = Raster(place, (bands, rows, cols), pixels.dtype.name, found.nodata, layer.kept, unit, classes)
    return {f"{name}.tif": raster.encode(pixels)}


def _about(pack: Pack, area: Area, tile: Tile, cuts: Mapping[str, Cut]) -> dict[str, Any]:
    """Where a tile is from: its JSON. Lists and not objects where numbers are no values of the place, since `init`
    takes fields of numbers for these."""
    said: dict[str, Any] = {"area": area.name, "tile": [area.first[0] + tile.col, area.first[1] + tile.row]}
    if area.georeference is not None:
        height, width = pack.tile
        grid = area.georeference.window(tile.col * width, tile.row * height)
        said |= {"crs": grid.crs, "transform": list(grid.transform), "size": [width, height]}
        if georeference.has_rasterio() or grid.crs == georeference.LONLAT:
            middle = grid.points(np.array([width / 2]), np.array([height / 2]))
            lon, lat = georeference.transformed(*middle, grid.crs, georeference.LONLAT)
            if math.isfinite(lon[0]) and math.isfinite(lat[0]):
                said |= {"lon": round(float(lon[0]), 7), "lat": round(float(lat[0]), 7)}
    reference = cuts.get(pack.reference)
    if reference is not None:
        info, window = reference.files[0]
        said |= {"time": info.time} if info.time else {}
        if info.wcs:
            said |= {"wcs": info.wcs, "window": list(window)}
    if pack.licence:
        said["licence"] = pack.licence
    said["layers"] = {name: _source(one) for name, one in cuts.items()}
    return said


def _source(found: Cut) -> dict[str, Any]:
    files = [{"file": public(info.url), "window": list(window)} | ({"time": info.time} if info.time else {})
             for info, window in found.files]  # fmt: skip
    about: dict[str, Any] = {"files": files, "size": [found.pixels.shape[2], found.pixels.shape[1]]}
    if found.how:
        about["resampled"] = found.how
    return about
