"""Distances between what was said of a place, a time or a catalogue and what is true."""

from __future__ import annotations

from typing import Any

import pytest

from fourmill.sensors.sensor import Sensor
from fourmill.train.measures import sentences

PLACE = Sensor(member="json", fields=["lon", "lat"], kind="coordinates")
WHEN = Sensor(member="json", field="date", kind="time")
STARS = Sensor(member="json", fields=["x", "y", "mag"], field="objects", kind="catalogue", rows=9, order_by=["x", "y"])


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (90, 0), 10_007.54),
        ((0, 90), (77, 90), 0),  # one pole
        ((179.75, 0), (-179.75, 0), 55.597),  # across the date line
        ((10, 60), (-170, 60), 6_671.7),  # over the pole
        ((10, 20), (-170, -20), 20_015.09),  # the other side
    ],
)
def test_places_are_apart_by_the_great_circle(one: Any, other: Any, km: float) -> None:
    measured = sentences.measures(PLACE, *({"lon": east, "lat": north} for east, north in (one, other)))
    assert measured == {"km": pytest.approx(km, rel=2e-3, abs=1e-6)}
    assert sentences.error(PLACE, {"lon": 1, "lat": 0}, {"lon": 0, "lat": 0}) == (
        "km",
        pytest.approx(111.195, abs=0.01),
    )


def test_places_of_a_plane_are_apart_in_their_unit() -> None:
    ranges = {"lon": (0.0, 1e6), "lat": (0.0, 1e6)}
    plane = Sensor(member="json", fields=["lon", "lat"], kind="coordinates", ranges=ranges, resolution=10.0, unit="m")
    found = sentences.error(plane, {"lon": 30, "lat": 0}, {"lon": 0, "lat": 40})
    assert found == ("distance, m", 50)


def test_times_are_apart_by_days() -> None:
    true = {"time": "2021-05-03T18:00:00"}
    assert sentences.measures(WHEN, true, {"time": "2021-05-03"}) == {"days": 0.25}  # said without a time: noon
    assert sentences.measures(WHEN, true, {"time": "2022-05-03T18:00:00"}) == {"days": 365}
    assert sentences.measures(WHEN, true, {}) == {}


def star(x: float, y: float, mag: float | None) -> dict[str, Any]:
    return {"x": x, "y": y, "mag": mag}


def test_rows_are_matched_by_their_place_each_once() -> None:
    true = [star(0, 0, 10), star(10, 10, 12), star(0, 10, None)]
    said = [star(0.1, 0, 13), star(0.2, 0, 10), star(10, 10.1, 16), star(50, 50, 1)]
    found = sentences.measures(STARS, true, said)
    assert found["precision"] == 0.5 and found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert found["rmse mag"] == pytest.approx((((13 - 10) ** 2 + (16 - 12) ** 2) / 2) ** 0.5)
    assert found["rmse x"] == pytest.approx((0.1**2 / 2) ** 0.5, abs=1e-6)


def test_nothing_said_is_nothing_found() -> None:
    assert sentences.measures(STARS, [star(0, 0, 1)], []) == {"f1": 0, "precision": 0, "recall": 0}
    assert sentences.measures(STARS, [star(0, 0, 1)], [star(0, 0, 1)])["f1"] == 1
