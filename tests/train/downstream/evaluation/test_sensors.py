"""Sensors in the evaluation: their truth read by hand, errors of the pixels that have a value, means of classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests import data

from fourmill.pipelines.sensors import places
from fourmill.sensors.sensor import Sensor
from fourmill.train.downstream.evaluation import sensors, truth
from fourmill.train.downstream.evaluation.truth import NONE, Frame
from fourmill.train.measures.resample import draw, measure

NOWHERE = Frame(1, 1)


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def raster(**more: Any) -> Sensor:
    return Sensor(**{"member": "s2.npy", "bands": ["a", "b", "c"], "nodata": 0, "scale": 0.5, "offset": 1.0} | more)


@pytest.mark.parametrize("first", [True, False])
def test_bands_are_read_as_declared(first: bool) -> None:
    values = np.arange(3 * 4 * 6, dtype=">u2").reshape(3, 4, 6)
    stored = values if first else np.asfortranarray(values.transpose(1, 2, 0))
    found = sensors.Values(raster(use=["c", "a"]), 2).of_truth(npy(stored), NOWHERE)
    middle = values[[2, 0]][:, [1, 3]][:, :, [2, 4]].astype(float) * 0.5 + 1
    assert found.dtype == np.float32 and found.tolist() == middle.transpose(1, 2, 0).tolist()
    whole = sensors.values(npy(stored), raster())
    assert np.isnan(whole[0, 0, 0]) and np.isnan(whole).sum() == 1


def test_nodata_is_compared_in_the_type_of_the_file() -> None:
    values = np.array([[1e20, 1], [np.inf, 2]], np.float32)
    found = sensors.values(npy(values), Sensor(member="dem.npy", nodata=1e20))[..., 0]
    assert np.isnan(found).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_series_have_their_bands_last(shape: tuple[int, int]) -> None:
    sensor = Sensor(member="n.npy", kind="series", length=5, bands=["m", "s"], use=["s"])
    values = np.arange(10.0).reshape(shape)
    expected = values[1] if shape == (2, 5) else values[:, 1]
    assert sensors.values(npy(values), sensor).tolist() == [[one] for one in expected]


def test_numbers_come_from_fields_and_missing_ones_are_none() -> None:
    sensor = Sensor(member="json", fields=["a.b", "c"], scale=2, nodata=-9)
    judge = sensors.Values(sensor, 0)
    found = judge.of_truth(json.dumps({"a": {"b": 3}, "c": -9}).encode(), NOWHERE)
    assert found[0] == 6 and np.isnan(found[1]) and judge.as_label(found) is None
    assert judge.measures[:4] == ("rmse", "mae", "r2", "rmse a.b")


def test_classes_are_the_labels_ids() -> None:
    sensor = Sensor(member="l.npy", classes={10: "wood", 20: "grass", 21: "wood"}, nodata=20)
    found, known = sensors.ClassMap(sensor, 2).of_truth(npy(np.array([[[10, 20], [21, 7]]], np.int16)), NOWHERE)
    assert found.tolist() == [[0, NONE], [0, NONE]] and known is None


def test_errors_count_pixels_that_have_a_value() -> None:
    judge = sensors.Values(raster(nodata=[], scale=1, offset=0), 2)
    rng = np.random.default_rng(0)
    true, answers = rng.normal(size=(5, 2, 2, 3)), rng.normal(size=(5, 2, 2, 3))
    true[0, 0, 0, 1] = true[3, 1, 1, 2] = np.nan
    statistic = judge.statistic([*answers[:4], None], list(true))
    assert statistic is not None
    found = measure(statistic, draw(5, 50, 0))
    errors = [(answers - true)[:4, ..., band][np.isfinite(true[:4, ..., band])] for band in range(3)]
    each = [np.sqrt(np.mean(one**2)) for one in errors]
    assert set(found) >= set(judge.measures)
    assert found["rmse"].value == pytest.approx(np.mean(each))
    assert [found[f"rmse {band}"].value for band in "abc"] == pytest.approx(each)
    there = true[:4, ..., 1][np.isfinite(true[:4, ..., 1])]
    assert found["r2 b"].value == pytest.approx(1 - np.sum(errors[1] ** 2) / np.sum((there - there.mean()) ** 2))
    assert found["mae c"].low < found["mae c"].value < found["mae c"].high


def test_constant_and_ensemble_are_means_of_what_is_known() -> None:
    judge = sensors.Values(Sensor(member="dem.npy"), 2)
    one, other = np.array([[[1.0], [np.nan]], [[3], [4]]]), np.array([[[5.0], [np.nan]], [[7], [np.nan]]])
    assert judge.constant(iter([one, other]))[..., 0].tolist() == [[3, 4], [5, 4]]  # 4 is the mean of all that is known
    assert judge.together([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]).tolist() == [[[0.5]] * 2] * 2


def test_the_mean_of_a_class_is_that_of_its_training_pixels() -> None:
    known = [np.array([[[1.0, 10], [np.nan, 20]]]), np.array([[[3.0, 30], [4, 40]]]), None]
    maps = [(np.array([[0, 1]], np.uint8), None), (np.array([[0, NONE]], np.uint8), None), None]
    means = sensors.ClassMeans(known, maps)
    (found, nothing) = means.answers([(np.array([[0, 1], [2, 0]], np.uint8), None), None])
    whole = np.array([8 / 3, 25])  # of a class that no training pixel has: the mean of all
    assert nothing is None
    np.testing.assert_allclose(found, [[[2, 20], [whole[0], 20]], [whole, [2, 20]]], rtol=1e-6)


def test_members_of_parallel_tars(tmp_path: Path) -> None:
    for of, members in {"S2": [("a.npy", b"1"), ("b.npy", b"2")], "DEM": [("a.NPY", b"3"), ("a.json", b"4")]}.items():
        (tmp_path / f"{of}.tar").write_bytes(data.tar(members))
    shard = places.join({of: str(tmp_path / f"{of}.tar") for of in ("S2", "DEM")})
    found = truth.members({"s": shard}, [("s", "a", 0), ("s", "b", 1)], ["S2/npy", "DEM/npy", "json"])
    assert found == {("s", "a"): {"S2/npy": b"1", "DEM/npy": b"3", "json": b"4"}, ("s", "b"): {"S2/npy": b"2"}}


def test_members_of_parquet(tmp_path: Path) -> None:
    table = {"id": ["x", "y"], "Spectrum": [{"flux": [1.0, 2.0]}, {"flux": None}], "z": [0.5, 0.7]}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    places_ = [("s", "x", 0), ("s", "y", 1)]
    found = truth.members({"s": str(tmp_path / "s.parquet")}, places_, ["Spectrum.flux", "z", "w"], "id")
    assert set(found["s", "x"]) == {"Spectrum.flux", "z"} and set(found["s", "y"]) == {"z"}
    flux = Sensor(column="Spectrum.flux", kind="series", length=2, scale=3)
    assert sensors.values(found["s", "x"]["Spectrum.flux"], flux).tolist() == [[3], [6]]
    assert sensors.values(found["s", "y"]["z"], Sensor(column="z", kind="scalar"))[0] == np.float32(0.7)


def test_values_with_weights_and_an_axis_of_their_own() -> None:
    sensor = Sensor.model_validate(
        {"member": "f.npy", "kind": "series", "axis": {"wavelength": "w.npy"}, "grid": {"from": 0, "to": 4, "step": 1},
         "weight": "i.npy"}
    )  # fmt: skip
    judge = sensors.Values(sensor, 0)
    assert sensors.members_of(sensor) == {"f.npy", "w.npy", "i.npy"}
    members = {
        "f.npy": npy(np.arange(5.0)[::-1]),
        "w.npy": npy(np.arange(5.0)),
        "i.npy": npy(np.array([1.0, 1, 1, 1, 0])),
    }
    found = sensors.reference(judge, members)
    np.testing.assert_allclose(found[:, 0], [4, 3, 2, 1, np.nan])
    assert sensors.reference(judge, {name: members[name] for name in ("f.npy", "w.npy")}) is None
