"""Tiles that are no squares: strips of a scene, a weather map, in all layers alike."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests.earth import ground
from rasterio.transform import from_origin

from fourmill.infra import configuration
from fourmill.infra.configuration import RecipeError
from fourmill.pipelines.packing import pack as packing
from fourmill.pipelines.packing.pack import Packed

HEIGHT, WIDTH = 20, 40  # of a tile
DOWN, ACROSS = np.mgrid[0:60, 0:130]
CODES = (DOWN * 1000 + ACROSS).astype(np.int32)[None]  # what a pixel's row and column are


def packed(folder: Path, **description: Any) -> tuple[Packed, dict[str, dict[str, Any]]]:
    pack = packing.check(description | {"out": str(folder / "tiles"), "engine": {"actors": 1}}, "pack.yaml")
    made = packing.make(pack)
    samples: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "tiles").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                value = json.loads(data) if name == "json" else np.load(io.BytesIO(data))
                samples.setdefault(key, {})[name] = value
    return made, samples


def test_layers_and_points_of_strips(tmp_path: Path) -> None:
    ground.raster(tmp_path / "fine.tif", CODES, from_origin(ground.X, ground.Y, 10, 10), nodata=-1)
    coarse = np.ascontiguousarray(CODES[:, ::2, ::2])
    ground.raster(tmp_path / "coarse.tif", coarse, from_origin(ground.X, ground.Y, 20, 20), nodata=-1)
    # Half a pixel aside: it is resampled, and a slope stays one.
    slope = (ACROSS * 10.0).astype(np.float32)[None]
    ground.raster(tmp_path / "slope.tif", slope, from_origin(ground.X - 5, ground.Y, 10, 10))
    rows = "\n".join(f"{ground.X + 10 * x + 5},{ground.Y - 10 * y - 5},{1000 * y + x}" for y, x in ((3, 7), (21, 95)))
    (tmp_path / "p.csv").write_text(f"x,y,v\n{rows}\n")
    points = {"files": str(tmp_path / "p.csv"), "x": "x", "y": "y", "crs": ground.UTM, "values": "v"}
    made, samples = packed(
        tmp_path, size=[HEIGHT, WIDTH], split={"val": 0, "guard": 0}, grid="fine",
        layers={name: {"files": str(tmp_path / f"{name}.tif")} for name in ("fine", "coarse", "slope")},
        points={"map": points | {"form": "raster", "size": [10, 20]}},
    )  # fmt: skip
    assert made.plan.sides == {"fine": (20, 40), "coarse": (10, 20), "slope": (20, 40)} and len(samples) == 3 * 3
    for sample in samples.values():
        about = sample["json"]
        col, row = about["tile"]
        there = CODES[0, row * HEIGHT :, col * WIDTH :][:HEIGHT, :WIDTH]
        np.testing.assert_array_equal(sample["fine.npy"], there)
        np.testing.assert_array_equal(sample["coarse.npy"], there[::2, ::2])
        np.testing.assert_allclose(sample["slope.npy"], (there % 1000) * 10 + 5, atol=0.01)
        assert about["size"] == [WIDTH, HEIGHT]
        assert about["transform"][2::3] == [ground.X + 400 * col, ground.Y - 200 * row]
        expected = {(0, 0): (1, 3, 3007), (2, 1): (0, 7, 21095)}.get((col, row))
        assert ("map.npy" in sample) == (expected is not None)
        if expected:
            assert sample["map.npy"].shape == (1, 10, 20)
            assert sample["map.npy"][0, expected[0], expected[1]] == expected[2]
    sensors = configuration.parse_yaml((tmp_path / "tiles/sensors.yaml").read_text())["sensors"]
    assert {name: one["size"] for name, one in sensors.items()} == {
        "fine": [20, 40], "coarse": [10, 20], "slope": [20, 40], "map": [10, 20],
    }  # fmt: skip


def test_one_grid_of_strips_and_arrays_without_a_place(tmp_path: Path) -> None:
    ground.raster(tmp_path / "a.tif", CODES, from_origin(1000, 2000, 10, 10), nodata=-1)
    _, samples = packed(
        tmp_path / "grid", layers={"a": {"files": str(tmp_path / "a.tif")}}, size=[HEIGHT, WIDTH],
        grid={"crs": ground.UTM, "resolution": 10}, split={"val": 0, "guard": 0},
    )  # fmt: skip
    corners = {tuple(one["json"]["transform"][2::3]) for one in samples.values()}
    assert corners and all(x % 400 == 0 and y % 200 == 0 for x, y in corners)
    np.save(tmp_path / "v.npy", CODES[0, :, :120])
    np.save(tmp_path / "w.npy", CODES[0, ::2, :120:2])
    made, samples = packed(
        tmp_path / "plain", layers={name: {"files": str(tmp_path / f"{name}.npy")} for name in "vw"},
        size=[HEIGHT, WIDTH], split={"val": 0.5, "block": 1, "guard": 0},
    )  # fmt: skip
    assert made.plan.sides == {"v": (20, 40), "w": (10, 20)} and len(samples) == 9
    for sample in samples.values():
        np.testing.assert_array_equal(sample["w.npy"], sample["v.npy"][::2, ::2])


@pytest.mark.parametrize("size", [[96], [0, 96], "96x192", 9.5, True])
def test_a_size_is_pixels(size: Any) -> None:
    with pytest.raises(
        RecipeError, match=r"size: .*expected pixels along a side, 96, or height and width, \[96, 192\]"
    ):
        packing.check({"out": "o", "layers": {"a": {"files": "a.tif"}}, "size": size}, "pack.yaml")
    assert packing.check({"out": "o", "layers": {"a": {"files": "a.tif"}}, "size": [9, 9]}, "pack.yaml").size == 9
