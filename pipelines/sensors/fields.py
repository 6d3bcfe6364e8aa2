"""What the fields of JSON sidecars are, for `fourmill init`: numbers, coordinates, times, catalogues."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MOST_ROWS = 100  # of a catalogue that is proposed, as AION-1 has them
MOST_FIELDS = 16
_EARTH = (
    ("lon", "lat"), ("longitude", "latitude"), ("lng", "lat"), ("center_lon", "center_lat"), ("long", "lat"),
    ("ra", "dec"),
)  # fmt: skip
_PLANE = (("x", "y"), ("easting", "northing"))
_TIMES = ("date", "time", "datetime", "timestamp")
_OF_PLACE = ("tile", "transform", "size", "window")  # where a tile lies, as `fourmill pack` writes it: no measurement
_SECONDS = (1e8, 4.1e9)  # since 1970: 1973 to 2099
_UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}


@dataclass
class Seen:
    """Fields of the JSON of some samples, by their dotted names; or single numbers of other files that hold several.

    where: the settings of a sensor that say the file. one: the setting that says a field of it. texts: that are no
    times, one of each field.
    """

    where: Mapping[str, Any] = field(default_factory=lambda: {"member": "json"})
    one: str = "field"
    numbers: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[Sequence[Mapping[str, Any]]]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, info: Mapping[str, Any], before: str = "") -> None:
        for key, value in info.items():
            name = f"{before}{key}"
            if isinstance(value, Mapping) and not before:
                self.add(value, f"{name}.")
            elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.numbers.setdefault(name, []).append(float(value))
            elif isinstance(value, str) and _is_time(value):
                self.times.setdefault(name, []).append(value)
            elif isinstance(value, str):
                self.texts.setdefault(name, value)
            elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
                self.rows.setdefault(name, []).append(value)
            elif name in _OF_PLACE:
                continue
            elif isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
                self.others[name] = f"a list of {len(value)} numbers; members of arrays can be read"

    def records(self, samples: int) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Coordinates, times and catalogues: a name, settings, and what was seen. Their numbers are no scalars then."""
        yield from self._places()
        for name, texts in self.times.items():
            hour = any("T" in text or ":" in text for text in texts)
            settings = {**self.where, self.one: name, "kind": "time"} | ({"hour": True} if hour else {})
            yield _last(name), settings, f"{len(texts)} of {samples} samples, {min(texts):.40} to {max(texts):.40}"
        for name in [name for name in self.numbers if _last(name).lower() in _TIMES]:
            values = self.numbers[name]
            if what := next((one for one, of in _UNITS.items() if all(_is_moment(value * of) for value in values)), ""):
                del self.numbers[name]
                settings = {**self.where, self.one: name, "kind": "time", "hour": True}
                settings |= {"scale": _UNITS[what]} if _UNITS[what] != 1 else {}
                span = f"{min(values):.0f} to {max(values):.0f} {what} since 1970"
                yield _last(name), settings, f"{len(values)} of {samples} samples, {span}"
        for name, tables in self.rows.items():
            yield self._catalogue(name, tables, samples)

    def _places(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        for east in list(self.numbers):
            before, _, last = east.rpartition(".")
            of_earth = [n for e, n in _EARTH if e == last.lower()]
            of_plane = [n for e, n in _PLANE if e == last.lower()]
            for north in (*of_earth, *of_plane):
                found = [name for name in self.numbers if name.lower() == f"{before}.{north}".lstrip(".").lower()]
                if not found:
                    continue
                limits = [(min(self.numbers[name]), max(self.numbers[name])) for name in (east, found[0])]
                settings: dict[str, Any] = {**self.where, "fields": [east, found[0]], "kind": "coordinates"}
                says = ", ".join(
                    f"{_last(n)} {a:.6g} to {b:.6g}" for n, (a, b) in zip((east, found[0]), limits, strict=True)
                )
                if of_plane:
                    settings |= _of_plane([_last(east), _last(found[0])], limits)
                    says += "; set ranges to all that may come, and their unit"
                elif not (-180 <= limits[0][0] and limits[0][1] <= 360 and -90 <= limits[1][0] and limits[1][1] <= 90):
                    continue
                elif limits[0][1] > 180:
                    settings["wrap"] = True
                del self.numbers[east], self.numbers[found[0]]
                yield "place", settings, says
                break

    @staticmethod
    def _catalogue(
        name: str, tables: Sequence[Sequence[Mapping[str, Any]]], samples: int
    ) -> tuple[str, dict[str, Any], str]:
        first = [row for table in tables for row in table[:MOST_ROWS]]
        names = list(dict.fromkeys(key for row in first for key in row))
        numeric = [key for key in names if all(_is_number(row.get(key)) for row in first)][:MOST_FIELDS]
        most = max(map(len, tables))
        says = f"{len(tables)} of {samples} samples, lists of up to {most} objects"
        if not numeric:
            return _last(name), {}, f"the field {name} of json: {says} without numbers"
        others = [key for key in names if key not in numeric]
        says += f", also with {', '.join(others[:4])}" if others else ""
        settings = {
            "member": "json",
            "field": name,
            "fields": numeric,
            "kind": "catalogue",
            "rows": min(most, MOST_ROWS),
        }
        return _last(name), settings, says + "; see order_by"


def _of_plane(names: Sequence[str], limits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Ranges with some room, and a thousand steps of them."""
    room = [max(0.1 * (high - low), 1.0) for low, high in limits]
    ranges = {
        n: [round(low - more), round(high + more)] for n, (low, high), more in zip(names, limits, room, strict=True)
    }
    widest = max(high - low for low, high in ranges.values())
    return {"ranges": ranges, "resolution": float(f"{widest / 999:.1g}")}


def _is_moment(seconds: float) -> bool:
    return _SECONDS[0] < seconds < _SECONDS[1]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_time(text: str) -> bool:
    if len(text) < len("2021-05-03"):
        return False
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
