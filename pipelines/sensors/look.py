"""What lies in the first samples of shards, as the settings of sensors: for `fourmill init`.

Only what the files say is written down; what cannot be seen in them (units, names of bands and classes) is left for a
person, and what is not understood is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from ..grouping import TEXT_EXTENSIONS
from ..source import Shard
from . import described
from .described import UNNAMED, Found
from .fields import Seen as Fields
from .seen import Seen, read

_PHOTOS = ("jpg", "jpeg", "webp", "png")
_WEIGHTS = ("ivar", "inverse_variance", "weight", "weights")
_AXES = ("lambda", "wavelength", "wavelengths", "wave")
_MASKS = ("mask", "bit_mask")
_COMPANIONS = (*_WEIGHTS, *_AXES, *_MASKS)
_PIXELS = ("x", "y", "lon", "lat", "longitude", "latitude", "easting", "northing")  # where pixels lie
_KEYS = ("object_id", "key", "__key__", "id", "sample_id", "source_id", "name", "filename")  # columns of keys
_TEXTS = (  # of no sensor
    "__key__", "key", "url", "caption", "area", "crs", "wcs", "licence", "license", "status", "sha256",
)  # fmt: skip
_ENDINGS = ("_id", "id", "_name")  # of other names that they have

_MOSTLY = 0.6  # of the values of a place: so many another set has as well
_EXPONENT = re.compile(r"\b(\d+)e")

_Places = dict[tuple[str, str], Seen]


def look(shard: Shard, samples: int, of: str = "", key: str = "") -> list[Found]:
    """What sensors the first samples of an open shard have.

    Args:
        samples: how many are looked at.
        of: the name of its set of tars, "" if there are no sets.
        key: the column that has the keys, which is no sensor.
    """
    entries = shard.samples[:samples]
    places: _Places = {}
    fields = Fields()
    for entry in entries:
        pictures = [name for name in entry.members if name in _PHOTOS and name == entry.image]
        for name in (*entry.others, *entry.members):
            if name in ("txt", key) or (name in pictures and not _is_values(shard, entry, name)):
                continue
            if name in entry.members and entry.members[name] in entry.others.values():
                continue  # a named part of the sample, which is read by its own name
            if name == "json":
                fields.add(shard.info(entry))
                continue
            read(shard, entry, name, places)
    found = _tables(places, len(entries), of) if shard.is_table else []
    left, records = _of_files(places, len(entries), of)
    mains = _mains(left)
    names = {at: described.called(one, of, at in mains) for at, one in left.items()}
    pairs = [(described.found(one, names[at], len(entries), of), one) for at, one in left.items()]
    found += _with_names(_with_companions(pairs, of), left)
    found += records
    by_json = _of_json(fields, found, len(entries), of, shard.is_table)  # takes some of them out
    return [*found, *by_json]


def _of_json(fields: Fields, found: list[Found], samples: int, of: str, is_table: bool) -> list[Found]:
    """What the fields of the samples' JSON are. Of a table its columns are taken out of `found` that are no values by
    themselves, such as those of a place."""
    single = {*fields.numbers, *fields.times}
    more = described.records(fields, samples, of)
    taken = single - set(fields.numbers)
    found[:] = [one for one in found if not taken & {one.settings.get("column"), _column_of(one)}]
    numbers = {} if is_table else fields.numbers  # of a table they are its columns
    more += [_scalar(name, values, samples, of) for name, values in numbers.items()]
    if not is_table:
        more += [
            Found(described.plain(name), {}, f"the field {name} of json: {says}")
            for name, says in fields.others.items()
        ]
        more += [
            Found(described.plain(name), {}, f"the field {name} of json: texts, such as {text!r:.40}", is_idle=True)
            for name, text in fields.texts.items()
            if name not in _TEXTS
        ]
    return more


def _column_of(one: Found) -> str:
    """The column that a sentence on what is not understood begins with."""
    return "" if one.settings else one.says.partition(",")[0]


def key_column(shard: Shard, reopened: Callable[[str], AbstractContextManager[Shard]]) -> str:
    """The column of an open table that names its rows, "" if none does: the first that is called so and has each value
    once. `reopened` opens the table by a column of keys."""
    columns = shard.samples[0].others if shard.is_table and shard.samples else {}
    names = [name for name in _KEYS if name in columns]
    for name in (*names, *(one for one in columns if one.lower().endswith(_ENDINGS) and one not in names)):
        try:
            with reopened(name) as by_name:
                if not by_name.rejects:
                    return name
        except ValueError:  # no texts and no whole numbers
            continue
    return ""


def _mains(places: Mapping[tuple[str, str], Seen]) -> set[tuple[str, str]]:
    """Of each member the place with the most values, which is called as the member is."""
    largest: dict[str, tuple[int, tuple[str, str]]] = {}
    for at, one in places.items():
        size = max((values.size for values in one.values), default=0)
        if at[0] not in largest or size > largest[at[0]][0]:
            largest[at[0]] = (size, at)
    return {at for _, at in largest.values()}


def _of_files(places: _Places, samples: int, of: str) -> tuple[_Places, list[Found]]:
    """Of files that hold several arrays: single numbers become coordinates, times and scalars, and what says where
    pixels lie is left out. Returns the other places, and what was found."""
    found: list[Found] = []
    left = dict(places)
    for member in dict.fromkeys(name for name, array in places if array):
        of_member = {at: one for at, one in places.items() if at[0] == member and at[1]}
        sides = {
            size for one in of_member.values() for values in one.values if values.ndim > 1 for size in values.shape
        }
        fields = Fields({"member": member}, "array")
        for at, one in of_member.items():
            if one.stem in _PIXELS and one.lengths and set(one.lengths.values()) <= sides:
                left.pop(at)
                says = f"{described.of_set(of, one.name)}: where the pixels of a tile lie"
                found.append(Found(described.plain(at[1]), {}, says, is_idle=True))
            elif one.values and all(values.size == 1 for values in one.values) and "field" not in one.where:
                left.pop(at)
                for values in one.values:
                    single = values.reshape(-1)[0]
                    fields.add({at[1]: str(single) if values.dtype.kind == "M" else single.item()})
        found += described.records(fields, samples, of)
        for array, numbers in fields.numbers.items():
            where = {"member": member, "array": array, "kind": "scalar"}
            found.append(_scalar(array, numbers, samples, of, where, described.of_set(of, f"{member}/{array}")))
    return left, found


def _tables(places: _Places, samples: int, of: str) -> list[Found]:
    """Catalogues: columns of numbers below one path, of as many values as each other, and of other samples of other
    lengths. They are taken out of `places`."""
    found = []
    for folder in dict.fromkeys(one.folder for one in places.values() if one.folder):
        below = {at: one for at, one in places.items() if one.folder == folder}
        ragged = {at: one for at, one in below.items() if described.ragged(one)}
        lengths = [one.lengths for one in ragged.values()]
        if (
            len(ragged) < 2
            or any(one != lengths[0] for one in lengths)
            or any(one.stem in _AXES for one in below.values())
        ):
            continue
        most = max(lengths[0].values())
        names = [at[0].removeprefix(f"{folder}.") for at in ragged]
        settings = {"column": folder, "fields": names, "kind": "catalogue", "rows": min(most, 100)}
        says = f"{len(lengths[0])} of {samples} samples, lists of {min(lengths[0].values())} to {most} objects"
        found.append(Found(described.plain(folder), {**described.from_(of), **settings}, f"{says}; see order_by"))
        for at in ragged:
            del places[at]
    return found


def _with_companions(pairs: Sequence[tuple[Found, Seen]], of: str) -> list[Found]:
    """The same, where inverse variances and wavelengths go with the values beside them, and masks are left out."""
    taken, changed = set[int](), dict[int, Found]()
    for number, (one, seen) in enumerate(pairs):
        if not one.settings or _companion(seen)[0] or one.settings.get("kind") in ("scalar", "time"):
            continue
        beside: dict[str, int] = {}
        for i, (_, other) in enumerate(pairs):
            what, prefix = _companion(other)
            if what and (other.folder, other.file) == (seen.folder, seen.file) and seen.stem.startswith(prefix):
                beside.setdefault(what, i)
        settings, says = dict(one.settings), one.says
        is_within = bool(seen.folder or seen.file[0])  # one struct, or one file: what is a file by itself is a map
        if "mask" in beside and is_within and pairs[beside["mask"]][1].shapes == seen.shapes:
            taken.add(beside["mask"])
            says += f"; {pairs[beside['mask']][1].place}, a mask of it, is left out: weights and nodata say what counts"
        if "classes" in settings:
            continue
        if "axis" in beside and (axis := _axis(seen, pairs[beside["axis"]][1], settings)):
            taken.add(beside["axis"])
            settings, more = axis
            says += more
        elif described.ragged(seen):
            changed[number] = described.without_axis(one, seen, described.of_set(of, seen.name))
            continue
        if settings and "weight" in beside and pairs[beside["weight"]][1].shapes == seen.shapes:
            if settings.get("kind") != "vector":
                taken.add(beside["weight"])
                settings["weight"] = pairs[beside["weight"]][1].place
        changed[number] = replace(one, settings=settings, says=says)
    return [changed.get(i, one) for i, (one, _) in enumerate(pairs) if i not in taken]


def _companion(seen: Seen) -> tuple[str, str]:
    """What a place is to the values beside it, "weight", "axis", "mask" or "", and what their names begin with:
    "spectrum" of spectrum_ivar."""
    for what, names in (("weight", _WEIGHTS), ("axis", _AXES), ("mask", _MASKS)):
        for name in names:
            if seen.stem == name:
                return what, ""
            if seen.stem.endswith(f"_{name}"):
                return what, seen.stem.removesuffix(f"_{name}")
    return "", ""


def _axis(seen: Seen, axis: Seen, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Settings of a series whose values lie at places that another place says, and a remark; None if they are none."""
    if not seen.lengths or len(seen.lengths) < len(seen.values) or seen.lengths != axis.lengths:
        return None
    low, high = min(map(np.nanmin, axis.values)), max(map(np.nanmax, axis.values))
    says = f"; {axis.place} is {low:.6g} to {high:.6g}"
    first = axis.values[0]
    if len(set(seen.lengths.values())) == 1 and all(np.array_equal(one, first) for one in axis.values[1:]):
        return dict(settings), f"{says}, the same in all samples"
    kept = {name: value for name, value in settings.items() if name not in ("length", "kind", "shape")}
    grid = {"from": float(low), "to": float(high), "points": seen.shapes.most_common(1)[0][0][0]}
    return kept | {"kind": "series", "axis": {"wavelength": axis.place}, "grid": grid}, says


