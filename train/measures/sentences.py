"""How far a sensor's coordinates, times and catalogues are from the true ones, in the sensor's unit.

| form | measures |
|---|---|
| coordinates | `km` along the great circle, or `distance` in the unit of x and y |
| times | `days` |
| catalogues | `f1`, `precision`, `recall` of rows: a row is found if a row that was said has its place, each once; \
`rmse FIELD` of the rows that are found |

Rows have the place of the fields by which the catalogue is ordered, if these are two, or else of all its fields; they
are matched if they are nearer than `NEAR` of the spread of the true rows. In a dense catalogue some match by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...modalities import Form
from ...sensors.sensor import Sensor
from ...tokenize.text.sensor_sentences import table_of

RADIUS = 6_371.0088  # mean radius of the earth, km
NEAR = 0.1  # of the deviation of the true rows, in each value


def error(sensor: Sensor, truth: Any, said: Any) -> tuple[str, float]:
    """The name and value of the most usual measure of one sample."""
    name, value = next(iter(measures(sensor, truth, said).items()))
    return {"km": "km", "days": "days", "f1": "F1"}.get(name, f"{name}, {sensor.unit}".rstrip(", ")), value


def measures(sensor: Sensor, truth: Any, said: Any) -> dict[str, float]:
    """All measures of one sample; of nothing that was said none but a catalogue's."""
    if sensor.form is Form.CATALOGUE:
        return _rows(sensor, truth, said)
    if not said:
        return {}
    if sensor.form is Form.TIME:
        return {"days": abs((seconds(said) - seconds(truth)) / 86_400)}
    true, found = ([place[name] for name in sensor.names] for place in (truth, said))
    return {"km": great_circle(true, found)} if sensor.on_earth else {"distance": math.dist(true, found)}


def great_circle(one: Sequence[float], other: Sequence[float]) -> float:
    """Kilometres between two places [longitude, latitude] in degrees, on a sphere (haversine)."""
    (east, north), (east_2, north_2) = (np.radians(place) for place in (one, other))
    half = np.sin((north_2 - north) / 2) ** 2 + np.cos(north) * np.cos(north_2) * np.sin((east_2 - east) / 2) ** 2
    return float(2 * RADIUS * np.arcsin(min(1.0, np.sqrt(half))))


def seconds(time: Mapping[str, Any]) -> float:
    """Since 1970; a date without a time is that of its noon, which is nearest to all of the day."""
    when = datetime.fromisoformat(time["time"]).replace(tzinfo=UTC).timestamp()
    return when if "T" in time["time"] else when + 43_200


def _rows(sensor: Sensor, truth: Any, said: Any) -> dict[str, float]:
    names = sensor.names
    true, found = (table_of(rows, names).astype(np.float64) for rows in (truth, said))
    pairs = matched(sensor, true, found)
    hits = len(pairs)
    measured = {
        "f1": 2 * hits / max(len(true) + len(found), 1),
        "precision": hits / max(len(found), 1),
        "recall": hits / max(len(true), 1),
    }
    if hits:
        errors = found[[other for _, other in pairs]] - true[[one for one, _ in pairs]]
        known = np.isfinite(errors)
        for i, name in enumerate(names):
            if known[:, i].any():
                measured[f"rmse {name}"] = float(np.sqrt(np.square(errors[known[:, i], i]).mean()))
    return measured


def matched(sensor: Sensor, true: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, the nearest ones first, each row once."""
    by = [sensor.names.index(name.removeprefix("-")) for name in sensor.order_by]
    chosen = by if len(by) == 2 else list(range(true.shape[1]))
    if not len(true) or not len(found):
        return []
    spread = _spread(true[:, chosen])
    gaps = np.abs(true[:, None, chosen] - found[None, :, chosen]) / spread
    # A value that one of two rows lacks says nothing.
    gaps = np.where(np.isfinite(gaps), gaps, 0).max(-1)
    pairs: list[tuple[int, int]] = []
    for place in np.argsort(gaps, axis=None, kind="stable").tolist():
        one, other = divmod(place, len(found))
        if gaps[one, other] > NEAR:
            break
        if all(one != a and other != b for a, b in pairs):
            pairs.append((one, other))
    return pairs


def _spread(values: np.ndarray) -> np.ndarray:
    """The deviation of each column, 1 where there is none."""
    deviations = [
        float(np.std(column[np.isfinite(column)])) if np.isfinite(column).any() else 0.0 for column in values.T
    ]
    return np.array([one or 1.0 for one in deviations])
