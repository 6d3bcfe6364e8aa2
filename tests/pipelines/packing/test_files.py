"""Arrays in HDF5, Zarr, NetCDF and FITS, remote files, and GeoTIFF without rasterio, read in windows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import zarr
from astropy.io import fits
from fourmill_tests.earth import ground
from fourmill_tests.s3 import S3
from rasterio.transform import from_origin

from fourmill.infra import storage
from fourmill.pipelines.packing import files
from fourmill.pipelines.packing import pack as packing
from fourmill.pipelines.packing.settings import Layer

VALUES = np.arange(3 * 12 * 20, dtype=np.float32).reshape(3, 12, 20)
WINDOW = (4, 2, 6, 5)
PART = VALUES[:, 2:7, 4:10]


def check(url: str, **layer: Any) -> files.Info:
    """The pixels of a window are those that were written; returns what the file is like."""
    source = files.opened(url, Layer(files=[url], **layer))
    try:
        np.testing.assert_array_equal(source.read(WINDOW, [0, 1, 2]), PART)
        np.testing.assert_array_equal(source.read(WINDOW, [2]), PART[2:])
    finally:
        source.close()
    return source.info


def coordinates(group: Any) -> None:
    group["x"], group["y"] = 500_005 + 10.0 * np.arange(20), 5_300_035 - 10.0 * np.arange(12)


def test_arrays_have_the_places_that_lie_beside_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube/bands"] = VALUES[None]
        file["cube/bands"].attrs["_FillValue"] = -1.0
        file["other"] = VALUES
        coordinates(file["cube"])
        file["cube/spatial_ref"] = 0
        file["cube/spatial_ref"].attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    info = check(str(tmp_path / "a.h5"), array="cube/bands")
    assert info.shape == (3, 12, 20) and info.nodata == -1
    assert info.georeference is not None and info.georeference.crs == ground.UTM
    assert info.georeference.transform == (10, 0, 500_000, 0, -10, 5_300_040)
    with pytest.raises(ValueError, match=r"it holds the arrays cube/bands, other; say which one \(array\)"):
        check(str(tmp_path / "a.h5"))

    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("bands", data=VALUES, chunks=(1, 5, 7))
    for name, axis in (("longitude", 10 + np.arange(20) / 4), ("latitude", 50 - np.arange(12) / 4)):
        group.create_array(name, data=axis)
    info = check(str(tmp_path / "a.zarr"))
    assert info.georeference is not None and info.georeference.crs == "EPSG:4326"
    assert info.georeference.transform == (0.25, 0, 9.875, 0, -0.25, 50.125)


def test_axes_are_seen_by_the_bands(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.moveaxis(VALUES, 0, -1).astype(">f8")))
    info = check(str(tmp_path / "a.npy"), bands=["r", "g", "b"])
    assert info.shape == (3, 12, 20) and info.dtype == "float64" and info.georeference is None
    np.save(tmp_path / "b.npy", np.zeros((3, 5, 3)))
    with pytest.raises(ValueError, match=r"b.npy: \(3, 5, 3\): the bands may be the first or the last axis"):
        check(str(tmp_path / "b.npy"), bands=["r", "g", "b"])
    np.save(tmp_path / "c.npy", np.array(["a"]))
    with pytest.raises(ValueError, match="expected numbers"):
        check(str(tmp_path / "c.npy"))


def test_a_fits_keeps_its_world_coordinates(tmp_path: Path) -> None:
    image = fits.PrimaryHDU(VALUES)
    image.header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=3.0, CRPIX2=5.0, CRVAL1=10.0, CRVAL2=41.0)
    image.writeto(tmp_path / "a.fits")
    info = check(str(tmp_path / "a.fits"))
    assert "CRPIX1  =                  3.0" in info.wcs and info.georeference is None


def test_remote_files_are_read_in_ranges(tmp_path: Path, s3: S3) -> None:
    place = from_origin(500_000, 5_300_040, 10, 10)
    ground.raster(tmp_path / "a.tif", VALUES, place)
    np.save(tmp_path / "a.npy", VALUES)
    bucket = s3.bucket("packing")
    for name in ("a.tif", "a.npy"):
        storage.put(f"{bucket}/{name}", (tmp_path / name).read_bytes())
        info = check(f"{bucket}/{name}")
    assert info.shape == (3, 12, 20)


def test_geotiff_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of one grid are packed; another grid is said before any work."""
    ground.write(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rasterio" else found(name, *a))
    whole = ground.description(tmp_path, engine={"actors": 1})
    with pytest.raises(
        ValueError, match=r"dem.tif has another grid than s2, and resampling it needs the package rasterio"
    ):
        packing.make(packing.at(packing.check(whole, "")))
    del whole["layers"]["dem"]
    packed = packing.make(packing.at(packing.check(whole, "")))
    monkeypatch.undo()
    again = packing.make(packing.at(packing.check(whole | {"out": str(tmp_path / "again")}, "")))
    assert packed.plan.sides == again.plan.sides and packed.tiles == again.tiles > 20
    for one, other in zip(packed.plan.areas, again.plan.areas, strict=True):
        assert one.georeference == other.georeference
        assert {name: info[0].nodata for name, info in one.files.items()} == {"s2": 0, "s1": -9999, "lulc": None}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_shards_are_made_on_a_cluster(tmp_path: Path) -> None:
    ground.write(tmp_path)
    made = []
    for name, settings in (("here", {"actors": 1}), ("there", {"actors": 2})):
        description = ground.description(tmp_path, out=str(tmp_path / name), engine=settings, shard_size=30)
        packed = packing.make(packing.at(packing.check(description, "")))
        assert not packed.failures and packed.made == len(packed.plan.shards) > 2
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tar")})
    assert made[0] == made[1]
