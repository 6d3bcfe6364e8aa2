"""Pictures of coordinates, times and catalogues of sensors."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from fourmill.report.draw.panels import Panel, Picture, TablePanel, TextPanel
from fourmill.report.draw.records import draw_record
from fourmill.sensors.sensor import Sensor

PLACE = Sensor(member="json", fields=["lon", "lat"], kind="coordinates")


def pixels(panel: Panel) -> np.ndarray:
    assert isinstance(panel, Picture)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",", 1)[1]))).convert("RGB")).astype(int)


def centre(panel: Panel, channel: int) -> tuple[float, float]:
    """Row and column of what is strongest in a channel."""
    shown = pixels(panel)
    strong = (shown[..., channel] > 150) & (np.delete(shown, channel, 2) < 100).all(-1)
    rows, columns = np.nonzero(strong)
    return float(rows.mean()), float(columns.mean())


def test_a_place_is_where_it_is_on_a_map() -> None:
    for lon, lat in ((0, 0), (90, 45), (-120, -60)):
        panel = draw_record(PLACE, {"lon": lon, "lat": lat}, size=360)
        row, column = centre(panel, 0)
        assert abs(row - (90 - lat)) < 2 and abs(column - (lon + 180)) < 2
    assert isinstance(panel, Picture) and panel.alt == "60\N{DEGREE SIGN} S, 120\N{DEGREE SIGN} W"
    ringed = draw_record(PLACE, {"lon": 0, "lat": 0}, {"lon": 60, "lat": 30}, size=360)
    row, column = centre(ringed, 2)
    assert abs(row - 60) < 2 and abs(column - 240) < 2


def test_places_of_a_plane_have_their_unit() -> None:
    plane = Sensor(
        member="json", fields=["x", "y"], kind="coordinates", resolution=10.0, unit="m",
        ranges={"x": (0.0, 1000.0), "y": (0.0, 500.0)},
    )  # fmt: skip
    panel = draw_record(plane, {"x": 750.0, "y": 125.0}, size=200)
    assert isinstance(panel, Picture) and panel.alt == "x 750 m, y 125 m"
    row, column = centre(panel, 0)
    assert abs(row - 75) < 2 and abs(column - 150) < 2


def test_a_time_is_said_in_words() -> None:
    when = Sensor(member="json", field="date", kind="time", hour=True)
    said = draw_record(when, {"time": "2021-05-03T10:20:30", "year": 2021, "day": 123, "hour": 10})
    assert said == TextPanel("2021-05-03, 10 h (day 123 of 2021)")
    assert draw_record(when, {}) == TextPanel("the sentence is broken", quiet=True)


def stars(**changes: Any) -> Sensor:
    return Sensor(member="json", field="o", fields=["x", "y", "mag"], kind="catalogue", rows=20, **changes)


def test_a_catalogue_is_points_or_a_table() -> None:
    rows: list[dict[str, float | None]] = [{"x": 0.0, "y": 0.0, "mag": 20.0}, {"x": 10.0, "y": 10.0, "mag": None}]
    table = draw_record(stars(), rows)
    assert isinstance(table, TablePanel) and table.rows[1] == ("2", "x 10, y 10, mag none", "")
    assert draw_record(stars(), []) == TextPanel("no rows", quiet=True)
    panel = draw_record(stars(order_by=["x", "y"]), rows[1:], rows, size=200)
    row, column = centre(panel, 0)
    assert row < 20 and column > 180, "y grows upwards"
    assert len(draw_record(stars(), rows * 10).rows) == 13  # type: ignore[union-attr]
