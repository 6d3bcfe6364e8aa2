"""From files of scenes to shards of tiles: what is asked for, what is there, and the tasks that make the rest.

OUT/pack.json says of which files, by which description, the shards are; OUT/stats/NAME.json what came of a shard, and
that it is there whole. A folder of something else is refused, never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...infra import configuration, storage
from ...infra.configuration import RecipeError
from ...infra.progress import Progress
from ...infra.secrets import public
from ...modalities import Size
from .. import archive
from ..engine import driver
from ..engine.job import NO_HINTS
from ..geo import georeference
from . import cut, tables
from . import plan as plans
from .files import Info
from .packed import PART
from .plan import Plan
from .settings import Pack
from .worker import STATS, PackJob, PackWorker, Stats, Task

RECORD = "pack.json"
_OPERATIONS = {"out", "engine"}  # that change no shard


@dataclass
class Packed:
    """What came of it. stats: of all shards that exist, by name. failures: why shards could not be made, by name."""

    plan: Plan
    stats: dict[str, Stats] = field(default_factory=dict)
    made: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def total(self, name: str) -> Counter[str]:
        """`left_out` or `absent` of all shards together."""
        return sum((getattr(one, name) for one in self.stats.values()), Counter())

    @property
    def tiles(self) -> int:
        return sum(one.tiles for one in self.stats.values())


def at(pack: Pack) -> Pack:
    """The same with an absolute folder."""
    return pack.model_copy(update={"out": storage.absolute(pack.out)})


def planned(pack: Pack) -> tuple[Plan, dict[str, list[str]]]:
    """The plan, and the tables of points. ValueError for whatever cannot be packed."""
    found = {name: tables.files(name, points) for name, points in pack.points.items()}
    plan = plans.make(pack)
    if found and any(area.georeference is None for area in plan.areas):
        raise ValueError(f"points: the files of {pack.reference} have no georeference, so that no row lies in a tile")
    if found and plan.areas[0].georeference:
        for points in pack.points.values():  # whether their system can be reached, before any work
            georeference.outline(plan.areas[0].georeference, 1, 1, points.crs)
    return plan, found


def make(pack: Pack) -> Packed:
    """Write the shards that are missing.

    Args:
        pack: with an absolute `out`.

    Raises:
        ValueError: something cannot be packed, or the folder holds something else.
    """
    plan, found = planned(pack)
    _claim(pack, plan, found)
    packed = Packed(plan, _there(pack, plan))
    todo = {name: _task(plan, name) for name in plan.shards if name not in packed.stats}
    if todo:
        storage.check_writable(pack.out)
        sample = plan.areas[0].files[pack.reference][0].url
        job = PackJob(pack, plan.sides, found, sample, pack.engine)
        new, packed.failures = _here(job, todo) if _is_small(pack, todo) else _on_cluster(job, todo)
        packed.made = len(new)
        packed.stats |= new
    packed.stats = {name: packed.stats[name] for name in plan.shards if name in packed.stats}
    storage.put(storage.join(pack.out, PART), configuration.dump(part_of_recipe(pack, packed)).encode())
    return packed


def _there(pack: Pack, plan: Plan) -> dict[str, Stats]:
    """What came of the shards that are whole, by name."""
    tars, noted = set(storage.list_names(pack.out)), set(storage.list_names(storage.join(pack.out, STATS)))
    names = [name for name in plan.shards if f"{name}.json" in noted]
    found = {name: Stats.read(storage.join(pack.out, STATS, f"{name}.json")) for name in names}
    return {name: one for name, one in found.items() if not one.tiles or f"{name}.tar" in tars}


def _task(plan: Plan, name: str) -> Task:
    tiles = plan.shards[name]
    return Task(name, tiles, {number: plan.areas[number] for number in sorted({tile.area for tile in tiles})})


def _is_small(pack: Pack, todo: Mapping[str, Task]) -> bool:
    """Whether it is done in this process: a Ray of its own takes seconds to start."""
    return pack.engine.address is None and (len(todo) == 1 or pack.engine.actors == 1)


def _here(job: PackJob, todo: Mapping[str, Task]) -> tuple[dict[str, Stats], dict[str, str]]:
    worker, made, failures = PackWorker(job), {}, {}
    with Progress("pack", len(todo), "shards") as progress:
        for name, task in todo.items():
            try:
                made[name] = worker.run(task, NO_HINTS)
            except (OSError, ValueError) as error:
                failures[name] = str(error)
            progress.failures = worker.status().rejects
            progress.update(1)
    worker.close()
    return made, failures


def _on_cluster(job: PackJob, todo: Mapping[str, Task]) -> tuple[dict[str, Stats], dict[str, str]]:
    outcome = driver.run(job, PackWorker, todo, "pack", "shards")
    return outcome.results, outcome.failures


def _claim(pack: Pack, plan: Plan, found: Mapping[str, Sequence[str]]) -> None:
    """Write the folder's record, or check that it is the same. ValueError if the folder holds something else."""
    files = sorted({info.url for area in plan.areas for infos in area.files.values() for info in infos})
    files += [url for urls in found.values() for url in urls]
    sizes = [(public(url), getattr(storage.stat(url), "size", None)) for url in files]
    options = pack.model_dump(mode="json", exclude=_OPERATIONS)
    for one in (*options["layers"].values(), *options["points"].values()):
        del one["files"]  # those that are there count, however they are named
    asked = {
        "options": options, "files": len(files), "tiles": plan.tiles, "sides": dict(plan.sides),
        "sum": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
    }  # fmt: skip
    asked = json.loads(json.dumps(asked))  # as it is read again
    if record := archive.record_of(pack.out, RECORD, "out"):
        named = {"options": "another description", "files": "another number of files", "sum": "other files"}
        differing = [named.get(name, f"other {name}") for name in asked if record.get(name) != asked[name]]
        if differing:
            raise ValueError(f"out: {pack.out} holds tiles of {differing[0]}; choose another folder")
        return
    storage.put(storage.join(pack.out, RECORD), json.dumps(asked, indent=1).encode())


