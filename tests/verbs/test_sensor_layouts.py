"""`init` on files as their publishers write them: stores of several arrays, GeoTIFF, tables of structs, sound."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from fourmill_tests import runs
from fourmill_tests.tiny import landscape
from PIL import Image

from fourmill import recipe as recipes
from fourmill.project import Project

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    with landscape.forgotten():
        yield


def _tar(path: Path, count: int, members: Callable[[int], Mapping[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for name, content in members(number).items():
                entry = tarfile.TarInfo(f"tile_{number:03d}.{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def _init(*samples: str, root: Path) -> tuple[dict[str, Any], str]:
    status, text, said = runs.command("init", "--samples", *samples, f"--root={root}", "--for=cpux2")
    assert status == 0, said
    found = yaml.safe_load(text)
    Project(recipes.parse(found))
    return found, text


def _store(arrays: Mapping[str, Any]) -> bytes:
    """A Zarr of several arrays in a .zip, as xarray and TerraMesh have them."""
    import zarr
    from zarr.storage import MemoryStore

    store, file = MemoryStore(), io.BytesIO()
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for name, value in arrays.items():
        group.create_array(name, data=np.asarray(value))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in store._store_dict.items():
            archive.writestr(name, content.to_bytes())
    return file.getvalue()


def test_stores_of_several_arrays_in_parallel_tars(tmp_path: Path) -> None:
    place = {"center_lon": RNG.uniform(-179, 179, 3), "center_lat": RNG.uniform(-60, 60, 3)}
    taken = 1_600_000_000_000_000_000 + RNG.integers(0, 10**15, 3)

    def store(bands: Callable[[], np.ndarray], **more: Any) -> Callable[[int], Mapping[str, bytes]]:
        def members(i: int) -> Mapping[str, bytes]:
            pixels = {
                "x": np.arange(24) * 10.0,
                "y": -np.arange(24) * 10.0,
                "crs": np.int64(32633),
                "id": np.array("T32"),
            }
            of_tile = {name: values[i] for name, values in place.items()} | {"time": np.array([taken[i]])}
            return {"zarr.zip": _store({"bands": bands(), **pixels, **of_tile, **more})}

        return members

    optical = store(lambda: RNG.integers(1, 9000, (1, 3, 24, 24)).astype(">i2"), band=np.array(["B02", "B03", "B04"]))
    _tar(tmp_path / "S2L2A" / "0.tar", 3, optical)
    # A set that lacks a sample has the same places, whose range is another one.
    _tar(tmp_path / "LULC" / "0.tar", 2, store(lambda: RNG.integers(1, 5, (1, 24, 24), np.uint8)))
    found, text = _init(*(f"{one}={tmp_path}/{one}" for one in ("S2L2A", "LULC")), root=tmp_path / "out")
    arrays = {"from": "S2L2A", "member": "zarr.zip"}
    assert found["sensors"] == {
        "s2l2a": {**arrays, "array": "bands", "bands": ["B02", "B03", "B04"]},
        "place": {**arrays, "fields": ["center_lon", "center_lat"], "kind": "coordinates"},
        "time": {**arrays, "array": "time", "kind": "time", "hour": True, "scale": 1e-9},
        "lulc": {
            "from": "LULC", "member": "zarr.zip", "array": "bands", "classes": [f"class {i}" for i in range(5)],
        },
    }  # fmt: skip
    assert "NOT UNDERSTOOD" not in text and "left out: S2L2A/zarr.zip/crs: always 32633" in text
    assert "left out: S2L2A/zarr.zip/id, 3 of 3 samples: texts, such as 'T32'" in text
    assert "left out: LULC: the place of a sample, as another set has it" in text
    assert sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#")) < 40


def test_geotiff_says_its_bands_nodata_and_unit(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.io import MemoryFile

    def tif(values: np.ndarray, nodata: float, names: list[str], unit: str = "") -> bytes:
        with MemoryFile() as file:
            shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
            where = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(0, 0, 10, 10)}
            with file.open(driver="GTiff", dtype=values.dtype, nodata=nodata, **shape, **where) as out:
                out.write(values)
                out.descriptions = names
                out.units = [unit] * len(names)
            return bytes(file.read())

    def members(i: int) -> Mapping[str, bytes]:
        bands = RNG.integers(0, 9000, (3, 24, 24)).astype(np.uint16)
        bands[:, :4] = 0
        heights = np.where(RNG.random((1, 24, 24)) < 0.1, -32767.0, RNG.normal(300, 20, (1, 24, 24)))
        return {
            "hls.tif": tif(bands, 0, ["B02", "B03", "B04"]),
            "dem.tif": tif(heights, -32767, ["height"], "metre"),
        }

    _tar(tmp_path / "0.tar", 3, members)
    found, text = _init(f"{tmp_path}/0.tar", root=tmp_path / "out")
    assert found["sensors"] == {
        "hls": {"member": "hls.tif", "nodata": 0.0, "bands": ["B02", "B03", "B04"]},
        "dem": {"member": "dem.tif", "nodata": -32767.0, "unit": "metre"},
    }
    assert "name the bands" not in text and "are 0: nodata?" not in text


def test_tables_of_structs_ragged_lists_and_times(tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = []
    for i in range(12):
        count = 3 + i % 4
        objects = [{"flux": float(a), "x": float(b), "y": float(c)} for a, b, c in RNG.normal(size=(count, 3))]
        rows.append({
            "mol_id": f"M{i}", "catalog": objects, "peaks": RNG.normal(size=5 + i % 5).tolist(), "ra": 200.0 + i,
            "dec": -20.0 + i, "when": np.datetime64(f"2021-05-{3 + i:02d}T10:20:30", "us"), "mass": 1.5 * i,
        })  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found, text = _init(f"{tmp_path}/t.parquet", root=tmp_path / "out")
    assert found["samples"]["key"] == "mol_id"
    assert found["sensors"] == {
        "catalog": {"column": "catalog", "fields": ["flux", "x", "y"], "kind": "catalogue", "rows": 6},
        "mass": {"column": "mass", "kind": "scalar"},
        "place": {"member": "json", "fields": ["ra", "dec"], "kind": "coordinates", "wrap": True},
        "when": {"member": "json", "field": "when", "kind": "time", "hour": True},
    }
    assert "peaks: lists of 5 to 9 values" in text and "left out: when" not in text


def test_grey_pictures_beside_arrays_are_maps_and_sound_is_read(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")

    def members(i: int) -> Mapping[str, bytes]:
        mask, sound = io.BytesIO(), io.BytesIO()
        Image.fromarray((RNG.random((96, 96)) < 0.5).astype(np.uint8) * 255).save(mask, "PNG")
        soundfile.write(sound, RNG.normal(size=4000) / 9, 8000, format="WAV")
        heights = landscape.npy(RNG.normal(size=(32, 32)).astype(">f8"))
        info = json.dumps({"height": i}).encode()
        return {"forest.png": mask.getvalue(), "wav": sound.getvalue(), "dem.npy": heights, "json": info}

    _tar(tmp_path / "0.tar", 3, members)
    found, _ = _init(f"{tmp_path}/0.tar", root=tmp_path / "out")
    assert found["sensors"] == {
        "forest": {"member": "forest.png", "classes": {"0": "class 0", "255": "class 255"}},
        "wav": {"member": "wav", "mel": {"bins": 64, "frames": 64, "high": 4000.0}, "size": 64},
        "dem": {"member": "dem.npy", "size": 32},
        "height": {"member": "json", "field": "height"},
    }
    assert found["images"] == {"size": 96, "patch_size": 8, "crops": 1}


def test_arrays_beside_photos_are_proposed_in_comments(tmp_path: Path) -> None:
    photo = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(photo, "JPEG")
    heights = [landscape.npy(RNG.normal(size=(32, 32))) for _ in range(3)]
    _tar(tmp_path / "0.tar", 3, lambda i: {"jpg": photo.getvalue(), "dem.npy": heights[i], "xyz": b"?"})
    found, text = _init(f"{tmp_path}/0.tar", root=tmp_path / "out")
    assert "sensors" not in found and "rgb" in found["modalities"]
    assert '#   dem: {"member": "dem.npy"}' in text and "ignored there: dem.npy 3" in text
