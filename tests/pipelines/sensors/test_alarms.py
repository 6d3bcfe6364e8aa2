"""What is odd about a shard's values is in its records, and said to those who look at the root."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data, runs
from fourmill_tests.tiny import landscape

from fourmill import recipe as recipes
from fourmill.infra.ledger import Record, Source
from fourmill.pipelines.sensors import alarms
from fourmill.pipelines.sensors.alarms import Seen
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.members.sensor import FromSensor
from fourmill.project import Project
from fourmill.report.stats import stats
from fourmill.sensors.declared import SENSORS, Sensors
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize.sensors import statistics

RNG = np.random.default_rng(0)
NOISE = RNG.normal(5, 1, (6, 16, 16, 3)).astype(np.float32)


def spoilt(band: int, change: Callable[[np.ndarray], Any]) -> np.ndarray:
    values = NOISE.copy()
    values[..., band] = change(values[..., band])
    return values


def seen(label: str, values: np.ndarray) -> Seen:
    whole = Seen()
    for half in (values[:3], values[3:]):
        part = Seen()
        for value in half:
            part.add(label, value)
        whole.join(Seen.of_json(json.loads(json.dumps(part.as_json()))))  # as through a chunk
    return whole


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (NOISE, ""),
        (spoilt(1, lambda band: np.nan * band), "band B has no value"),
        (spoilt(1, lambda band: 0 * band), "band B is constant, 0"),
        (spoilt(2, lambda band: band.clip(None, 4)), "band C is saturated, 8"),
        (spoilt(0, lambda band: band + 100), "band A is 105 on average, and most values of the fit were"),
        (NOISE[:1], ""),  # one sample says nothing of a shard
    ],
)
def test_bands_are_compared_with_what_they_should_be(values: np.ndarray, said: str) -> None:
    known = statistics.measure(NOISE, "ABC")
    with landscape.forgotten():
        Sensors({"x": Sensor(member="x.npy", bands=list("ABC"))}).declare()
        found = alarms.said("x", seen("x", values), known)
        assert found.startswith(said) and bool(found) == bool(said)


def test_maps_and_numbers() -> None:
    with landscape.forgotten():
        sensors = {
            "m": Sensor(member="m.npy", classes=["sea", "land"]),
            "n": Sensor(member="json", field="n", unit="m"),
        }
        Sensors(sensors).declare()
        ids = np.zeros((6, 8, 8), np.uint8)
        ids[:, 0] = 255
        assert alarms.said("m", seen("m", ids)) == "m is sea everywhere"
        ids[0, 3] = 1
        assert alarms.said("m", seen("m", ids)) == ""  # land is rare, and no limit of an instrument
        numbers = np.array([[1], [9], [9], [9], [2], [9]], np.float32)
        assert alarms.said("n", seen("n", numbers)) == "n is saturated, 67% of its values are 9"


def test_units_of_files_that_differ_are_said_with_their_shards() -> None:
    """A recipe that says no unit takes metres and feet alike: who looks at the root sees it."""
    with landscape.forgotten():
        Sensors({"h": Sensor(member="h.h5")}).declare()
        specialist = FromSensor(label="h", reading=SENSORS["h"].reading())
        of_unit = {}
        for unit in ("m", "metre", "ft"):
            items = [Item(f"{unit}{i}", None, None, raw={"h.h5": hdf5(NOISE[i, ..., 0], unit)}) for i in range(3)]
            whole = Seen()
            for item, value in zip(items, specialist(items), strict=True):
                whole.add("h", value, item.shared[alarms.UNIT, "h"])
            of_unit[unit] = Seen.of_json(json.loads(json.dumps(whole.as_json())))
        assert [alarms.units_of(one) for one in of_unit.values()] == [{"m": "m"}, {"m": "metre"}, {"ft": "ft"}]
        records = {
            ("labels/h", shard): Record(
                "labels/h", shard, "", Source(0, "", ""), 3, 0, [], 0, "", 0, made={"unit": unit}
            )
            for shard, unit in zip("012", of_unit, strict=True)
        }
        assert stats.noted(stats.by_output(dict(list(records.items())[:2]))) == {}
        assert stats.noted(stats.by_output(records)) == {
            "labels/h": "has files of several units: ft in 2, m in 0, metre in 1"
        }
        of_unit["m"].join(of_unit["ft"])
        assert alarms.said("h", of_unit["m"]) == "h has files of several units, ft and m"


def hdf5(values: np.ndarray, unit: str) -> bytes:
    import h5py

    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file.create_dataset("h", data=values).attrs["units"] = unit
    return sink.getvalue()


def write(path: Path, numbers: range, change: Callable[[str, np.ndarray], np.ndarray | None]) -> str:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            one = landscape.scene(number)
            for name, array in (("s2.npy", one["s2"]), ("ndvi.npy", one["ndvi"])):
                if (changed := change(name, array)) is None:
                    continue
                content = landscape.npy(changed)
                entry = tarfile.TarInfo(f"{number:06d}.{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(path)


def test_who_looks_at_a_root_sees_the_shard(tmp_path: Path) -> None:
    """A band of one shard is constant, another shard has no series at all."""

    def constant(name: str, array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        if name == "s2.npy":
            changed[2] = 7
        return changed

    train = [
        write(tmp_path / "s" / "0.tar", range(4), lambda _, array: array),
        write(tmp_path / "s" / "1.tar", range(4, 8), constant),
        write(tmp_path / "s" / "2.tar", range(8, 12), lambda name, array: None if name == "ndvi.npy" else array),
    ]
    with landscape.forgotten():
        sensors = {name: landscape.SENSORS[name] for name in ("s2", "ndvi")}
        one = recipes.parse(
            landscape.recipe(
                tmp_path, train, [], sensors=sensors, labels={"keep": ["s2", "ndvi"]}, generate={},
                modalities=["tok_s2"],
                tokenizers={"common": landscape.recipe(tmp_path, [], [])["tokenizers"]["common"]},
            )
        )  # fmt: skip
        records = data.make(one, data.outputs(one, tokens=False))
        made = {(r.output, r.shard): r.made.get("alarm") for r in records}
        assert made["labels/s2", "1"] == "band B04 is constant, 0.0007"
        assert [name for name, alarm in made.items() if alarm] == [("labels/s2", "1")]
        project = Project(one)
        found = stats.alarms(project.root, stats.by_output(project.plan(project.label_outputs).done))
        assert found["labels/s2"] == "band B04 is constant, 0.0007 in 1"
        assert found["labels/ndvi"].startswith("is null throughout in 2 (")
        (tmp_path / "recipe.yaml").write_text(recipes.dump(one))
        for verb, of in (("status", str(tmp_path / "recipe.yaml")), ("check", str(tmp_path / "out"))):
            _, out, err = runs.command(verb, of)
            assert "band B04 is constant, 0.0007" in " ".join(out.split()), err
