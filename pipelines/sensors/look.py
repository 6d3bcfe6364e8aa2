"""What lies in the first samples of shards, as the settings of sensors: for `fourmill init`.

Only what the files say is written down; what cannot be seen in them (units, names of bands and classes) is left for a
person, and what is not understood is named.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...sensors.reading import Reading
from ..grouping import TEXT_EXTENSIONS
from ..reject import Reject
from ..source import Shard
from . import readers
from .fields import Seen as Fields

MOST_BANDS = 64  # an axis of more is no axis of bands
MOST_CLASSES = 64
MOST_NUMBERS = 64
_FEW = 8  # bands of a series, and how many times as long it is; a raster is not so narrow
_MEMBERS = ("zarr.zip", "npy", "npz", "tif", "tiff", "png", "h5", "hdf5")
_NOTHING = (-9999.0, -32768.0, 65535.0, -999.0, -1e20, 1e20)  # that stand for no value wherever they occur
_PHOTOS = ("jpg", "jpeg", "webp", "png")
_WEIGHTS = ("ivar", "inverse_variance", "weight", "weights")
_AXES = ("lambda", "wavelength", "wavelengths", "wave")
_COMPANIONS = (*_WEIGHTS, *_AXES, "mask")
_UNNAMED = "; name the bands"
_KEYS = ("object_id", "key", "__key__", "id", "sample_id", "source_id", "name", "filename")  # columns of keys


@dataclass
class Found:
    """A member of some samples, or a field of their JSON.

    settings: of the sensor, {} if it is not understood. says: what was seen, for a comment.
    """

    name: str
    settings: dict[str, Any]
    says: str
    side: int = 0  # shorter side of a raster or class map, pixels


@dataclass
class _Seen:
    """Arrays of one member, of some samples."""

    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    values: list[np.ndarray] = field(default_factory=list)
    words: tuple[str, ...] = ()  # of a list of texts
    problems: Counter[str] = field(default_factory=Counter)
    count: int = 0


def look(shard: Shard, samples: int, of: str = "", key: str = "") -> list[Found]:
    """What sensors the first samples of an open shard have.

    Args:
        samples: how many are looked at.
        of: the name of its set of tars, "" if there are no sets.
        key: the column that has the keys, which is no sensor.
    """
    entries = shard.samples[:samples]
    members: dict[str, _Seen] = {}
    fields = Fields()
    for entry in entries:
        for name in (*entry.others, *entry.members):
            if name in ("txt", key) or (name in _PHOTOS and name == entry.image and not _is_deep(shard, entry, name)):
                continue
            if name == "json":
                fields.add(shard.info(entry))
                continue
            _read(shard, entry, name, members.setdefault(name, _Seen()))
    where = "column" if shard.is_table else "member"
    found = [_member(name, one, len(entries), of, where) for name, one in members.items()]
    single = set(fields.numbers)
    for name, settings, says in fields.records(len(entries)):
        found.append(Found(_plain(name), {**_from(of), **settings} if settings else {}, says))
    taken = single - set(fields.numbers)  # columns of a table that are no numbers by themselves
    found = [one for one in found if one.settings.get("column") not in taken]
    numbers = {} if shard.is_table else fields.numbers  # of a table they are its columns
    found += [_scalar(name, values, len(entries), of) for name, values in numbers.items()]
    found += [Found(_plain(name), {}, f"the field {name} of json: {says}") for name, says in fields.others.items()]
    found = _with_companions(found, members, where)
    return _with_names(found, {name: one.words for name, one in members.items() if one.words})


def key_column(shard: Shard, reopened: Callable[[str], AbstractContextManager[Shard]]) -> str:
    """The column of an open table that names its rows, "" if none does: the first that is called so and has each value
    once. `reopened` opens the table by a column of keys."""
    columns = shard.samples[0].others if shard.is_table and shard.samples else {}
    for name in filter(columns.__contains__, _KEYS):
        try:
            with reopened(name) as by_name:
                if not by_name.rejects:
                    return name
        except ValueError:  # no texts and no whole numbers
            continue
    return ""


def _with_companions(found: Sequence[Found], members: Mapping[str, _Seen], where: str) -> list[Found]:
    """The same, where inverse variances and wavelengths go with the values beside them."""
    by_name = {str(one.settings[where]): one for one in found if one.settings.get(where) in members}
    taken = set[str]()
    for name, one in by_name.items():
        shapes, parent = members[name].shapes, _parent(name)
        beside = {_stem(other): other for other in members if other != name and _parent(other) == parent}
        if one.settings.get("kind") in ("scalar", "vector") or "classes" in one.settings or _stem(name) in _COMPANIONS:
            continue
        settings = dict(one.settings)
        weight = next((beside[of] for of in _WEIGHTS if of in beside), "")
        if weight and members[weight].shapes == shapes:
            settings["weight"] = weight
            taken.add(weight)
        axis = next((of for of in _AXES if of in beside), "")
        if axis and settings.get("kind") == "series" and members[beside[axis]].values:
            taken.add(beside[axis])
            places = members[beside[axis]].values
            if len(shapes) > 1 or any(not np.array_equal(at, places[0]) for at in places[1:]):
                low, high = min(map(np.nanmin, places)), max(map(np.nanmax, places))
                settings |= {"axis": {"wavelength": beside[axis]}}
                settings["grid"] = {"from": float(low), "to": float(high), "points": settings.pop("length")}
        by_name[name] = replace(one, settings=settings)
    names = {_plain(name.removesuffix(".npy")) for name in taken}
    left = [by_name.get(str(one.settings.get(where)), one) for one in found]
    return [one for one in left if str(one.settings.get(where)) not in taken and one.name not in names]


def _parent(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[0] if name.endswith(_MEMBERS) else name.rpartition(".")[0]


def _stem(name: str) -> str:
    """The last part of a name, without its kind of file: "ivar" of spectrum.ivar and of ivar.npy."""
    return (name.rpartition(".")[0] if name.endswith(_MEMBERS) else name).rpartition(".")[2].lower()


def _with_names(found: Sequence[Found], words: Mapping[str, tuple[str, ...]]) -> list[Found]:
    """The same with names of bands, where a list of as many texts lies beside their column; without such lists."""
    changed, used = [], set()
    for one in found:
        parent = one.settings.get("column", "").rpartition(".")[0]
        for name, bands in words.items():
            of_it = parent and name.rpartition(".")[0] == parent
            if of_it and len(bands) == len(one.settings.get("bands", ())) and len(set(bands)) == len(bands):
                one = replace(one, settings=one.settings | {"bands": list(bands)}, says=one.says.replace(_UNNAMED, ""))
                used.add(_plain(name))
        changed.append(one)
    return [one for one in changed if one.settings or one.name not in used]


def _is_deep(shard: Shard, entry: Any, name: str) -> bool:
    """Whether a picture has 16 bits a channel: values, and no photo."""
    data = shard.read(entry, name) if name == "png" else b""
    return len(data) > 24 and data[24] == 16


def _read(shard: Shard, entry: Any, name: str, seen: _Seen) -> None:
    try:
        data = shard.member_bytes(entry, name)
    except Reject as error:
        if shard.is_table and error.reason.endswith("there is none"):
            return  # null, as a member that a tar lacks
        seen.problems[str(error)] += 1
        data = b""
    seen.count += 1
    try:
        value = _array(data, name, shard.is_table, seen) if data else None
    except ValueError as error:
        seen.problems[str(error)] += 1
        return
    if value is not None:
        seen.shapes[value.shape] += 1
        seen.dtypes[value.dtype.name] += 1
        seen.values.append(value)


def _array(data: bytes, name: str, is_column: bool, seen: _Seen) -> np.ndarray | None:
    if is_column:
        if data.startswith(b'["'):
            seen.words = tuple(map(str, json.loads(data)))
        found = readers.read(data, Reading(column=name))
        return found if isinstance(found, np.ndarray) else None
    ending = next((one for one in _MEMBERS if name.endswith(one)), "")
    if ending not in readers.READERS:
        raise ValueError("nothing reads such a file; name a function that does (reader)")
    if why := readers.missing_package(name):
        raise ValueError(why)
    found = readers.read(data, Reading(member=name))
    return found if isinstance(found, np.ndarray) else None


def _scalar(name: str, values: Sequence[float], samples: int, of: str) -> Found:
    says = f"{len(values)} of {samples} samples, {min(values):.6g} to {max(values):.6g}"
    if min(values) == max(values):
        return Found(_plain(name), {}, f"the field {name} of json: always {values[0]:.6g}, which says nothing")
    return Found(_plain(name), {**_from(of), "member": "json", "field": name}, says)


def _member(name: str, seen: _Seen, samples: int, of: str, key: str) -> Found:
    """What a member is, or a column; `key` says which."""
    short = _plain(name.removesuffix(next((f".{one}" for one in _MEMBERS if name.endswith(f".{one}")), "")))
    called = of if of and name in _MEMBERS else short
    where = f"{f'{of}/' if of else ''}{name}"
    if seen.problems and not seen.values:
        return Found(called, {}, f"{where}, {seen.count} of {samples} samples: {next(iter(seen.problems))}")
    if not seen.values:
        return Found(called, {}, f"{where}, {seen.count} of {samples} samples: no array of numbers")
    settings = {**_from(of), key: name}
    shape, dtype = seen.shapes.most_common(1)[0][0], seen.dtypes.most_common(1)[0][0]
    says = f"{dtype} {shape} in {len(seen.values)} of {samples} samples"
    if len(seen.shapes) > 1:
        says += f", {len(seen.shapes)} different shapes"
    if len(seen.dtypes) > 1:
        says += f", also {', '.join(list(seen.dtypes)[1:])}"
    if seen.problems:
        says += f"; {sum(seen.problems.values())} cannot be read ({next(iter(seen.problems))})"
    if dtype.startswith("datetime64"):
        times = np.concatenate([one.reshape(-1) for one in seen.values])
        hour = {} if "[D]" in dtype else {"hour": True}
        return Found(called, settings | {"kind": "time"} | hour, f"{says}, {times.min()} to {times.max()}")
    return _described(called, settings, says, shape, seen)


def _described(name: str, settings: dict[str, Any], says: str, shape: tuple[int, ...], seen: _Seen) -> Found:
    flat = np.concatenate([one.reshape(-1)[:: max(1, one.size // 65_536)] for one in seen.values]).astype(np.float64)
    known = flat[np.isfinite(flat)]
    plain = [size for size in shape if size != 1] or [1]
    if not known.size:
        return Found(name, {}, f"{says}: no value is finite")
    nothing = [value for value in _NOTHING if (known == value).any()]
    real = known[~np.isin(known, nothing)] if nothing else known
    if not real.size:
        return Found(name, {}, f"{says}: all values are {nothing[0]:g}")
    says += f", {real.min():.6g} to {real.max():.6g}"
    if len(seen.values) > 1 and all(np.array_equal(one, seen.values[0], equal_nan=True) for one in seen.values[1:]):
        return Found(name, {}, f"{name}, {says}: the same in all of them, which says nothing")
    if (gaps := 1 - real.size / flat.size) > 0:
        says += f", {gaps:.1%} without a value"
    if len(plain) == 1:
        if plain[0] == 1:
            return Found(name, settings | {"kind": "scalar"}, says)
        if plain[0] <= MOST_NUMBERS:
            return Found(name, settings | {"kind": "vector", "shape": list(shape)}, says)
        return Found(name, settings | {"kind": "series", "length": plain[0]}, says)
    if nothing:
        settings["nodata"] = nothing[0] if len(nothing) == 1 else nothing
    if len(plain) == 2 and min(plain) <= _FEW and max(plain) >= _FEW * min(plain):
        series = {"kind": "series", "length": max(plain), "bands": [f"b{i + 1}" for i in range(min(plain))]}
        return Found(name, settings | series, says + _UNNAMED)
    if len(plain) == 2:
        if _is_classes(seen, real):
            count = int(real.max()) + 1
            settings["classes"] = [f"class {i}" for i in range(count)]
            settings.pop("nodata", None)
            says += f"; {np.unique(real).size} ids occur: name the classes, or take classes out if these are no ids"
        return Found(name, settings, says + _zeros(flat, settings), min(plain))
    bands = [axis for axis in (0, 2) if len(plain) == 3 and plain[axis] <= MOST_BANDS]
    if not bands:
        return Found(name, {}, f"{says}: no axis of at most {MOST_BANDS} bands is the first or the last")
    axis = min(bands, key=lambda one: plain[one])
    settings["bands"] = [f"b{i + 1}" for i in range(plain[axis])]
    if plain[0] == plain[2]:
        settings["axes"] = "chw"
    sides = plain[1:] if axis == 0 else plain[:2]
    return Found(name, settings, says + _UNNAMED + _zeros(flat, settings), min(sides))


def _is_classes(seen: _Seen, values: np.ndarray) -> bool:
    whole = all(one.dtype.kind in "iu" for one in seen.values)
    return whole and values.min() >= 0 and values.max() < MOST_CLASSES and np.unique(values).size <= MOST_CLASSES


def _zeros(flat: np.ndarray, settings: Mapping[str, Any]) -> str:
    """A remark on zeros, which many files have where an instrument saw nothing."""
    share = float((flat == 0).mean())
    return f"; {share:.1%} are 0: nodata?" if "classes" not in settings and 0.001 < share < 0.999 else ""


def _from(of: str) -> dict[str, Any]:
    return {"from": of} if of else {}


def _plain(name: str) -> str:
    """A name that a sensor may have."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "values"
    return words if words[0].isalpha() else f"s_{words}"


