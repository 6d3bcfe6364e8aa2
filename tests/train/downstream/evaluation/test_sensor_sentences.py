"""Coordinates, times and catalogues in the evaluation: errors in km, days and hours, rows that are found."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fourmill.sensors.sensor import Sensor
from fourmill.train.downstream.evaluation.sentences.sensors import Catalogues, judge_of
from fourmill.train.downstream.evaluation.truth import Frame
from fourmill.train.measures.resample import draw, measure

PLACE = Sensor(member="json", fields=["lon", "lat"], kind="coordinates")
WHEN = Sensor(member="json", field="date", kind="time")
STARS = Sensor(member="json", field="stars", fields=["x", "y", "mag"], kind="catalogue", rows=9, order_by=["x", "y"])


def measured(sensor: Sensor, answers: list[Any], references: list[Any]) -> dict[str, Any]:
    statistic = judge_of(sensor).statistic(answers, references)
    assert statistic is not None
    found = measure(statistic, draw(len(references), 50, 0))
    assert list(found) == list(judge_of(sensor).measures)
    return found


def test_places_are_compared_along_the_great_circle() -> None:
    true = [{"lon": 0.0, "lat": 0.0}, {"lon": 0.0, "lat": 60.0}, {"lon": 179.5, "lat": 0.0}, None]
    said = [{"lon": 1.0, "lat": 0.0}, {"lon": 2.0, "lat": 60.0}, {"lon": -179.5, "lat": 0.0}, {"lon": 0.0, "lat": 0.0}]
    found = measured(PLACE, said, true)
    assert found["km"].value == pytest.approx(111.2, abs=0.1) and found["answered"].value == 1
    assert found["km"].low <= found["km"].value <= found["km"].high
    found = measured(PLACE, [said[0], {}, {}, {}], true)  # sentences that cannot be read
    assert found["km"].value == pytest.approx(111.2, abs=0.1) and found["answered"].value == pytest.approx(1 / 3)
    east = judge_of(PLACE).constant([{"lon": 170.0, "lat": 0.0}, {"lon": -170.0, "lat": 0.0}])
    assert abs(east["lon"]) == pytest.approx(180) and judge_of(PLACE).together([{}, {}]) == {}


def test_places_of_a_map_have_their_unit() -> None:
    plane = Sensor(
        member="json", fields=["x", "y"], kind="coordinates", unit="m", ranges={"x": [0, 900], "y": [0, 900]}
    )
    found = measured(plane, [{"x": 3.0, "y": 0.0}], [{"x": 0.0, "y": 4.0}])
    assert found["distance"].value == 5
    assert judge_of(plane).constant([{"x": 0.0, "y": 2.0}, {"x": 4.0, "y": 4.0}]) == {"x": 2, "y": 3}


@pytest.mark.parametrize(("hour", "error"), [(False, 1.0), (True, 36.0)])
def test_times_are_compared_in_days_or_hours(hour: bool, error: float) -> None:
    judge = judge_of(WHEN.model_copy(update={"hour": hour}))
    said = [judge.of_truth(json.dumps({"date": f"2021-05-0{i}T06:00:00"}).encode(), Frame(1, 1)) for i in (3, 4, 9)]
    true = {"time": "2021-05-05T18:00:00"} if hour else {"time": "2021-05-05T06:00:00"}
    found = measured(judge.sensor, [said[1]], [true])
    assert found["hours" if hour else "days"].value == pytest.approx(error)
    assert judge.constant(said) == said[1] == judge.together([*said, {}])
    assert judge.of_truth(b'{"date": "spring"}', Frame(1, 1)) is None


def test_rows_of_catalogues_are_found_or_not() -> None:
    rng = np.random.default_rng(0)
    true = [[{"x": x, "y": y, "mag": m} for x, y, m in rng.normal(size=(5, 3))] for _ in range(4)]
    near = [[{**row, "mag": row["mag"] + 0.5} for row in rows[:4]] for rows in true]  # one is not said
    wrong = [[*rows, {"x": 99.0, "y": 99.0, "mag": 0.0}] for rows in near]  # and one that is not there
    found = measured(STARS, wrong, true)
    assert found["recall"].value == found["precision"].value == found["f1"].value == pytest.approx(0.8)
    assert found["rmse mag"].value == pytest.approx(0.5) and found["rmse x"].value == 0
    assert measured(STARS, [[]], true[:1])["f1"].value == 0
    judge = judge_of(STARS)
    assert isinstance(judge, Catalogues) and judge.together([near[0], true[1], near[0]]) == near[0]
