"""What lies in the first samples of shards, as the settings of sensors: for `fourmill init`.

Only what the files say is written down; what cannot be seen in them (units, names of bands and classes) is left for a
person, and what is not understood is named.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...sensors import Reading
from ..grouping import TEXT_EXTENSIONS
from ..reject import Reject
from ..source import Shard
from . import readers

MOST_BANDS = 64  # an axis of more is no axis of bands
MOST_CLASSES = 64
MOST_NUMBERS = 64
_FEW = 8  # bands of a series, and how many times as long it is; a raster is not so narrow
_MEMBERS = ("zarr.zip", "npy", "npz", "tif", "tiff", "png", "h5", "hdf5")
_NOTHING = (-9999.0, -32768.0, 65535.0, -999.0, -1e20, 1e20)  # that stand for no value wherever they occur
_PHOTOS = ("jpg", "jpeg", "webp", "png")


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
    problems: Counter[str] = field(default_factory=Counter)
    count: int = 0


def look(shard: Shard, samples: int, of: str = "") -> list[Found]:
    """What sensors the first samples of an open shard have.

    Args:
        samples: how many are looked at.
        of: the name of its set of tars, "" if there are no sets.
    """
    entries = shard.samples[:samples]
    members: dict[str, _Seen] = {}
    fields: dict[str, list[float]] = {}
    for entry in entries:
        for name in (*entry.others, *entry.members):
            if name == "txt" or (name in _PHOTOS and name == entry.image and not _is_deep(shard, entry, name)):
                continue
            if name == "json":
                _fields(shard.info(entry), fields)
                continue
            seen = members.setdefault(name, _Seen())
            seen.count += 1
            _read(shard, entry, name, seen)
    found = [_member(name, one, len(entries), of) for name, one in members.items()]
    found += [_scalar(name, values, len(entries), of) for name, values in fields.items()]
    return found


def _is_deep(shard: Shard, entry: Any, name: str) -> bool:
    """Whether a picture has 16 bits a channel: values, and no photo."""
    data = shard.read(entry, name) if name == "png" else b""
    return len(data) > 24 and data[24] == 16


def _read(shard: Shard, entry: Any, name: str, seen: _Seen) -> None:
    try:
        value = _array(shard.member_bytes(entry, name), name, seen)
    except (Reject, ValueError) as error:
        seen.problems[str(error)] += 1
        return
    if value is not None:
        seen.shapes[value.shape] += 1
        seen.dtypes[value.dtype.name] += 1
        seen.values.append(value)


def _array(data: bytes, name: str, seen: _Seen) -> np.ndarray | None:
    ending = next((one for one in _MEMBERS if name.endswith(one)), "")
    if ending not in readers.READERS:
        raise ValueError("nothing reads such a file; name a function that does (reader)")
    if why := readers.missing_package(name):
        raise ValueError(why)
    found = readers.read(data, Reading(member=name))
    return found if isinstance(found, np.ndarray) else None


def _fields(info: Mapping[str, Any], into: dict[str, list[float]], before: str = "") -> None:
    """The numbers of a JSON by their dotted names."""
    for name, value in info.items():
        if isinstance(value, Mapping) and not before:
            _fields(value, into, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            into.setdefault(f"{before}{name}", []).append(float(value))


def _scalar(name: str, values: Sequence[float], samples: int, of: str) -> Found:
    says = f"{len(values)} of {samples} samples, {min(values):.6g} to {max(values):.6g}"
    if min(values) == max(values):
        return Found(_plain(name), {}, f"the field {name} of json: always {values[0]:.6g}, which says nothing")
    return Found(_plain(name), {**_from(of), "member": "json", "field": name}, says)


def _member(name: str, seen: _Seen, samples: int, of: str) -> Found:
    short = _plain(name.removesuffix(next((f".{one}" for one in _MEMBERS if name.endswith(f".{one}")), "")))
    called = of if of and name in _MEMBERS else short
    where = f"{f'{of}/' if of else ''}{name}"
    if seen.problems and not seen.values:
        return Found(called, {}, f"{where}, {seen.count} of {samples} samples: {next(iter(seen.problems))}")
    if not seen.values:
        return Found(called, {}, f"{where}, {seen.count} of {samples} samples: no array of numbers")
    settings = {**_from(of), "member": name}
    shape, dtype = seen.shapes.most_common(1)[0][0], seen.dtypes.most_common(1)[0][0]
    says = f"{dtype} {shape} in {len(seen.values)} of {samples} samples"
    if len(seen.shapes) > 1:
        says += f", {len(seen.shapes)} different shapes"
    if len(seen.dtypes) > 1:
        says += f", also {', '.join(list(seen.dtypes)[1:])}"
    if seen.problems:
        says += f"; {sum(seen.problems.values())} cannot be read ({next(iter(seen.problems))})"
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
        return Found(name, settings | series, says + "; name the bands")
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
    return Found(name, settings, says + "; name the bands" + _zeros(flat, settings), min(sides))


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
    photos = [one for one in entries if one.image and not _is_deep(shard, one, one.image)]
    return bool(others) and not photos
