"""Scenes of another maker, in several resolutions and systems, become aligned tiles of all layers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fourmill_tests import runs
from fourmill_tests.earth import ground
from rasterio.transform import Affine, from_origin

from fourmill.infra import configuration
from fourmill.pipelines.geo import georeference
from fourmill.pipelines.packing import pack as packing
from fourmill.pipelines.packing.pack import Packed

Samples = dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ground")
    ground.write(made)
    return made


def make(description: dict[str, Any]) -> tuple[Packed, dict[str, Samples]]:
    """Pack, and read what was written: shard -> key -> member -> bytes."""
    pack = packing.at(packing.check(description | {"engine": {"actors": 1}}, "pack.yaml"))
    packed = packing.make(pack)
    return packed, read(Path(pack.out))


def read(out: Path) -> dict[str, Samples]:
    shards: dict[str, Samples] = {}
    for path in sorted(out.glob("*.tar")):
        samples = shards.setdefault(path.stem, {})
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[name] = file.read()
    return shards


def array(data: bytes) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(data))
    return found


def all_of(shards: dict[str, Samples]) -> Samples:
    return {key: one for samples in shards.values() for key, one in samples.items()}


@pytest.fixture(scope="module")
def packed(folder: Path) -> tuple[Packed, dict[str, Samples]]:
    return make(ground.description(folder))


def test_layers_of_one_grid_are_the_pixels_of_their_files(folder: Path, packed: Any) -> None:
    for sample in all_of(packed[1]).values():
        about = json.loads(sample["json"])
        for name, step in (("s2", 10), ("s1", 20), ("lulc", 30)):
            with rasterio.open(next(folder.glob(f"{name}*.tif"))) as file:
                x, y = about["transform"][2], about["transform"][5]
                side = ground.TILE * 10 // step
                window = rasterio.windows.from_bounds(x, y - side * step, x + side * step, y, file.transform)
                true = file.read(window=window)
            found = array(sample[f"{name}.npy"])
            np.testing.assert_array_equal(found.reshape(true.shape), true)
            assert found.dtype == true.dtype


def test_the_georeference_is_that_of_the_window(folder: Path, packed: Any) -> None:
    with rasterio.open(next(folder.glob("s2*.tif"))) as file:
        grid = file.transform
    for key, sample in all_of(packed[1]).items():
        about = json.loads(sample["json"])
        col, row = about["tile"]
        expected = grid * Affine.translation(col * ground.TILE, row * ground.TILE)
        np.testing.assert_allclose(about["transform"], tuple(expected)[:6], rtol=0, atol=1e-9)
        assert about["crs"] == ground.UTM and about["size"] == [48, 48] and key.endswith(f"r{row:05d}_c{col:05d}")
        x, y = expected * (24, 24)
        lon, lat = rasterio.warp.transform(ground.UTM, "EPSG:4326", [x], [y])
        np.testing.assert_allclose((about["lon"], about["lat"]), (lon[0], lat[0]), atol=1e-6)
        assert about["time"] == "2020-06-01T10:10:10" and about["licence"] == "CC-BY-4.0"


def test_another_system_is_resampled_onto_the_tile(packed: Any) -> None:
    """Elevation in degrees, about 31 x 21 m: its tiles have its resolution, and the heights of their places."""
    packed_, shards = packed
    side = packed_.plan.sides["dem"]
    assert side == 19  # 480 m, by the root of the pixel's area, 25.2 m
    errors = []
    for sample in all_of(shards).values():
        about, dem = json.loads(sample["json"]), array(sample["dem.npy"])
        assert dem.shape == (side, side) and dem.dtype == np.float32
        place = Affine(*about["transform"]) * Affine.scale(48 / side)
        x, y = place * np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
        errors.append(np.abs(dem - ground.height(x, y)).max())
        assert about["layers"]["dem"]["resampled"] == "bilinear"
    assert max(errors) < 0.01


def test_tiles_without_values_are_left_out_and_counted(packed: Any) -> None:
    packed_, shards = packed
    tiles = [json.loads(one["json"])["tile"] for one in all_of(shards).values()]
    # The swath ends at column 400: in the ninth tile a third of the pixels has a value, in the tenth none.
    assert {col for col, _ in tiles} <= set(range(8))
    assert packed_.total("left_out").keys() == {"s2: too many pixels have no value", "s2: no pixel has a value"}
    lost = sum(packed_.total("left_out").values()) + sum(packed_.plan.left_out.values())
    assert len(tiles) + lost == 100


def test_no_training_tile_is_near_one_of_validation(packed: Any) -> None:
    places = {
        split: [json.loads(one["json"])["tile"] for name, shard in packed[1].items() if name.startswith(split)
                for one in shard.values()]
        for split in ("train", "val")
    }  # fmt: skip
    assert places["train"] and places["val"]
    apart = min(max(abs(a - c), abs(b - d)) for a, b in places["train"] for c, d in places["val"])
    assert apart == 2  # one tile lies between


def test_the_same_again_makes_nothing_and_a_lost_shard_alone(folder: Path, packed: Any) -> None:
    out = folder / "tiles"
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    lost = sorted(before)[0]
    (out / lost).unlink()
    again, _ = make(ground.description(folder))
    assert again.made == 1 and again.tiles == packed[0].tiles
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == before
    assert make(ground.description(folder))[0].made == 0
    with pytest.raises(ValueError, match="holds tiles of another description"):
        make(ground.description(folder, seed=1))


def test_a_recipe_reads_what_was_packed(folder: Path, packed: Any) -> None:
    part = configuration.parse_yaml((folder / "tiles/sensors.yaml").read_text())
    assert part["sensors"]["s2"] == {"member": "s2.npy", "bands": ["B02", "B03", "B04", "B08"], "nodata": 0.0}
    assert part["sensors"]["dem"] == {"member": "dem.npy", "unit": "m", "nodata": -9999.0}
    assert part["sensors"]["lulc"]["classes"][1] == "trees" and part["samples"].keys() == {"train", "val"}


def test_the_verb_plans_packs_and_says_what_is_next(folder: Path, tmp_path: Path) -> None:
    text = json.dumps(ground.description(folder, out=str(tmp_path / "tiles"), engine={"actors": 1}, shard_size=20))
    (tmp_path / "pack.yaml").write_text(text)
    status, out, said = runs.command("pack", str(tmp_path / "pack.yaml"), "--plan")
    assert status == 0 and "100 tiles" not in said and not (tmp_path / "tiles").exists(), said
    assert "dem: 19 x 19 px a tile, 1 files, of 1 of 1 areas" in out
    status, out, said = runs.command("pack", str(tmp_path / "pack.yaml"))
    assert status == 0, said
    assert "fourmill init --samples" in out and "left out" in out
    status, out, said = runs.command("init", "--samples", str(tmp_path / "tiles/train-*.tar"), "--root", "out")
    assert status == 0 and "NOT UNDERSTOOD" not in out, out + said
    found = configuration.parse_yaml(out)["sensors"]  # as it was described, and not as it looks
    assert found["s2"]["bands"] == ["B02", "B03", "B04", "B08"] and found["lulc"]["classes"][4] == "built"


def test_one_grid_of_a_system_and_overlapping_files(tmp_path: Path) -> None:
    """Tiles at multiples of their side; where two files lie, each place is there once, from the first that has it."""
    step = np.arange(1, 31, dtype=np.float32)
    left = np.broadcast_to(step, (1, 20, 30)).copy()
    ground.raster(tmp_path / "a.tif", left, from_origin(1000, 2000, 10, 10), nodata=0)
    ground.raster(tmp_path / "b.tif", left + 20, from_origin(1200, 2000, 10, 10), nodata=0)
    _, shards = make({
        "out": str(tmp_path / "tiles"), "layers": {"v": {"files": str(tmp_path / "?.tif"), "format": "tif"}},
        "size": 10, "grid": {"crs": ground.UTM, "resolution": 10}, "split": {"val": 0, "guard": 0},
    })  # fmt: skip
    samples = all_of(shards)
    assert len(samples) == 10  # five along 500 m, two down
    for sample in samples.values():
        with rasterio.open(io.BytesIO(sample["v.tif"])) as file:
            col = file.transform.c / 10 - 100
            np.testing.assert_array_equal(file.read(1)[0], np.arange(col + 1, col + 11))
            assert file.crs.to_string() == ground.UTM and file.nodata == 0
            assert list(file.transform)[:6] == json.loads(sample["json"])["transform"]


def test_areas_by_name_and_arrays_that_show_the_same_extent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: (rng.random((3, 40, 60)), rng.integers(0, 4, (20, 30)).astype(np.uint8)) for name in ("p", "q")}
    for name, (values, ids) in arrays.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "values.npy", values.astype(">f4"))
        np.save(tmp_path / name / "ids.npy", ids)
    packed, shards = make({
        "out": str(tmp_path / "tiles"), "size": 20, "split": {"val": 0.5, "block": 8, "guard": 0},
        "layers": {name: {"files": f"{tmp_path}/{{area}}/{name}.npy"} for name in ("values", "ids")},
    })  # fmt: skip
    assert packed.plan.sides == {"values": 20, "ids": 10} and packed.tiles == 12
    for key, sample in all_of(shards).items():
        area, (col, row) = key.partition("_")[0], json.loads(sample["json"])["tile"]
        values, ids = arrays[area]
        np.testing.assert_array_equal(
            array(sample["values.npy"]), values.astype(np.float32)[:, row * 20 :, col * 20 :][:, :20, :20]
        )
        np.testing.assert_array_equal(array(sample["ids.npy"]), ids[row * 10 :, col * 10 :][:10, :10])
    # An area is one block here: all of its tiles are in one split.
    splits = {key.partition("_")[0]: {name[:3] for name, one in shards.items() if key in one} for key in all_of(shards)}
    assert sorted(map(tuple, splits.values())) == [("tra",), ("val",)]


def test_points_are_joined_to_the_tile_that_holds_them(folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(3)
    x, y = ground.X + rng.uniform(-500, 5300, 400), ground.Y - rng.uniform(-500, 5300, 400)
    lon, lat = rasterio.warp.transform(ground.UTM, "EPSG:4326", x, y)
    agbd = rng.uniform(0, 300, 400)
    agbd[:50] = -9999
    pq.write_table(pa.table({"lon": lon, "lat": lat, "agbd": agbd}), tmp_path / "gedi.parquet")
    points = {"files": str(tmp_path / "gedi.parquet"), "values": "agbd", "nodata": -9999}
    layers = {"s1": ground.description(folder)["layers"]["s1"]}
    packed, shards = make({
        "out": str(tmp_path / "tiles"), "layers": layers, "size": 48, "split": {"val": 0, "guard": 0},
        "points": {"gedi": points, "map": points | {"form": "raster", "size": 24}},
    })  # fmt: skip
    assert packed.tiles == 25
    for sample in all_of(shards).values():
        col, row = json.loads(sample["json"])["tile"]
        there = (np.floor((x - ground.X) / 960) == col) & (np.floor((ground.Y - y) / 960) == row) & (agbd > 0)
        found = json.loads(sample["json"]).get("gedi")
        assert (found or {"count": 0})["count"] == there.sum()
        if there.any():
            assert abs(found["agbd"] - agbd[there].mean()) < 1e-9
            made = array(sample["map.npy"])
            assert made.shape == (1, 24, 24) and np.isfinite(made).sum() <= there.sum()
            assert np.nanmax(made) <= agbd[there].max() + 1e-3


def test_arithmetic_of_transforms() -> None:
    one, other = (10.0, 2.0, 500.0, -1.0, -9.0, 700.0), (3.0, 0.5, 7.0, 0.25, 2.0, -4.0)
    np.testing.assert_allclose(georeference.multiplied(one, other), tuple(Affine(*one) * Affine(*other))[:6])
    np.testing.assert_allclose(georeference.multiplied(one, georeference.inverse(one)), (1, 0, 0, 0, 1, 0), atol=1e-12)
    assert georeference.exact_window((10, 0, 100, 0, -10, 900), (10, 0, 150, 0, -10, 880), 8, 8) == (5, 2, 8, 8)
    assert georeference.exact_window((10, 0, 100, 0, -10, 900), (10, 0, 155, 0, -10, 880), 8, 8) is None
    assert georeference.exact_window((10, 0, 100, 0, -10, 900), (10.01, 0, 150, 0, -10, 880), 8, 8) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": {"s2": {"files": "nowhere/*.tif"}}}, "nothing is at nowhere/"),
        ({"size": 500}, "480 x 480 px, less than a tile of 500"),
        ({"layers": {"s2": {"files": "s2_*.tif", "bands": ["a"]}}}, "has 4 bands, and the description names 1"),
        ({"layers": {"s2": {"files": "s2_*.tif", "nodata": -1}}}, "-1 is no value of uint16"),
        ({"layers": {"s2": {"files": "s2_*.tif"}, "far": {"files": "far.tif"}}}, "far: none of its files shows any"),
        ({"layers": {"s2": {"files": "s2_*.tif"}, "np": {"files": "odd.npy"}}}, "has 7 x 7 px, and s2 has 480 x 480"),
        ({"layers": {"np": {"files": "odd.npy"}, "s2": {"files": "s2_*.tif"}}, "size": 7}, "name a layer in grid"),
        ({"layers": {"s2": {"files": "s2_*.tif", "crs": "EPSG:1"}}}, "no coordinate reference system"),
        ({"layers": {"s2": {"files": "bad.tif"}}}, "rasterio does not open it"),
        ({"split": {"val": 0.2, "block": 99}}, "in 1 blocks none is left for val"),
        ({"layers": {"S2": {"files": "s2_*.tif"}}}, "got the name 'S2'"),
        ({"layer": {}}, "layer: no such field; did you mean 'layers'"),
        ({"grid": "s3"}, "there is no layer 's3'"),
        ({"points": {"gedi": {"files": "t.csv", "values": ["agb"]}}}, "no column 'lon', but x, agb"),
    ],
)
def test_what_cannot_be_packed_is_said_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(folder)
    np.save("odd.npy", np.zeros((7, 7)))
    Path("bad.tif").write_bytes(b"no tiff")
    Path("t.csv").write_text("x,agb\n1,2\n")
    ground.raster(Path("far.tif"), np.ones((1, 9, 9), np.float32), from_origin(900_000, 1_000_000, 10, 10))
    with pytest.raises(ValueError, match=said):
        make(ground.description(folder, **({"out": str(tmp_path / "tiles")} | change)))
    assert not (tmp_path / "tiles").exists()


def test_a_folder_of_other_files_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        make(ground.description(folder, out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
