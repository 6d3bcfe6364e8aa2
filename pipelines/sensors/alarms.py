"""What is odd about the values of a shard, said where they are made and kept in the record: a band without any value,
one that is constant or saturated, or one that lies beyond the statistics that its tokenizer was fitted with.

The rule looks at one shard alone, and at a few thousand values of each sample. `fourmill stats` reads all of them, and
compares shards with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...modalities import LABELS, NO_CLASS, Form
from ...sensors.declared import SENSORS
from ...tokenize.sensors import numbers
from ...tokenize.sensors.statistics import Statistics
from . import checks

ALARM = "alarm"  # of a record's `made`
UNIT = "unit"  # likewise: what the files say; and what is shared of a sample, with its label's name
HALF = 0.5  # of the values of a band: so many at one end are a limit of an instrument, or of a file
_VALUES = 4096  # of a sample that are looked at


class Seen:
    """Moments of a label's bands over samples, how many these are, and the units that their files say."""

    def __init__(self, samples: int = 0, moments: np.ndarray | None = None, units: Iterable[str] = ()) -> None:
        self.samples, self.moments, self.units = samples, moments, set(units)

    def add(self, label: str, value: np.ndarray, unit: str = "") -> None:
        """A sample's label, as a specialist returns it, and the unit that its file says, "" if it says none."""
        self.units |= {unit} - {""}
        if LABELS[label].form.is_record:  # it has no bands; what it says is measured by `stats`
            return
        is_map = LABELS[label].form is Form.CLASSES
        flat = value.reshape(-1, 1 if is_map else value.shape[-1] if value.ndim > 1 else value.size)
        step = max(1, len(flat) // _VALUES)
        some = flat[self.samples % step :: step]  # other columns of each sample
        known = np.where(some == NO_CLASS, np.nan, some.astype(np.float32)) if is_map else some
        self._merge(1, numbers.moments_of(np.asarray(known, np.float32)))

    def join(self, other: Seen) -> None:
        self.units |= other.units
        if other.moments is not None:
            self._merge(other.samples, other.moments)

    def _merge(self, samples: int, moments: np.ndarray) -> None:
        if self.moments is None or len(self.moments) == len(moments):
            self.moments = moments if self.moments is None else numbers.merged_moments([self.moments, moments])
            self.samples += samples

    def as_json(self) -> list[Any]:
        return [self.samples, None if self.moments is None else self.moments.tolist(), sorted(self.units)]

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> Seen:
        moments = None if value[1] is None else np.array(value[1], np.float64)
        return cls(int(value[0]), moments, *value[2:3])  # chunks of older releases have no units


def said(label: str, seen: Seen, statistics: Statistics | None = None) -> str:
    """What a person should look at, in words; "" if there is nothing, or one sample alone.

    Args:
        statistics: that the label's values are standardized by, or cut into quantiles.
    """
    if seen.moments is None or seen.samples < 2 or label not in SENSORS:
        return ""
    sensor = SENSORS[label]
    is_map = sensor.form is Form.CLASSES
    names = sensor.fields if sensor.form is Form.NUMBERS else [] if is_map else sensor.kept
    units = units_of(seen).values()
    found = [f"{label} has files of several units, {' and '.join(units)}"] if len(units) > 1 else []
    for band, of_band in enumerate(seen.moments):
        name = names[band] if band < len(names) else ""
        count, low, high = of_band[numbers.FINITE], of_band[numbers.LOW], of_band[numbers.HIGH]
        at_low, at_high = (of_band[one] / max(count, 1) for one in (numbers.AT_LOW, numbers.AT_HIGH))
        if not count:
            why = "has no value"
        elif low == high:
            why = f"is {sensor.class_names[int(low)]} everywhere" if is_map else f"is constant, {low:.4g}"
        elif not is_map and max(at_low, at_high) >= HALF and at_low + at_high < 1:
            value, share = (low, at_low) if at_low > at_high else (high, at_high)
            why = f"is saturated, {share:.0%} of its values are {value:.4g}"
        elif statistics is not None and (beyond := _beyond(of_band[numbers.MEAN], band, statistics)):
            why = beyond
        else:
            continue
        found.append(f"{f'band {name}' if name else label} {why}")
    return "; ".join(found)


def units_of(seen: Seen) -> dict[str, str]:
    """The units that files say, one of each spelling that means the same."""
    return {checks.plain(unit): unit for unit in sorted(seen.units)}


def _beyond(mean: float, band: int, statistics: Statistics) -> str:
    """By more than the width of the range that most values of the fit had."""
    if band >= len(statistics.low):
        return ""
    low, high = statistics.low[band], statistics.high[band]
    if low - (high - low) <= mean <= high + (high - low):
        return ""
    return f"is {mean:.4g} on average, and most values of the fit were {low:.4g} to {high:.4g}"