def part_of_recipe(pack: Pack, packed: Packed) -> dict[str, Any]:
    """What a recipe says of the shards: its samples and sensors."""
    names = [name for name, one in packed.stats.items() if one.tiles]
    samples: dict[str, Any] = {}
    for split in ("train", "val"):
        if any(name.startswith(split) for name in names):
            samples[split] = storage.join(pack.out, f"{split}-*.tar")
    sensors: dict[str, Any] = {name: _sensor(pack, packed.plan, name) for name in pack.layers}
    for name, points in pack.points.items():
        unit = {"unit": points.unit} if points.unit else {}
        if points.form == "raster":
            bands = {"bands": points.values} if len(points.values) > 1 else {}
            sensors[name] = {"member": f"{name}.npy", **bands, **unit, **_shape(points.size or pack.size)}
            continue
        for value in points.values:
            called = name if len(points.values) == 1 else f"{name}_{value.lower()}"
            sensors[called] = {"member": "json", "field": f"{name}.{value}", **unit}
    return {"samples": samples, "sensors": sensors}


def _sensor(pack: Pack, plan: Plan, name: str) -> dict[str, Any]:
    layer = pack.layers[name]
    info = next(area.files[name][0] for area in plan.areas if area.files[name])
    georeferenced = plan.areas[0].georeference is not None
    member = f"{name}.tif" if layer.format == "tif" and georeferenced else f"{name}.npy"
    said: dict[str, Any] = {"member": member}
    if layer.classes:
        said["classes"] = layer.classes
    else:
        bands = layer.kept or ([] if info.shape[0] == 1 else _names(info))
        said |= {"bands": bands} if bands and info.shape[0] > 1 else {}
        scale = info.scale if layer.scale is None else layer.scale
        offset = info.offset if layer.offset is None else layer.offset
        said |= {"scale": scale} if scale != 1 else {}
        said |= {"offset": offset} if offset else {}
        said |= {"unit": layer.unit} if layer.unit else {}
    nodata = cut.nodata_of(layer, info)
    if nodata is not None and nodata == nodata and not (layer.classes and nodata == 255):
        said["nodata"] = nodata
    return said | _shape(plan.sides[name])


def _shape(size: Size) -> dict[str, Any]:
    """Of tiles that are no squares: their crops are none either."""
    return {"size": list(size)} if isinstance(size, tuple) else {}


def _names(info: Info) -> list[str]:
    """Names of the bands, as the file has them if it does, each once."""
    if all(info.names) and len(set(info.names)) == len(info.names):
        return list(info.names)
    return [f"b{i + 1}" for i in range(info.shape[0])]


def check(data: Any, where: str) -> Pack:
    """A description that was read. RecipeError for a mistake, in sentences."""
    from pydantic import ValidationError

    from ...infra.explain import explain

    if not isinstance(data, dict):
        raise RecipeError(f"{where}: expected a description with out and layers, got {type(data).__name__}")
    try:
        return Pack.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, where, Pack)) from None
