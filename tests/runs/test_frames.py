"""Maps of a sample have one frame; what shows no place has one of its own."""

from __future__ import annotations

import pytest
from fourmill_tests.tiny import landscape

from fourmill.runs.coder import _shows_a_place
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor


@pytest.mark.parametrize(("label", "is_place"), [("rgb", True), ("clip", False), ("dem", True), ("bird", False)])
def test_sounds_and_features_are_in_no_frame(label: str, is_place: bool) -> None:
    with landscape.forgotten():
        Sensors({"dem": Sensor(member="tif"), "bird": Sensor.model_validate({"member": "wav", "mel": {}})}).declare()
        assert _shows_a_place(label) == is_place
