"""What cells of the report's grids say of labels that are mappings."""

from __future__ import annotations

import pytest

from fourmill.report import results
from fourmill.sensors.declared import SENSORS
from fourmill.sensors.sensor import Sensor

WHEN = {"time": "2017-11-26T05:19:01", "year": 2017, "day": 330, "hour": 5}


def test_records_of_sensors_are_drawn_and_others_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SENSORS, "when", Sensor(member="json", field="when", kind="time", hour=True))
    assert results._cell(WHEN, "when") is WHEN and results._cell({}, "when") == {}
    assert results._cell({"words": 7}, "own") == "words 7"
    assert results._cell("a" * 10_000, "caption").endswith("a...")
