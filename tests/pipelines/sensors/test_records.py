"""Coordinates, times and catalogues, from what files hold to labels."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fourmill_tests.tiny.landscape import npy
from pyarrow import parquet
from pydantic import ValidationError

from fourmill.pipelines.sensors import readers, values
from fourmill.sensors.reading import Reading

PLACE: dict[str, Any] = {"member": "json", "fields": ["geo.lon", "geo.lat"], "kind": "coordinates"}
WHEN: dict[str, Any] = {"member": "json", "field": "date", "kind": "time"}
STARS: dict[str, Any] = {
    "member": "json",
    "field": "objects",
    "fields": ["x", "y", "mag"],
    "kind": "catalogue",
    "rows": 3,
}


def label(data: Any, of: dict[str, Any], **changes: Any) -> Any:
    reading = Reading.model_validate(of | changes)
    return values.label(readers.read(data if isinstance(data, bytes) else json.dumps(data).encode(), reading), reading)


def refused(what: str, data: Any, of: dict[str, Any], **changes: Any) -> None:
    with pytest.raises(ValueError, match=what):
        label(data, of, **changes)


def test_coordinates() -> None:
    assert label({"geo": {"lon": 7.5, "lat": -3}}, PLACE) == {"lon": 7.5, "lat": -3}
    assert label({"geo": {"lon": 350, "lat": 3}}, PLACE, wrap=True) == {"lon": -10, "lat": 3}
    assert label({"geo": {"lon": 75_000_000, "lat": 3}}, PLACE, scale=1e-7)["lon"] == pytest.approx(7.5)
    refused("lon is 350, expected -180 to 180; wrap: true", {"geo": {"lon": 350, "lat": 3}}, PLACE)
    refused("lat is 91, expected -90 to 90; see ranges", {"geo": {"lon": 3, "lat": 91}}, PLACE, wrap=True)
    refused("lat: there is no value", {"geo": {"lon": 3}}, PLACE)
    refused("lon: there is no value", {"geo": {"lon": -999, "lat": 3}}, PLACE, nodata=-999)
    refused("geo.lon is '7', expected a number", {"geo": {"lon": "7", "lat": 3}}, PLACE)
    refused("geo.lon: str, expected an object", {"geo": "7"}, PLACE)


def test_coordinates_of_arrays() -> None:
    data = io.BytesIO()
    np.savez(data, center_lon=np.array([7.5]), center_lat=np.float32(45))
    of = {"member": "npz", "fields": ["center_lon", "center_lat"], "kind": "coordinates"}
    assert label(data.getvalue(), of) == {"center_lon": 7.5, "center_lat": 45}
    assert label(npy(np.array([7.5, 45])), {"member": "npy", "kind": "coordinates"}) == {"lon": 7.5, "lat": 45}
    refused(r"\(3,\), expected two numbers: lon, lat", npy(np.arange(3.0)), {"member": "npy", "kind": "coordinates"})
    ranges = {"x": (0, 500_000), "y": (5_000_000, 6_000_000)}
    of = {"member": "json", "fields": ["x", "y"], "kind": "coordinates", "ranges": ranges, "resolution": 1000}
    assert label({"x": 1000, "y": 5_500_000}, of) == {"x": 1000, "y": 5_500_000}
    refused("y is 1000, expected 5e.06 to 6e.06", {"x": 1000, "y": 1000}, of)


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ("2021-05-03", "2021-05-03T00:00:00"),
        ("2021-05-03T10:20:30.5Z", "2021-05-03T10:20:30"),
        ("2021-05-03T01:20+02:00", "2021-05-02T23:20:00"),
        (1620037230, "2021-05-03T10:20:30"),
        (-86400.0, "1969-12-31T00:00:00"),
    ],
)
def test_times_of_json(said: Any, time: str) -> None:
    found = label({"date": said}, WHEN)
    assert found == {"time": time, "year": int(time[:4]), "day": found["day"]}
    assert label({"date": said}, WHEN, hour=True)["hour"] == int(time[11:13])


def test_times_of_arrays() -> None:
    when = np.array(["2021-05-03T10:20:30"], "M8[ns]")
    assert label(npy(when), {"member": "npy", "kind": "time"})["time"] == "2021-05-03T10:20:30"
    assert label(npy(np.array(18_750)), {"member": "npy", "kind": "time", "scale": 86_400})["time"][:10] == "2021-05-03"
    data = io.BytesIO()
    np.savez(data, time=when.astype("M8[D]"), other=np.arange(3))
    assert label(data.getvalue(), {"member": "npz", "kind": "time", "array": "time"})["day"] == 123
    refused("2 values, expected one time", npy(np.repeat(when, 2)), {"member": "npy", "kind": "time"})
    refused("NaT", npy(np.array(["NaT"], "M8[s]")), {"member": "npy", "kind": "time"})
    # A time is no raster.
    refused(r"datetime64\[ns\], expected an array of numbers", npy(when), {"member": "npy"})


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("yesterday", "is 'yesterday', expected ISO 8601"), (None, "there is no value"), (True, "is True, expected"),
        (1620037230000, "no time in seconds|the year"), (1e30, "no time in seconds"), ({"a": 1}, "expected ISO 8601"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(said: Any, what: str) -> None:
    refused(what, {"date": said}, WHEN)


ROWS = [{"x": 9, "y": 0, "mag": 20}, {"x": 1, "y": 1, "mag": None}, {"x": 3, "y": 4, "mag": 12.5}, {"x": 0, "y": 0}]


@pytest.mark.parametrize(
    ("order", "x"),
    [
        ({}, [9, 1, 3]),
        ({"order_by": "mag"}, [3, 9, 1]),  # what has none comes last
        ({"order_by": "-mag"}, [9, 3, 1]),
        ({"order_by": ["x", "y"]}, [0, 1, 3]),
        ({"order_by": ["x", "y"], "centre": [9, 0]}, [9, 3, 1]),
    ],
)
def test_the_first_rows_by_an_order_are_kept(order: dict[str, Any], x: list[int]) -> None:
    assert [row["x"] for row in label({"objects": ROWS}, STARS, **order)] == x


def test_catalogues_of_columns_and_arrays() -> None:
    table = np.array([[9, 0, 20], [1, 1, np.nan], [3, 4, 12.5]])
    expected = [{"x": 9, "y": 0, "mag": 20}, {"x": 1, "y": 1, "mag": None}, {"x": 3, "y": 4, "mag": 12.5}]
    assert label({"objects": ROWS}, STARS) == expected
    assert label(ROWS, STARS | {"field": None}) == expected
    assert (
        label({"objects": dict(zip("xy", table.T[:2].tolist(), strict=True)) | {"mag": [20, None, 12.5]}}, STARS)
        == expected
    )
    assert label(npy(table), STARS | {"field": None, "member": "npy"}) == expected
    data = io.BytesIO()
    parquet.write_table(
        pa.table({"mag": table[:, 2], "x": table[:, 0], "y": table[:, 1], "name": ["a", "b", "c"]}), data
    )
    assert label(data.getvalue(), STARS | {"field": None, "member": "parquet"}) == expected
    assert label({"objects": ROWS}, STARS, nodata=20)[0]["mag"] is None
    assert label({"objects": []}, STARS) == []


def test_what_is_no_catalogue_is_refused() -> None:
    refused("no row has the field mag; the first has x, y", {"objects": [{"x": 1, "y": 2}]}, STARS)
    refused("a row is 3, expected an object of x, y, mag", {"objects": [3]}, STARS)
    refused("NoneType, expected a list", {}, STARS)
    refused("columns of 1 and 2 values", {"objects": {"x": [1], "y": [1, 2], "mag": [1]}}, STARS)
    refused(
        r"float64 \(2, 2\), expected numbers \(n, 3\)", npy(np.zeros((2, 2))), STARS | {"field": None, "member": "npy"}
    )
    refused("no column mag", parquet_of({"x": [1.0], "y": [1.0]}), STARS | {"field": None, "member": "parquet"})
    refused("not a Parquet file", b"PAR1 is not enough", STARS | {"field": None, "member": "parquet"})


def parquet_of(columns: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    parquet.write_table(pa.table(columns), data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (PLACE | {"fields": ["lat", "lon"]}, r"name the eastern one first: \[lon, lat\]"),
        (PLACE | {"fields": ["lon"]}, "name two fields"),
        (PLACE | {"ranges": {"lon": (3, 1), "lat": (0, 1)}}, "3 is not below 1"),
        (PLACE | {"ranges": {"lon": (0, 1)}}, "name both of lon and lat"),
        (PLACE | {"resolution": 1e-5}, "expected at most 1e6"),
        (PLACE | {"bands": ["a"]}, "no meaning for coordinates"),
        (WHEN | {"field": None}, "name one field that holds it"),
        (WHEN | {"rows": 3}, "rows: it is of catalogue"),
        (STARS | {"rows": None}, "say its rows"),
        (STARS | {"rows": 1000}, "fewer than 2000 values"),
        (STARS | {"order_by": ["flux"]}, "order_by: there is no field flux"),
        (STARS | {"scale": 2}, "scale and offset have no meaning"),
        ({"member": "tif", "hour": True}, "hour: it is of time; say kind: time"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Reading.model_validate(change)


def test_a_key_may_have_dots_of_its_own() -> None:
    for found in ({"site.agb": 3.5}, {"site": {"agb": 3.5}}):
        assert label(found, {"member": "json", "field": "site.agb"}).tolist() == [3.5]
