"""What `fourmill init` reads of the first samples: the values of each member, column, or array of a member."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...sensors.reading import OF_SEVERAL, SOUNDS, Reading, is_of
from ..grouping import SourceSample
from ..reject import Reject
from ..source import Shard
from . import arrays, geotiff, readers

KINDS = tuple(sorted(readers.READERS, key=len, reverse=True))  # of members that are read


@dataclass
class Seen:
    """Values of one place, of some samples.

    where: the settings of a sensor that say which place it is. name: for people. folder, stem: the place's name in two
    parts, by which weights and axes are known beside their values. lengths: of those that have one axis, by sample.
    """

    where: dict[str, str]
    name: str
    folder: str
    stem: str
    values: list[np.ndarray] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    words: tuple[str, ...] = ()  # of a list of texts
    problems: Counter[str] = field(default_factory=Counter)
    count: int = 0
    unit: str = ""
    nodata: float | None = None
    bands: tuple[str, ...] = ()
    rate: int = 0  # of a sound, Hz

    @property
    def shapes(self) -> Counter[tuple[int, ...]]:
        return Counter(one.shape for one in self.values)

    @property
    def dtypes(self) -> Counter[str]:
        return Counter(one.dtype.name for one in self.values)

    @property
    def place(self) -> str:
        """How another sensor says this place beside its own values."""
        return self.where.get("field") or self.where.get("array") or self.where.get("column") or self.where["member"]

    @property
    def file(self) -> tuple[str, str]:
        """The member whose arrays are named by `place`; ("", "") of members and columns, which have names of their own.
        The second part is the extension of a FITS."""
        if "array" not in self.where:
            return "", ""
        return self.where["member"], self.where["array"] if "field" in self.where else ""

    def add(self, key: str, value: np.ndarray) -> None:
        self.values.append(value)
        if value.ndim == 1:
            self.lengths[key] = len(value)


def kind(member: str) -> str:
    """The kind of file that a member is, "" if nothing reads it."""
    return next((one for one in KINDS if member == one or member.endswith(f".{one}")), "")


def short(member: str) -> str:
    """A member's name without its kind of file: "s2" of s2.npy, "tif" of tif."""
    ending = kind(member)
    return member.removesuffix(f".{ending}") if ending and member != ending else member


def read(shard: Shard, entry: SourceSample, name: str, seen: dict[tuple[str, str], Seen]) -> None:
    """Read a member of a sample, and add its values to what was seen."""
    try:
        data = shard.member_bytes(entry, name)
    except Reject as error:
        if not (shard.is_table and error.reason.endswith("there is none")):  # null, as a member that a tar lacks
            _at(seen, name, "", shard.is_table).problems[str(error)] += 1
            _at(seen, name, "", shard.is_table).count += 1
        return
    try:
        found = _found(data, name, shard.is_table)
    except ValueError as error:
        one = _at(seen, name, "", shard.is_table)
        one.problems[_plain(error)] += 1
        one.count += 1
        return
    for array, held in found.items():
        one = _at(seen, name, array, shard.is_table, held.where)
        one.count += 1
        one.words, one.unit = held.words or one.words, held.unit or one.unit
        if held.problem:
            one.problems[held.problem] += 1
        elif held.values is not None and held.values.dtype.kind not in "OSUV":
            one.add(entry.key, held.values)
        if kind(name) in ("tif", "tiff") and not shard.is_table:
            said = geotiff.said(data)
            one.bands, one.nodata, one.unit = said.names, said.nodata, said.unit
        if kind(name) in SOUNDS and not shard.is_table:
            one.rate = _rate(data)


def _plain(error: ValueError) -> str:
    return str(error).splitlines()[0]


def _at(
    seen: dict[tuple[str, str], Seen], name: str, array: str, is_column: bool, where: Mapping[str, str] | None = None
) -> Seen:
    key = name, array
    if key not in seen:
        said = {"column": name} if is_column else {"member": name, **(where or {})}
        at = array or (name if is_column else short(name))
        folder, _, stem = at.replace("/", ".").rpartition(".")
        seen[key] = Seen(said, f"{name}/{array}" if array else name, folder, stem.lower())
    return seen[key]


def _found(data: bytes, name: str, is_column: bool) -> dict[str, arrays.Held]:
    """The arrays of a member, by name; of one that is an array itself by ""."""
    if is_column:
        if data.startswith(b"{"):  # the struct that its columns are of
            return {}
        if data.startswith(b'["'):
            return {"": arrays.Held({}, words=tuple(map(str, json.loads(data))))}
        found = readers.found(data, Reading(column=name))
        return {"": arrays.Held({}, np.asarray(found))} if isinstance(found, np.ndarray) else {}
    if not kind(name) or kind(name) in ("json", "parquet"):
        raise ValueError("nothing reads such a file; name a function that does (reader)")
    if why := readers.missing_package(name):
        raise ValueError(why)
    if is_of(name, OF_SEVERAL):
        several = arrays.of_file(data, name)
        only = next(iter(several.values())) if len(several) == 1 else None
        if only is not None and "field" not in only.where:  # which needs no name
            return {"": replace(only, where={})}
        return several
    what: Any = readers.found(data, Reading(member=name, **_series(name)))
    values, unit = (what, "") if isinstance(what, np.ndarray) else (what.values, what.unit)
    return {"": arrays.Held({}, np.asarray(values), unit=unit)}


def _series(name: str) -> dict[str, Any]:
    """What a sound must be said to be."""
    return {"kind": "series", "length": 2} if kind(name) in SOUNDS else {}


def _rate(data: bytes) -> int:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return int(file.samplerate)