def named(found: Sequence[Found], taken: Sequence[str]) -> list[Found]:
    """The same, with names that are there once and are none of `taken`, such as fourmill's own."""
    seen, changed = set(taken), []
    for one in found:
        name, number = one.name, 2
        if name in seen:
            name = f"{one.name}_sensor" if one.name in taken else one.name
        while name in seen:
            name, number = f"{one.name}_{number}", number + 1
        seen.add(name)
        changed.append(Found(name, one.settings, one.says, one.side))
    return changed


def lines(found: Sequence[Found]) -> list[str]:
    """The section `sensors`, as lines of YAML with what was seen of each; names come from files, and end no line."""
    text = ["sensors:"]
    for one in found:
        says = ascii(one.says)[1:-1]
        if one.settings:
            text += [f"  # {says}", f"  {one.name}: {json.dumps(one.settings)}"]
        else:
            text.append(f"  # NOT UNDERSTOOD, and left out: {says}")
    return text


def has_sensors(shard: Shard, samples: int) -> bool:
    """Whether the first samples have no photo, and members that a sensor may have."""
    entries = shard.samples[:samples]
    others = [name for one in entries for name in (*one.others, *one.members) if name not in TEXT_EXTENSIONS]
    if shard.is_table:  # a picture beside spectra is a preview of them
        numbers = (one for one in look(shard, samples) if one.settings.get("kind") != "scalar")
        return any(one.settings for one in numbers) or not any(one.image for one in entries)
    photos = [one for one in entries if one.image and not _is_deep(shard, one, one.image)]
    return bool(others) and not photos
