"""Sentences of sensors: coordinates, times and catalogues, in the value words of 4M's vocabulary.

| form | sentence | example |
|---|---|---|
| coordinates | the northern or y one in v0 (and v1), the eastern or x one in v2 (and v3) | `v0=541 v2=187 v3=1` |
| time | years since 1900, the day of the year, and the hour if it is asked for | `v0=121 v1=123 v2=14` |
| catalogue | of each row the code of each value: v0, v1, v2, and v3 for all that follow; `none` without a value | \
`v0=12 v1=7 v0=901 none` |

Coordinates are counted in steps from the least one. Up to 1,000 steps are one word; of more the first word counts
parts of so many steps that 1,000 of them are enough, and the second the steps within its part.

TerraMind's vocabulary has words of its own for coordinates at a quarter of a degree, `lat=45.25 lon=7.50`, and calls
v0 .. v3 xmin, ymin, xmax and ymax, as 4M's paper prints them: with it sentences are written so.

As in sentences.py, writing is strict and reading is forgiving.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from ...sensors.parts import EARTH, QUARTER, VALUE_WORDS, Records
from .sentences import NUMBER

FIRST_YEAR, LAST_YEAR = 1900, 1900 + VALUE_WORDS - 1
NONE = "none"

_DEGREES = re.compile(r"lat=(-?\d{1,2}\.\d{2})\s+lon=(-?\d{1,3}\.\d{2})(?!\d)", re.ASCII)
_TIME = re.compile(rf"v0={NUMBER}\s+v1={NUMBER}(?:\s+v2={NUMBER})?", re.ASCII)
_CODE = re.compile(rf"v([0-3])={NUMBER}", re.ASCII)
_PAPER = ("xmin", "ymin", "xmax", "ymax")  # what 4M's paper and TerraMind call v0 .. v3
_SPELT = re.compile(r"\bv([0-3])=(?=\d)", re.ASCII)
_READ = re.compile(rf"\b({'|'.join(_PAPER)})=(?=\d)", re.ASCII)


# Words


def problem(words: Container[str]) -> str:
    """Why a vocabulary cannot write these sentences, "" if it can."""
    if "v0=0" in words or f"{_PAPER[0]}=0" in words:
        return ""
    return "it has no words for values, v0=0 or xmin=0; use 4M's vocabulary, TerraMind's, or one of ours"


def spelt(text: str, words: Container[str]) -> str:
    """A sentence in the words of a vocabulary."""
    return text if "v0=0" in words else _SPELT.sub(lambda found: f"{_PAPER[int(found[1])]}=", text)


def unspelt(text: str) -> str:
    """The inverse of `spelt`."""
    return _READ.sub(lambda found: f"v{_PAPER.index(found[1])}=", text)


def has_degrees(words: Container[str], reading: Records) -> bool:
    """Whether a vocabulary has TerraMind's words, and a sensor is of quarters of a degree all over the earth."""
    asked = reading.resolution == QUARTER and tuple(reading.limits.values()) == EARTH
    return asked and "lat=0.00" in words and "lon=0.00" in words


# Coordinates


