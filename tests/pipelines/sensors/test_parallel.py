"""Samples whose members lie in several tars beside each other, as in TerraMesh."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data
from fourmill_tests.tiny import landscape

from fourmill import recipe as recipes
from fourmill.infra.configuration import RecipeError
from fourmill.pipelines.sensors import parallel, places
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import labels

SETS = {"optical": ("s2.npy",), "terrain": ("tif",), "rest": ("lulc.npy", "ndvi.npy", "json")}
FROM = {"s2": "optical", "dem": "terrain", "lulc": "rest", "ndvi": "rest", "agb": "rest"}
KEPT = ["s2", "dem", "lulc", "agb"]


def write(folder: Path, numbers: range, shard: str = "000") -> dict[str, str]:
    return {name: landscape.write(folder / name / f"{shard}.tar", numbers, *members) for name, members in SETS.items()}


def recipe(folder: Path, train: dict[str, Any] | list[str], **changes: Any) -> Recipe:
    sensors = landscape.SENSORS
    if isinstance(train, dict):
        sensors = {name: one | {"from": FROM[name]} for name, one in sensors.items()}
    settings = landscape.recipe(folder, [], [], labels={"keep": KEPT}, sensors=sensors)
    return recipes.parse(settings | {"samples": {"train": train}, "generate": {}} | changes)


def test_several_tars_are_as_one(tmp_path: Path) -> None:
    numbers = range(12)
    with landscape.forgotten():
        whole = recipe(tmp_path / "one", [landscape.write(tmp_path / "whole" / "000.tar", numbers)])
        several = recipe(tmp_path / "several", write(tmp_path / "s", numbers))
        for one in (whole, several):
            data.make(one, data.outputs(one, tokens=False))
        for name in KEPT:
            files = [tmp_path / of / "out" / "labels" / name / "000.parquet" for of in ("one", "several")]
            (keys, values), (others, theirs) = (labels.read_labels(str(file)) for file in files)
            assert keys == others
            for value, other in zip(values, theirs, strict=True):
                assert (value is None) == (other is None)
                assert value is None or value.tobytes() == other.tobytes()


def test_a_shard_is_made_again_if_one_of_its_tars_changes(tmp_path: Path) -> None:
    with landscape.forgotten():
        sets = write(tmp_path / "s", range(4))
        one = recipe(tmp_path, sets)
        data.make(one, data.outputs(one, tokens=False))
        project = Project(one)
        assert not project.plan(project.label_outputs).missing
        landscape.write(Path(sets["terrain"]), range(4, 8), "tif")
        os.utime(sets["terrain"], (1, 1))
        project = Project(one)
        (task,) = project.plan(project.label_outputs).missing
        assert task.shard == "000" and places.parts(task.url) == {k: str(Path(v)) for k, v in sets.items()}


def test_what_lacks_in_a_tar_is_said(tmp_path: Path) -> None:
    sets = write(tmp_path, range(6))
    landscape.write(Path(sets["terrain"]), range(3), "tif")
    with parallel.open_shard(places.join(sets), str(tmp_path)) as shard:
        assert [one.key for one in shard.samples] == [f"{i:06d}" for i in range(6)]
        assert ("", "terrain: 4 of 6 samples are not in its tar") in shard.rejects
        assert "terrain/tif" in shard.samples[0].others and "terrain/tif" not in shard.samples[4].others
    landscape.write(Path(sets["terrain"]), range(10, 13), "tif")
    with parallel.open_shard(places.join(sets), str(tmp_path)) as shard:
        assert any("no key is in all of its tars: optical begins with '000000'" in why for _, why in shard.rejects)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lost", r"samples: the set terrain lacks 1 tars that optical has \(001.tar\)"),
        ("from", "sensors.s2.from: there is no set 'optic'; did you mean 'optical'"),
        ("val", "val: it has no sets, and train optical, terrain, rest"),
        ("none", "sensors.s2.from: there is no set 'optical'; samples has no sets of tars"),
    ],
)
def test_recipes_of_sets_that_are_wrong(tmp_path: Path, change: str, said: str) -> None:
    folders: dict[str, Any] = {name: f"{tmp_path}/s/{name}/" for name in SETS}
    write(tmp_path / "s", range(2)), write(tmp_path / "s", range(2, 4), "001")
    with landscape.forgotten(), pytest.raises(RecipeError, match=said):
        one = recipe(tmp_path, folders)
        plain = one.model_dump(mode="json")
        if change == "lost":
            (tmp_path / "s" / "terrain" / "001.tar").unlink()
        elif change == "from":
            plain["sensors"]["s2"]["from"] = "optic"
        elif change == "val":
            plain["samples"]["val"] = [folders["rest"]]
        else:
            plain["samples"] = {"train": [folders["rest"]]}
        Project(recipes.parse(plain))
