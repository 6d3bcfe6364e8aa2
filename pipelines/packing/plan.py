"""What is cut, before anything is read: areas, their files by layer, tiles, and the shards of each split.

Decisions:
- An area is the extent of one file of the grid's layer. Other layers have files of the same {area}, or whatever files
  lie there, or, without a georeference, one file that shows the same extent.
- Everything follows from the description and the files' headers: tiles have the same keys and shards on every machine.
- What is wrong is said here, before any work.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.utils import glob_translate

from ...infra import storage
from ...infra.fields import sized
from ...infra.progress import Progress
from ...infra.secrets import public
from ...modalities import Size, height_width, size_text
from .. import patterns
from ..geo import georeference
from ..geo.georeference import Georeference
from . import blocks, files
from .files import Info
from .overlaps import Listed, plain
from .settings import AREA, Layer, Pack
from .tiles import Area, Tile

THREADS = 16  # that open files
_PLACEHOLDER = "0AREA0"
_NAMED = 3  # files that an error names


@dataclass(frozen=True)
class Plan:
    """sides: pixels of a tile, by layer. shards: the tiles of each, by name. left_out: tiles that are in
    no shard, by reason. notes: what a person should know."""

    areas: tuple[Area, ...]
    sides: Mapping[str, Size]
    shards: Mapping[str, tuple[Tile, ...]]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def tiles(self) -> int:
        return sum(map(len, self.shards.values()))


def make(pack: Pack) -> Plan:
    """ValueError, in a sentence, for whatever cannot be packed."""
    found = {name: _files(name, layer) for name, layer in pack.layers.items()}
    infos = _looked_at(pack, found)
    for name, layer in pack.layers.items():
        _check_alike(name, layer, [info for _, info in infos[name]])
    areas, notes = _areas(pack, infos)
    listed = {name: Listed(of) for name, of in infos.items()}
    areas = [_with_files(pack, area, listed) for area in areas]
    _check_overlap(pack, areas)
    sides = {name: _side(pack, name, areas) for name in pack.layers}
    for area in areas:
        _check_readable(pack, area, sides)
    tiles = _tiles(pack, areas)
    split = blocks.split(pack, areas, tiles)
    return Plan(tuple(areas), sides, split.shards, split.left_out, (*notes, *split.notes))


def _files(name: str, layer: Layer) -> list[tuple[str, str]]:
    """(area, URL) of a layer's files, sorted; "" for an area that no name says."""
    found: dict[str, str] = {}
    for pattern in layer.files:
        local = storage.is_local(pattern)
        place = str(Path(storage.local_path(pattern)).expanduser().absolute()) if local else pattern
        before = len(found)
        for one in patterns.braces(place.replace(AREA, _PLACEHOLDER)):
            named = re.compile(_expression(one))
            for url in _matching(one.replace(_PLACEHOLDER, "*")):
                match = named.fullmatch(url) if _PLACEHOLDER in one else None
                if match or _PLACEHOLDER not in one:
                    found[url] = match["area"] if match else ""
        if len(found) == before:
            raise ValueError(f"layers.{name}.files: nothing is at {public(pattern)}; check the pattern")
    return sorted(((area, url) for url, area in found.items()), key=lambda pair: pair[::-1])


def _expression(pattern: str) -> str:
    """The regular expression of a pattern, with the area as a group."""
    first, *others = glob_translate(pattern).split(_PLACEHOLDER)
    return "(?P<area>[^/]+)".join([first, "(?P=area)".join(others)]) if others else first


def _matching(pattern: str) -> list[str]:
    if storage.is_local(pattern):
        return patterns.matching(pattern)
    return [pattern] if pattern.rstrip("/").endswith(".zarr") and "*" not in pattern else patterns.find(pattern)


def _looked_at(pack: Pack, found: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, list[tuple[str, Info]]]:
    """What each file is like, opened side by side."""
    asked = [(name, area, url) for name, listed in found.items() for area, url in listed]

    def look(one: tuple[str, str, str]) -> Info:
        name, _, url = one
        try:
            source = files.opened(url, pack.layers[name])
        except ValueError as error:
            raise ValueError(f"layers.{name}: {error}") from None
        source.close()
        return replace(source.info, time=_time(pack.layers[name], source.info))

    infos: dict[str, list[tuple[str, Info]]] = {name: [] for name in found}
    with ThreadPoolExecutor(THREADS) as pool, Progress("pack", len(asked), "files") as progress:
        for (name, area, _), info in zip(asked, pool.map(look, asked), strict=True):
            infos[name].append((area, info))
            progress.update(1)
    return infos


def _time(layer: Layer, info: Info) -> str:
    """When a file was taken, as ISO 8601 if its digits are understood, "" if it is not known."""
    match = re.search(layer.time, info.url) if layer.time else None
    text = match[1] if match else info.time
    digits = re.fullmatch(r"(\d{4})\D?(\d\d)\D?(\d\d)(?:\D?(\d\d)\D?(\d\d)\D?(\d\d)?)?\D*", text)
    if not digits:
        return text
    year, month, day, hour, minute, second = digits.groups()
    return f"{year}-{month}-{day}" + (f"T{hour}:{minute}:{second or '00'}" if hour else "")


