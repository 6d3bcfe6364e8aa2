"""Judges of a sensor's coordinates, times and catalogues.

A reference, and an answer, is the label: {name: number}, {"time": ISO 8601, ...}, a list of {name: number or None}. An
answer whose sentence cannot be read is {}: it counts in `answered`, and has no error.

What members say is read as labels are: there is one way to read a date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from .....modalities import Form
from .....pipelines.sensors import readers
from .....pipelines.sensors import values as labels
from .....sensors.sensor import Sensor
from .....tokenize.text import sensor_sentences
from ....measures import sentences
from ....measures.forms import Sums
from ....measures.resample import Statistic
from ..judges import summed
from ..truth import Frame

RECORDS = (Form.COORDINATES, Form.TIME, Form.CATALOGUE)  # that are compared here
_TRIED = 16  # catalogues of training samples that may be the constant answer
_AMONG = 32  # that each is compared with
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Records:
    """What the three have in common."""

    measures: tuple[str, ...]

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor

    def of_truth(self, data: bytes, frame: Frame) -> Any:
        """None where the label would be a reject: no date, a place beyond the earth."""
        try:
            return labels.label(readers.read(data, self.sensor), self.sensor)
        except ValueError:
            return None

    def of_label(self, value: Any) -> Any:
        return value

    def as_label(self, reference: Any) -> Any:
        return reference

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        pairs = zip(answers, references, strict=True)
        return summed([None if a is None or b is None else self._sums(a, b) for a, b in pairs], self._summary)

    def _sums(self, answer: Any, reference: Any) -> Sums:
        raise NotImplementedError

    def _summary(self, total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise NotImplementedError


class _Distance(_Records):
    """One error of each sample: its mean over those that were answered."""

    def _sums(self, answer: Any, reference: Any) -> Sums:
        error = self.error(reference, answer) if answer else 0.0
        return {"error": np.asarray(error), "said": np.asarray(float(bool(answer))), "count": np.asarray(1.0)}

    def _summary(self, total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(total["said"] > 0, total["error"] / total["said"], np.nan)
            return {self.measures[0]: mean, "answered": total["said"] / total["count"]}

    def error(self, reference: Any, answer: Any) -> float:
        raise NotImplementedError

    def constant(self, references: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The one answer to all samples."""
        raise NotImplementedError

    def together(self, answers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Of an ensemble that of the answers that can be read."""
        there = [one for one in answers if one]
        return self.constant(there) if there else {}


class Places(_Distance):
    """Coordinates: `km` along the great circle, or `distance` in the unit of x and y."""

    def __init__(self, sensor: Sensor) -> None:
        super().__init__(sensor)
        self.measures = ("km" if sensor.on_earth else "distance", "answered")

    def error(self, reference: Mapping[str, float], answer: Mapping[str, float]) -> float:
        return sentences.measures(self.sensor, reference, answer)[self.measures[0]]

    def constant(self, references: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The middle of all places; on the earth that of their directions from its centre."""
        names = self.sensor.names
        places = np.array([[one[name] for name in names] for one in references])
        if not self.sensor.on_earth:
            return dict(zip(names, places.mean(0).tolist(), strict=True))
        east, north = np.radians(places).T
        x, y, z = (np.mean(one) for one in (np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)))
        middle = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
        return dict(zip(names, middle.tolist(), strict=True))


class Times(_Distance):
    """Times: `hours` if the hour counts, else `days`."""

    def __init__(self, sensor: Sensor) -> None:
        super().__init__(sensor)
        self.measures = ("hours" if sensor.hour else "days", "answered")

    def error(self, reference: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
        return sentences.measures(self.sensor, reference, answer)["days"] * (24 if self.sensor.hour else 1)

    def constant(self, references: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The median, of which the errors are least."""
        seconds = [sentences.seconds(one) for one in references]
        when = _EPOCH + timedelta(seconds=float(np.median(seconds)))
        return sensor_sentences.time_label(when.replace(tzinfo=None), self.sensor.hour)


class Catalogues(_Records):
    """Catalogues: F1, precision and recall of rows; of those that are found the RMSE of each field."""

    def __init__(self, sensor: Sensor) -> None:
        super().__init__(sensor)
        self.measures = ("f1", "precision", "recall", *(f"rmse {name}" for name in sensor.names))

    def _sums(self, answer: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> Sums:
        tables = (sensor_sentences.table_of(rows, self.sensor.names) for rows in (reference, answer))
        true, said = (one.astype(np.float64) for one in tables)
        pairs = sentences.matched(self.sensor, true, said)
        rows = np.array(pairs, np.int64).reshape(-1, 2)
        errors = said[rows[:, 1]] - true[rows[:, 0]]
        known = np.isfinite(errors)
        counts = {"hits": len(pairs), "true": len(true), "said": len(said)}
        sums = {"squares": np.square(np.where(known, errors, 0)).sum(0), "known": known.sum(0).astype(np.float64)}
        return sums | {name: np.asarray(float(count)) for name, count in counts.items()}

    def _summary(self, total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            rmse = np.sqrt(total["squares"] / total["known"])
            return {
                "f1": 2 * total["hits"] / (total["true"] + total["said"]),
                "precision": total["hits"] / total["said"],
                "recall": total["hits"] / total["true"],
                **{f"rmse {name}": rmse[..., i] for i, name in enumerate(self.sensor.names)},
            }

    def constant(self, references: Iterable[Any]) -> Any:
        """Of some catalogues the one that is most like the others."""
        return self._middle(list(references)[:_AMONG])

    def together(self, answers: Sequence[Any]) -> Any:
        return self._middle(answers)

    def _middle(self, of: Sequence[Any]) -> Any:
        tried = of[:_TRIED]
        alike = [sum(sentences.measures(self.sensor, other, one)["f1"] for other in of) for one in tried]
        return tried[int(np.argmax(alike))]


def judge_of(sensor: Sensor) -> Places | Times | Catalogues:
    """By what the records of a sensor are compared."""
    if sensor.form is Form.COORDINATES:
        return Places(sensor)
    return Times(sensor) if sensor.form is Form.TIME else Catalogues(sensor)
