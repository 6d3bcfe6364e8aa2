"""Samples of JSON alone: places, times and catalogues as inputs and targets of a model, and on pages."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fourmill_tests import data, runs, training
from fourmill_tests.tiny import landscape

from fourmill import recipe as recipes
from fourmill.pipelines.given.given import Mistake
from fourmill.pipelines.given.labels import read
from fourmill.project import Project
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize import codecs, store
from fourmill.train.downstream import generation
from fourmill.train.pretrain.weights import load_model

SENSORS: dict[str, Any] = {
    "place": {"member": "json", "fields": ["geo.lon", "geo.lat"], "kind": "coordinates"},
    "when": {"member": "json", "field": "date", "kind": "time"},
    "stars": {"member": "json", "field": "objects", "fields": ["x", "y", "mag"], "kind": "catalogue", "rows": 6,
              "order_by": ["x", "y"]},
    "agb": {"member": "json", "field": "biomass"},
}  # fmt: skip


def sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    objects = [
        {"x": round(x, 2), "y": round(y, 2), "mag": round(m, 2) if m < 22 else None, "name": f"s{number}"}
        for x, y, m in zip(rng.uniform(-9, 9, 8), rng.uniform(-9, 9, 8), rng.normal(20, 2, 8), strict=True)
    ]
    found: dict[str, Any] = {
        "geo": {"lon": float(rng.uniform(-180, 180)), "lat": float(rng.uniform(-90, 90))},
        "date": f"20{rng.integers(10, 24)}-0{rng.integers(1, 9)}-1{rng.integers(0, 9)}",
        "objects": objects[: number % 9],
        "biomass": float(rng.gamma(2, 50)),
    }
    if number == 1:
        found["geo"]["lat"] = 95.0
    return found


def tar(path: Path, numbers: range, **more: bytes) -> str:
    """Samples of a JSON, and of further members by extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number in numbers:
            for name, content in {"json": json.dumps(sample(number)).encode(), **more}.items():
                entry = tarfile.TarInfo(f"{number:06d}.{name}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.mark.slow
def test_sentences_are_learned_generated_and_shown(tmp_path: Path) -> None:
    with landscape.forgotten():
        train, val = (
            [tar(tmp_path / "s" / "train-0.tar", range(24))],
            [tar(tmp_path / "s" / "val-0.tar", range(50, 58))],
        )
        plain = landscape.recipe(
            tmp_path, train, val, sensors=SENSORS, modalities=["agb", "place", "when", "stars"],
            labels={"keep": ["place", "when", "stars"]},
            generate={"samples": 2, "chains": [{"inputs": ["agb", "place"], "to": ["when", "stars"]}]},
        )  # fmt: skip
        del plain["tokenizers"]["each"]
        plain["tokenizers"]["text"] = {"vocab_size": 4_600}
        recipe = recipes.parse(plain)
        data.make(recipe, data.outputs(recipe, tokens=False))
        data.fit(recipe)
        records = data.make(recipe, data.outputs(recipe, labels=False))
        nulls = {(one.output, one.shard): one for one in records}
        assert nulls["tokens/place", "train-0"].nulls == 1
        assert "lat is 95, expected -90 to 90" in nulls["tokens/place", "train-0"].rejects[0]["reason"]
        assert nulls["tokens/stars", "train-0"].nulls == 0 == nulls["tokens/when", "val-0"].nulls

        project, root = Project(recipe), tmp_path / "out"
        for name, check in (("place", _is_near), ("when", _is_that_day), ("stars", _are_those_rows)):
            (spec,) = [one for one in recipe.specs(project.fitted["text"].vocab_size) if one.name == name]
            codec = codecs.load(spec, project.codec_options(), str(root))
            column = store.read(str(root / f"tokens/{name}/val-0.parquet"))
            for row in range(8):
                check(codec.decode(column.crop(row, 0)), sample(50 + row))
        config = json.loads((root / "tokenizers/stars/config.json").read_text())
        assert config["codebook_size"] == 1_000 and config["num_codebooks"] == 3

        assert training.train(Project(recipe).train_job).step == 6
        generation.run(Project(recipe).generate_job, load_model)
        (folder,) = root.glob("runs/4m/*/generated/*/chain-0")
        made = json.loads((folder / "samples.json").read_text())["samples"]
        assert all(isinstance(one["stars"], list) and isinstance(one["when"], dict) for one in made)
        path = tmp_path / "recipe.yaml"
        path.write_text(recipes.dump(recipe))
        for verb in ("view", "report"):
            status, _, said = runs.command(verb, str(path))
            assert status == 0, said
        pages = "".join(page.read_text() for page in root.rglob("*.html"))
        assert "cannot be drawn" not in pages and " E" in pages and "km" in pages


def _is_near(place: dict[str, float], true: dict[str, Any]) -> None:
    assert abs(place["lon"] - true["geo"]["lon"]) <= 0.125 and abs(place["lat"] - true["geo"]["lat"]) <= 0.125


def _is_that_day(when: dict[str, Any], true: dict[str, Any]) -> None:
    assert when["time"] == true["date"]


def _are_those_rows(rows: list[dict[str, Any]], true: dict[str, Any]) -> None:
    nearest = sorted(true["objects"], key=lambda one: float(np.hypot(one["x"], one["y"])))[:6]
    assert len(rows) == len(nearest)
    for row, one in zip(rows, nearest, strict=True):
        assert abs(row["x"] - one["x"]) < 2 and (row["mag"] is None) == (one["mag"] is None)


def test_init_proposes_them(tmp_path: Path) -> None:
    tar(tmp_path / "s" / "000.tar", range(2, 12), npy=landscape.npy(np.array(["2021-05-03"], "M8[s]")))
    with landscape.forgotten():
        status, text, said = runs.command("init", f"--samples={tmp_path}/s/", f"--root={tmp_path}/out", "--for=cpux2")
        assert status == 0, said
        found = yaml.safe_load(text)
        assert found["sensors"] == {
            "place": SENSORS["place"],
            "date": {"member": "json", "field": "date", "kind": "time"},
            "objects": {
                "member": "json",
                "field": "objects",
                "fields": ["x", "y", "mag"],
                "kind": "catalogue",
                "rows": 8,
            },
            "biomass": {"member": "json", "field": "biomass"},
            "npy": {"member": "npy", "kind": "time", "hour": True},
        }
        assert "also with name; see order_by" in text and set(found["modalities"]) == set(found["sensors"])
        Project(recipes.parse(found))


def test_records_of_sensors_may_be_given_by_hand() -> None:
    with landscape.forgotten():
        Sensors({name: Sensor.model_validate(one) for name, one in SENSORS.items()}).declare()
        for said in ("7.5,45.25", [7.5, 45.25], '{"lon": 7.5, "lat": 45.25}'):
            assert read("place", said, 1).value == {"lon": 7.5, "lat": 45.25}
        for when in ("2021-05-03", {"time": "2021-05-03"}, 1620000000):
            assert read("when", when, 1).value["day"] == 123
        assert read("stars", '[{"x": 1, "y": 2, "mag": null}]', 1).value == [{"x": 1, "y": 2, "mag": None}]
        for label, wrong, what in (
            ("place", "7.5", "got 1 numbers, expected lon and lat"), ("place", "a,b", "such as 7.5,45.25"),
            ("place", "7.5,99", "lat is 99"), ("when", "soon", "expected ISO 8601"), ("stars", "[3]", "a row is 3"),
        ):  # fmt: skip
            with pytest.raises(Mistake, match=what):
                read(label, wrong, 1)