def _check_alike(name: str, layer: Layer, infos: Sequence[Info]) -> None:
    """ValueError if the files of a layer do not have the same bands and type, or other bands than are said."""
    for info in infos:
        where = f"layers.{name}: {public(info.url)}"
        if layer.bands and info.shape[0] != len(layer.bands):
            raise ValueError(f"{where} has {info.shape[0]} bands, and the description names {len(layer.bands)}")
        if layer.classes and info.shape[0] != 1:
            raise ValueError(f"{where} has {info.shape[0]} bands, and a map of classes has one")
        if (info.shape[0], info.dtype) != (infos[0].shape[0], infos[0].dtype):
            raise ValueError(
                f"{where} has {info.shape[0]} bands of {info.dtype}, and {public(infos[0].url)} has "
                f"{infos[0].shape[0]} of {infos[0].dtype}; make layers of them"
            )
    nodata, dtype = layer.nodata, np.dtype(infos[0].dtype)
    if nodata is not None and dtype.kind in "iu" and not (nodata.is_integer() and _holds(dtype, nodata)):
        raise ValueError(f"layers.{name}.nodata: {nodata:g} is no value of {dtype.name}, which its files have")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max)


def _areas(pack: Pack, infos: Mapping[str, Sequence[tuple[str, Info]]]) -> tuple[list[Area], list[str]]:
    """The areas, without their other layers, and notes on those that are smaller than a tile."""
    listed = infos[pack.reference]
    names = [area or Path(info.url.rstrip("/")).stem.partition(".")[0] for area, info in listed]
    if len(set(names)) < len(names):
        names = [area or "-".join(posixpath.splitext(info.url)[0].split("/")[-2:]) for area, info in listed]
    names = [plain(name) for name in names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"layers.{pack.reference}: two files are of the area {twice[0]}; say {AREA} in its pattern")
    areas: list[Area] = []
    small: list[Area] = []
    for name, (_, info) in zip(names, listed, strict=True):
        area = _of_grid(pack, name, info) if pack.grid.crs else _of_file(pack, name, info)
        (areas if min(area.tiles) > 0 else small).append(area)
    if not areas:
        _, info = listed[0]
        raise ValueError(
            f"layers.{pack.reference}: {public(info.url)} has {info.shape[2]} x {info.shape[1]} px, less than a tile "
            f"of {size_text(pack.size)}; give a smaller size"
        )
    said = ", ".join(area.name for area in small[:_NAMED])
    return areas, [f"{len(small)} areas are smaller than a tile, and left out ({said})"] if small else []


def _of_file(pack: Pack, name: str, info: Info) -> Area:
    tiles = info.shape[2] // pack.tile[1], info.shape[1] // pack.tile[0]
    return Area(name, info.georeference, (0, 0), tiles, {pack.reference: (info,)})


def _of_grid(pack: Pack, name: str, info: Info) -> Area:
    """On the one grid of a system and a resolution, whose tiles begin at multiples of their side."""
    assert pack.grid.crs and pack.grid.resolution
    if info.georeference is None:
        raise ValueError(f"grid: {public(info.url)} has no georeference, which a grid with a crs needs")
    crs, step = georeference.checked_crs(pack.grid.crs), pack.grid.resolution
    x, y = georeference.outline(info.georeference, info.shape[2], info.shape[1], crs)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"grid: {public(info.url)} lies where {crs:.40} has no coordinates; choose another crs")
    (height, width), tall, wide = pack.tile, step * pack.tile[0], step * pack.tile[1]
    cols = math.floor(x.min() / wide + 1e-9), math.ceil(x.max() / wide - 1e-9)
    rows = math.floor(-y.max() / tall + 1e-9), math.ceil(-y.min() / tall - 1e-9)
    grid = Georeference(crs, (step, 0.0, 0.0, 0.0, -step, 0.0)).window(cols[0] * width, rows[0] * height)
    return Area(name, grid, (cols[0], rows[0]), (cols[1] - cols[0], rows[1] - rows[0]), {pack.reference: (info,)})


def _with_files(pack: Pack, area: Area, listed: Mapping[str, Listed]) -> Area:
    """An area with the files of all layers that show it."""
    chosen: dict[str, tuple[Info, ...]] = {}
    reference = listed[pack.reference]
    for name, of in listed.items():
        if name == pack.reference and (not pack.grid.crs or of.named):
            chosen[name] = area.files[name]
            continue
        by_name = list(of.named.get(area.name, ()))
        if of.others and of.others[0].georeference is None:
            if len(of.others) > 1 or len(reference.others) + sum(map(len, reference.named.values())) > 1:
                raise ValueError(
                    f"layers.{name}: {public(of.others[0].url)} has no georeference, so that nothing says which area "
                    f"it is of; say {AREA} in the patterns of {pack.reference} and {name}"
                )
            by_name += of.others
        elif of.others and area.georeference is None:
            raise ValueError(
                f"layers.{name} has a georeference, and {pack.reference}, whose pixels are the grid, has none; name a "
                "layer in grid that has one, or give both the same"
            )
        elif of.others:
            by_name += _there(pack, name, area, of)
        chosen[name] = tuple(by_name)
    return replace(area, files=chosen)