def _with_names(found: Sequence[Found], places: Mapping[tuple[str, str], Seen]) -> list[Found]:
    """The same with names of bands, where a list of as many texts lies beside their column or array; without such
    lists."""
    changed, used = [], set()
    words = {at: one for at, one in places.items() if one.words}
    for one in found:
        where, bands = one.settings.get("column", one.settings.get("array", "")), one.settings.get("bands", ())
        parent = where.replace("/", ".").rpartition(".")[0]
        for (member, array), seen in words.items():
            beside = seen.folder == parent and (member == one.settings.get("member") if array else bool(parent))
            if beside and bands and len(seen.words) == len(bands) and len(set(seen.words)) == len(seen.words):
                one = replace(
                    one, settings=one.settings | {"bands": list(seen.words)}, says=one.says.replace(UNNAMED, "")
                )
                used.add(seen.name)
        changed.append(one)
    return [
        one for one in changed if one.settings or not any(f"{name}," in one.says.partition(" ")[0] for name in used)
    ]


def _is_values(shard: Shard, entry: Any, name: str) -> bool:
    """Whether a picture is values, and no photo: 16 bits a channel, or one channel beside arrays of numbers."""
    data = shard.read(entry, name) if name == "png" else b""
    if len(data) <= 25:
        return False
    return data[24] == 16 or (data[25] == 0 and any(_is_array(other) for other in entry.others))