@dataclass(frozen=True)
class Steps:
    """A range in equal steps, both of its ends among them: `value` of step i is low + i * step."""

    low: float
    high: float
    step: float

    @property
    def count(self) -> int:
        return round((self.high - self.low) / self.step) + 1

    @property
    def part(self) -> int:
        """Steps that one first word stands for."""
        return -(-self.count // VALUE_WORDS)

    def words(self, value: float, first: int) -> list[str]:
        """The words of a value, v{first} and v{first + 1}. ValueError if it is not in the range."""
        # Half a step beyond an end is nearer to it than to anything else.
        index = round((value - self.low) / self.step)
        if not 0 <= index < self.count:
            raise ValueError(f"{value:g} is not in {self.low:g} to {self.high:g}")
        whole = [f"v{first}={index // self.part}"]
        return whole if self.part == 1 else [*whole, f"v{first + 1}={index % self.part}"]

    def pattern(self, first: int) -> str:
        """What `words` look like."""
        whole = rf"v{first}={NUMBER}"
        return whole if self.part == 1 else rf"{whole}\s+v{first + 1}={NUMBER}"

    def value(self, numbers: Sequence[str]) -> float | None:
        """Of the numbers of words; None if no value has them."""
        index = int(numbers[0]) * self.part + (int(numbers[1]) if self.part > 1 else 0)
        inside = index < self.count and (self.part == 1 or int(numbers[1]) < self.part)
        # Rounded, since 0.1 and the like have no exact sums.
        return round(self.low + index * self.step, 9) if inside else None


def steps_of(reading: Records) -> dict[str, Steps]:
    """The steps of a sensor's coordinates, the eastern one first."""
    return {name: Steps(low, high, reading.resolution) for name, (low, high) in reading.limits.items()}


def place_to_text(place: Mapping[str, float], steps: Mapping[str, Steps], degrees: bool = False) -> str:
    """Coordinates as a sentence.

    Args:
        place: the eastern or x one first. steps: by name, in the same order.
        degrees: write TerraMind's words; the steps are then quarters of a degree.
    """
    east, north = steps
    if degrees:
        # + 0.0: there is no word for -0.00.
        return " ".join(
            f"{word}={np.rint(place[name] / QUARTER) * QUARTER + 0.0:.2f}"
            for word, name in (("lat", north), ("lon", east))
        )
    return " ".join([*steps[north].words(place[north], 0), *steps[east].words(place[east], 2)])


def text_to_place(text: str, steps: Mapping[str, Steps]) -> dict[str, float]:
    """The first whole pair of coordinates of a sentence, {} if there is none."""
    east, north = steps
    if found := _DEGREES.search(text):
        return {east: float(found[2]), north: float(found[1])}
    pattern = rf"{steps[north].pattern(0)}\s+{steps[east].pattern(2)}"
    for match in re.finditer(pattern, text, re.ASCII):
        numbers = match.groups()
        split = len(numbers) - (1 if steps[east].part == 1 else 2)
        values = {east: steps[east].value(numbers[split:]), north: steps[north].value(numbers[:split])}
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == 2:
            return known
    return {}


# Times


def time_label(when: datetime, hour: bool) -> dict[str, Any]:
    """The label of a time in UTC. ValueError for a year that has no word."""
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise ValueError(
            f"the year {when.year}, expected {FIRST_YEAR} to {LAST_YEAR}; see scale and offset of the sensor"
        )
    said = {"time": when.isoformat(timespec="seconds"), "year": when.year, "day": when.timetuple().tm_yday}
    return said | ({"hour": when.hour} if hour else {})


def time_to_text(time: Mapping[str, Any]) -> str:
    """A time as a sentence: year, day, and the hour if the label has one."""
    words = [f"v0={time['year'] - FIRST_YEAR}", f"v1={time['day']}"]
    return " ".join(words + ([f"v2={time['hour']}"] if "hour" in time else []))


def text_to_time(text: str, hour: bool) -> dict[str, Any]:
    """The first whole time of a sentence, {} if there is none. A time without an hour is that of the day's begin."""
    for match in _TIME.finditer(text):
        day, at = int(match[2]), int(match[3] or 0)
        begin = datetime(FIRST_YEAR + int(match[1]), 1, 1)
        when = begin + timedelta(days=day - 1, hours=at)
        if when.year == begin.year and day and at < 24 and (match[3] is not None) >= hour:
            said = when.isoformat(timespec="seconds") if hour else when.date().isoformat()
            return time_label(when, hour) | {"time": said}
    return {}


# Catalogues


def table_of(rows: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> np.ndarray:
    """Rows of a catalogue, float32 (n, values), NaN where there is no value."""
    values = [[math.nan if row.get(name) is None else row[name] for name in names] for row in rows]
    return np.array(values, np.float32).reshape(len(rows), len(names))


def rows_to_chunks(codes: np.ndarray, known: np.ndarray) -> list[str]:
    """A chunk for each row of codes (n, values), whose values are `known`; one chunk, `none`, without rows."""
    chunks = [
        " ".join(f"v{min(i, 3)}={code}" if there else NONE for i, (code, there) in enumerate(zip(*row, strict=True)))
        for row in zip(codes.tolist(), known.tolist(), strict=True)
    ]
    return chunks or [NONE]


def text_to_rows(text: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole rows of a sentence: codes int64 (n, width), and which are known, bool. A row of no value is none."""
    rows: list[list[int]] = []
    row: list[int] = []
    for word in text.split():
        match = _CODE.fullmatch(word)
        axis = -1 if match is None else int(match[1])
        if word != NONE and axis != min(len(row), 3):
            row = []  # a broken row; this word may begin the next one
        if word == NONE or axis == min(len(row), 3):
            row.append(-1 if match is None else int(match[2]))
        if len(row) == width:
            rows.append(row)
            row = []
    codes = np.array(rows, np.int64).reshape(-1, width)
    codes = codes[(codes >= 0).any(1)]
    return codes.clip(0), codes >= 0
