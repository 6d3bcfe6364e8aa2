"""What was seen in the first samples, as the settings of a sensor and a sentence on it: for `fourmill init`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .fields import Seen as Fields
from .seen import Seen, short

MOST_BANDS = 64  # an axis of more is no axis of bands
MOST_CLASSES = 64
MOST_NUMBERS = 64
_FEW = 8  # bands of a series, and how many times as long it is; a raster is not so narrow
_FEW_IDS = 32  # of a map whose ids do not count from 0 on
_NOTHING = (-9999.0, -32768.0, 65535.0, -999.0, -1e20, 1e20)  # that stand for no value wherever they occur
_ALIKE = 0.9  # of the samples that must have as many values as the others
UNNAMED = "; name the bands"
_TONES, _HIGHEST = 64, 8_000.0  # of a spectrogram that is proposed


@dataclass
class Found:
    """A member of some samples, or a field of their JSON.

    settings: of the sensor, {} if it is not understood. says: what was seen, for a comment. size: height and width of a
    raster or class map, pixels. is_idle: it is understood, and says nothing that a model could learn. values: of a
    place or a time, all that were seen.
    """

    name: str
    settings: dict[str, Any]
    says: str
    size: tuple[int, int] = (0, 0)
    is_idle: bool = False
    values: frozenset[Any] = frozenset()

    @property
    def side(self) -> int:
        """The shorter side, 0 of what is no map."""
        return min(self.size)

    @property
    def remark(self) -> str:
        """For a person, if it is left out."""
        return f"{'left out' if self.is_idle else 'NOT UNDERSTOOD, and left out'}: {self.says}"


def found(seen: Seen, name: str, samples: int, of: str) -> Found:
    """What one place holds.

    Args:
        name: of the sensor. samples: how many were looked at. of: the name of its set of tars, "" if there are no sets.
    """
    where = of_set(of, seen.name)
    if not seen.values:
        texts = f"texts, such as {seen.words[0]!r:.40}" if seen.words else "no array of numbers"
        problem = next(iter(seen.problems), texts)
        says = f"{where}, {seen.count} of {samples} samples: {problem}"
        return Found(name, {}, says, is_idle=bool(seen.words) and not seen.problems)
    settings: dict[str, Any] = {**from_(of), **seen.where}
    shapes, dtypes = seen.shapes, seen.dtypes
    shape, dtype = shapes.most_common(1)[0][0], dtypes.most_common(1)[0][0]
    says = f"{dtype} {shape} in {len(seen.values)} of {samples} samples"
    if len(shapes) > 1:
        says += f", {len(shapes)} different shapes"
    if len(dtypes) > 1:
        says += f", also {', '.join(list(dtypes)[1:])}"
    if seen.problems:
        says += f"; {sum(seen.problems.values())} cannot be read ({next(iter(seen.problems))})"
    if dtype.startswith("datetime64"):
        times = np.concatenate([one.reshape(-1) for one in seen.values])
        hour = {} if "[D]" in dtype else {"hour": True}
        values = frozenset(times.tolist())
        says = f"{says}, {times.min()} to {times.max()}"
        return Found(name, settings | {"kind": "time"} | hour, says, values=values)
    if seen.rate:
        high = {} if seen.rate >= 2 * _HIGHEST else {"high": seen.rate / 2}
        return Found(
            name,
            settings | {"mel": {"bins": _TONES, "frames": _TONES, **high}},
            f"{says}, {seen.rate} Hz; sound, as tones in dB",
            (_TONES, _TONES),
        )
    one = _described(name, settings, says, shape, seen, where)
    if one.settings and seen.unit and _is_unit(seen.unit) and "classes" not in one.settings:
        one.settings["unit"] = seen.unit
    return one


def ragged(seen: Seen) -> bool:
    """Whether lists of numbers have different lengths, without one that nearly all have."""
    shapes = seen.shapes
    return bool(seen.lengths) and len(shapes) > 1 and shapes.most_common(1)[0][1] < _ALIKE * len(seen.values)


def without_axis(one: Found, seen: Seen, where: str) -> Found:
    """Lists of different lengths, of which nothing says where their values lie."""
    low, high = min(seen.lengths.values()), max(seen.lengths.values())
    return Found(
        one.name, {}, f"{where}: lists of {low} to {high} values; values of different lengths need an axis and a grid "
        "(docs/extend/spectra-and-sound.md), or are a catalogue",
    )  # fmt: skip


def _is_unit(text: str) -> bool:
    """Whether it is a unit of values, and not that of a time since some date."""
    return " since " not in text and len(text) <= 40


def _described(name: str, settings: dict[str, Any], says: str, shape: tuple[int, ...], seen: Seen, where: str) -> Found:
    flat = np.concatenate([one.reshape(-1)[:: max(1, one.size // 65_536)] for one in seen.values]).astype(np.float64)
    known = flat[np.isfinite(flat)]
    plain = [size for size in shape if size != 1] or [1]
    if not known.size:
        return Found(name, {}, f"{where}, {says}: no value is finite")
    nothing = [value for value in _NOTHING if (known == value).any()]
    if seen.nodata is not None and (known == seen.nodata).any() and seen.nodata not in nothing:
        nothing.append(seen.nodata)
    real = known[~np.isin(known, nothing)] if nothing else known
    if not real.size:
        return Found(name, {}, f"{where}, {says}: all values are {nothing[0]:g}")
    says += f", {real.min():.6g} to {real.max():.6g}"
    if len(seen.values) > 1 and all(np.array_equal(one, seen.values[0], equal_nan=True) for one in seen.values[1:]):
        return Found(name, {}, f"{where}, {says}: the same in all of them, which says nothing", is_idle=True)
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
    elif seen.nodata is not None and seen.where.get("member"):
        settings["nodata"] = seen.nodata
    if len(plain) == 2 and min(plain) <= _FEW and max(plain) >= _FEW * min(plain):
        series = {"kind": "series", "length": max(plain), "bands": [f"b{i + 1}" for i in range(min(plain))]}
        return Found(name, settings | series, says + UNNAMED)
    if len(plain) == 2:
        if (classes := _classes(seen, real)) is not None:
            settings["classes"] = classes
            if isinstance(classes, list) or not set(map(float, classes)).isdisjoint(nothing):
                settings.pop("nodata", None)
            says += f"; {np.unique(real).size} ids occur: name the classes, or take classes out if these are no ids"
        return Found(name, settings, says + _zeros(flat, settings), (plain[0], plain[1]))
    bands = [axis for axis in (0, 2) if len(plain) == 3 and plain[axis] <= MOST_BANDS]
    if not bands:
        return Found(name, {}, f"{where}, {says}: no axis of at most {MOST_BANDS} bands is the first or the last")
    axis = min(bands, key=lambda one: plain[one])
    named = len(seen.bands) == plain[axis]
    settings["bands"] = list(seen.bands) if named else [f"b{i + 1}" for i in range(plain[axis])]
    if plain[0] == plain[2]:
        settings["axes"] = "chw"
    sides = plain[1:] if axis == 0 else plain[:2]
    return Found(name, settings, says + ("" if named else UNNAMED) + _zeros(flat, settings), (sides[0], sides[1]))


def _classes(seen: Seen, values: np.ndarray) -> list[str] | dict[int, str] | None:
    """Names for what may be ids of classes: counted from 0 on, or a few that lie apart; None for what is none."""
    if any(one.dtype.kind not in "iub" for one in seen.values) or values.min() < 0:
        return None
    ids = np.unique(values).astype(np.int64).tolist()
    if ids[-1] < MOST_CLASSES:
        return [f"class {i}" for i in range(ids[-1] + 1)]
    few = len(ids) <= _FEW_IDS and len(ids) * 64 <= values.size
    return {i: f"class {i}" for i in ids} if few else None


def _zeros(flat: np.ndarray, settings: Mapping[str, Any]) -> str:
    """A remark on zeros, which many files have where an instrument saw nothing."""
    share = float((flat == 0).mean())
    if "classes" in settings or 0.0 in np.atleast_1d(settings.get("nodata", [])):
        return ""
    return f"; {share:.1%} are 0: nodata?" if 0.001 < share < 0.999 else ""


def records(fields: Fields, samples: int, of: str) -> list[Found]:
    """What coordinates, times and catalogues some fields are, which are taken out of them."""
    held: dict[str, frozenset[Any]] = {name: frozenset(values) for name, values in fields.numbers.items()}
    held |= {name: frozenset(texts) for name, texts in fields.times.items()}
    found = []
    for name, settings, says in fields.records(samples):
        of_them = frozenset(
            (one, value)
            for one in settings.get("fields", [settings.get(fields.one, "")])
            for value in held.get(one, ())
        )
        found.append(Found(plain(name), {**from_(of), **settings} if settings else {}, says, values=of_them))
    return found


def of_set(of: str, name: str) -> str:
    """What a place is called for people, with its set of tars if there are some."""
    return f"{of}/{name}" if of else name


def from_(of: str) -> dict[str, Any]:
    """The setting of a sensor that says its set."""
    return {"from": of} if of else {}


def plain(name: str) -> str:
    """A name that a sensor may have."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "values"
    return words if words[0].isalpha() else f"s_{words}"


def called(seen: Seen, of: str, is_main: bool) -> str:
    """What a sensor is called: as its set, where that has one bare member; else as its member, array or column."""
    member = seen.where.get("member", "")
    if member and is_main and short(member) == member:
        return plain(of or seen.where.get("field") or seen.where.get("array") or member)
    if member and is_main:
        return plain(short(member))
    return plain(seen.where.get("field") or seen.where.get("array") or seen.where.get("column") or short(member))