def _is_array(name: str) -> bool:
    return name.endswith(("npy", "npz", "tif", "tiff", "zarr.zip", "h5", "hdf5", "fits"))


def _scalar(
    name: str, values: Sequence[float], samples: int, of: str, where: Mapping[str, Any] | None = None, at: str = ""
) -> Found:
    says = f"{len(values)} of {samples} samples, {min(values):.6g} to {max(values):.6g}"
    if min(values) == max(values):
        place = at or f"the field {name} of json"
        says = f"{place}: always {values[0]:.6g}, which says nothing"
        return Found(described.plain(name), {}, says, is_idle=True)
    return Found(described.plain(name), {**described.from_(of), **(where or {"member": "json", "field": name})}, says)


def once(found: Sequence[Found]) -> list[Found]:
    """The same without places and times that another set has as well, with the same values of most samples: a set may
    lack some, and the first ones of two sets are then not the same."""
    seen: dict[str, list[frozenset[Any]]] = {}
    kept = []
    for one in found:
        of, kind = one.settings.get("from"), one.settings.get("kind")
        where = json.dumps({name: value for name, value in one.settings.items() if name != "from"})
        if of and any(_MOSTLY * len(one.values) < len(one.values & before) for before in seen.get(where, ())):
            says = f"{of}: the {'place' if kind == 'coordinates' else kind} of a sample, as another set has it"
            one = replace(one, settings={}, says=says, is_idle=True)
        seen.setdefault(where, []).append(one.values)
        kept.append(one)
    return kept