def _there(pack: Pack, name: str, area: Area, of: Listed) -> list[Info]:
    """The files of a layer that show an area."""
    assert area.georeference is not None
    if lacking := next((info for info in of.others if info.georeference is None), None):
        raise ValueError(f"layers.{name}: {public(lacking.url)} has no georeference, and others have; give it one")
    if not georeference.has_rasterio():
        systems = (info for info in of.others if info.georeference and info.georeference.crs != area.georeference.crs)
        if other := next(systems, None):
            raise ValueError(_other_grid(pack, name, other))
    return of.there(area.georeference, area.tiles[0] * pack.tile[1], area.tiles[1] * pack.tile[0])


def _check_overlap(pack: Pack, areas: Sequence[Area]) -> None:
    for name in pack.layers:
        if not any(area.files[name] for area in areas):
            raise ValueError(
                f"layers.{name}: none of its files shows any of the {len(areas)} areas of {pack.reference}; are they "
                "of the same places, and is their crs right?"
            )


def _side(pack: Pack, name: str, areas: Iterable[Area]) -> Size:
    """Pixels of a layer's tiles: about its own resolution, unless the description says another."""
    layer = pack.layers[name]
    if layer.size or pack.pixels == "grid":
        return layer.size or pack.size
    area = next(one for one in areas if one.files[name])
    info = area.files[name][0]
    if info.georeference is None or area.georeference is None:
        return _whole(pack, name, area, info)
    height, width = pack.tile
    middle = area.georeference.window(area.tiles[0] // 2 * width, area.tiles[1] // 2 * height)
    covered = georeference.pixels_covered(middle, pack.tile, info.georeference)
    return sized(*(max(1, round(math.sqrt(covered * ratio))) for ratio in (height / width, width / height)))


def _whole(pack: Pack, name: str, area: Area, info: Info) -> Size:
    """Of a file that has no georeference: its extent is that of the area's file, a whole ratio of pixels."""
    of = area.files[pack.reference][0].shape
    height, rest = divmod(pack.tile[0] * info.shape[1], of[1])
    width, more = divmod(pack.tile[1] * info.shape[2], of[2])
    if rest or more or not height or not width or height * pack.tile[1] != width * pack.tile[0]:
        raise ValueError(
            f"layers.{name}: {public(info.url)} has {info.shape[2]} x {info.shape[1]} px, and {pack.reference} has "
            f"{of[2]} x {of[1]}; without a georeference both must show the same extent, with a whole number of pixels "
            f"for each tile of {size_text(pack.size)}"
        )
    return sized(height, width)


def _check_readable(pack: Pack, area: Area, sides: Mapping[str, Size]) -> None:
    """ValueError if a layer must be resampled, and cannot be."""
    for name, infos in area.files.items():
        for info in infos:
            if info.georeference is None or area.georeference is None:
                if pack.grid.crs or sides[name] != _whole(pack, name, area, info):
                    where = f"layers.{name}: {public(info.url)}"
                    raise ValueError(f"{where} has no georeference, and is not resampled; leave out size and pixels")
            elif not georeference.has_rasterio():
                (tall, wide), (height, width) = pack.tile, height_width(sides[name])
                target = area.georeference.scaled(wide / width, tall / height)
                same = info.georeference.crs == target.crs
                if not same or not georeference.exact_window(info.georeference.transform, target.transform, 1, 1):
                    raise ValueError(_other_grid(pack, name, info))


def _other_grid(pack: Pack, name: str, info: Info) -> str:
    what = f"layers.{name}: {public(info.url)} has another grid than {pack.reference}, and resampling it"
    return f"{what} {georeference.NEEDS_RASTERIO}"


def _tiles(pack: Pack, areas: Sequence[Area]) -> list[Tile]:
    """All tiles; those of one grid that several areas have, once, unless names tell the areas apart."""
    shared = bool(pack.grid.crs) and not any(AREA in pattern for pattern in pack.layers[pack.reference].files)
    tiles: dict[str, Tile] = {}
    for number, area in enumerate(areas):
        for row in range(area.tiles[1]):
            for col in range(area.tiles[0]):
                place = f"r{area.first[1] + row:05d}_c{area.first[0] + col:05d}"
                key = place if shared else f"{area.name}_{place}"
                tiles.setdefault(key, Tile(key, number, col, row))
    return list(tiles.values())
