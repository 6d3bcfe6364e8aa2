"""What readers ask of a file before they read its values: which array is meant, how large it is, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...sensors.reading import Reading

MAX_BYTES = 1 << 30  # of an array in memory
ARRAY_KINDS = "biufM"  # M: a time, which `values.label` takes for nothing else
# How units are spelled, and the one spelling that stands for all of them; without case, spaces, ^ and **.
_SPELLINGS = {
    "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres", "cm": "centimeter centimetre",
    "mm": "millimeter millimeters millimetre millimetres", "nm": "nanometer nanometers nanometre nanometres",
    "um": "micrometer micrometers micrometre micrometres micron microns", "ft": "foot feet",
    "angstrom": "angstroms \u00e5ngstr\u00f6m \u00e5 aa", "deg": "degree degrees degrees_north degrees_east",
    "k": "kelvin kelvins", "degc": "celsius degreecelsius degreescelsius degree_celsius degrees_celsius deg_c",
    "db": "decibel decibels", "%": "percent pct", "s": "second seconds sec", "h": "hour hours", "d": "day days",
    "1": "unitless dimensionless none reflectance fraction -", "mag": "magnitude magnitudes", "hz": "hertz",
    "nmgy": "nanomaggy nanomaggies", "mg/ha": "t/ha tonnes/ha mgha-1 tha-1 megagram/hectare",
}  # fmt: skip
_SAME_UNIT = {other: unit for unit, others in _SPELLINGS.items() for other in others.split()}


class Found(NamedTuple):
    """An array, or whatever a reader gives, and the unit that its file says, "" if it says none."""

    values: Any
    unit: str = ""


def named(names: Mapping[str, Any], asked: str | None, what: str, kind: str = "array", option: str = "array") -> str:
    """The array that is meant among those of a file. ValueError if that is not clear."""
    if asked is None and len(names) == 1:
        return next(iter(names))
    shown = ", ".join(list(names)[:8]) or "none"
    if asked is None:
        raise ValueError(f"{what} holds the {kind}s {shown}; say which one ({option})")
    if asked not in names:
        raise ValueError(f"{what} has no {kind} {asked!r}, but {shown}; see {option}")
    return asked


def size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """ValueError if an array is none of numbers, or would take more memory than is allowed."""
    if dtype.kind not in ARRAY_KINDS:
        raise ValueError(f"an array of {dtype.name}, expected numbers")
    taken = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if taken > MAX_BYTES:
        raise ValueError(f"an array {shape} of {dtype.name}, {taken} bytes; expected at most {MAX_BYTES}")


def chunks(lacking: int, total: int, fill: Any, reading: Reading) -> None:
    """ValueError if chunks of an array are missing, and what stands for them is a value: it would be made up, unless
    the recipe says that the writer leaves out chunks of the fill value."""
    if not lacking:
        return
    if fill is None:
        raise ValueError(f"{lacking} of {total} chunks are missing, and the file says no fill value")
    if not reading.sparse and not (np.isnan(float(fill)) or float(fill) in reading.nodata):
        said = f"their fill value {float(fill):g} is no nodata"
        raise ValueError(
            f"{lacking} of {total} chunks are missing, and {said}; sparse: true if their writer leaves out such chunks"
        )


def unit(found: str, declared: str, reading: Reading) -> None:
    """ValueError if a file says another unit than the recipe, which scales nothing."""
    if found and declared and reading.scale == 1 and not reading.offset and plain(found) != plain(declared):
        same = "if both mean the same, say the file's"
        raise ValueError(f"the file says its unit is {found!r:.40}, and the recipe says {declared!r}; {same}")


def plain(unit: str) -> str:
    """The one spelling that stands for all of a unit."""
    text = unit.casefold().replace("\u00b5", "u").replace("\u03bc", "u").replace("\u00b0", "deg")
    for sign in (" ", "**", "^", "*", "\u00b7", "\u22c5"):
        text = text.replace(sign, "")
    return _SAME_UNIT.get(text, text) or "1"