def named(found: Sequence[Found], taken: Sequence[str]) -> list[Found]:
    """The same, with names that are there once and are none of `taken`, such as fourmill's own."""
    seen, changed = set(taken), []
    for one in found:
        name, number = one.name, 2
        if name in seen:
            name = f"{one.name}_sensor" if one.name in taken else one.name
        while name in seen:
            name, number = f"{one.name}_{number}", number + 1
        if one.settings:
            seen.add(name)
        changed.append(replace(one, name=name))
    return changed


def lines(found: Sequence[Found]) -> list[str]:
    """The section `sensors`, as lines of YAML with what was seen of each; names come from files, and end no line."""
    text = ["sensors:"]
    for one in found:
        says = ascii(one.says)[1:-1]
        if one.settings:
            text += [f"  # {says}", f"  {one.name}: {_flow(one.settings)}"]
        else:
            text.append(f"  # {ascii(one.remark)[1:-1]}")
    return text


def _flow(settings: Mapping[str, Any]) -> str:
    """On one line of YAML, which reads 1.0e-09 as a number, and 1e-09 as text."""
    parts = json.dumps(settings).split('"')
    return '"'.join(one if i % 2 else _EXPONENT.sub(r"\1.0e", one) for i, one in enumerate(parts))


def has_photos(shard: Shard, samples: int) -> bool:
    """Whether one of the first samples of tars has a photo."""
    return any(one.image and not _is_values(shard, one, one.image) for one in shard.samples[:samples])


def has_sensors(shard: Shard, samples: int) -> bool:
    """Whether the first samples have no photo, and members that a sensor may have."""
    entries = shard.samples[:samples]
    others = [name for one in entries for name in (*one.others, *one.members) if name not in TEXT_EXTENSIONS]
    if shard.is_table:  # a picture beside spectra is a preview of them
        numbers = (one for one in look(shard, samples) if one.settings.get("kind") != "scalar")
        return any(one.settings for one in numbers) or not any(one.image for one in entries)
    return bool(others) and not has_photos(shard, samples)
