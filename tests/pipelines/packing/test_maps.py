"""Maps of samples whose place is known: GeoTIFF and FITS, read back by their own libraries."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from astropy.io import fits
from astropy.wcs import WCS
from fourmill_tests.earth import ground
from fourmill_tests.tiny import landscape
from rasterio.transform import Affine, from_origin

from fourmill.pipelines.geo import located, maps
from fourmill.pipelines.geo.fits import cards
from fourmill.pipelines.geo.georeference import Georeference, Located
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor

PLACE = Affine(10.0, 0.0, 501_440.0, 0.0, -10.0, 5_297_640.0)


@pytest.fixture(autouse=True)
def sensors() -> object:
    with landscape.forgotten():
        given = {"s2": {"member": "a.npy", "bands": ["B04", "B08"], "unit": "1"}, "lulc": landscape.SENSORS["lulc"],
                 "agb": landscape.SENSORS["agb"]}  # fmt: skip
        Sensors({name: Sensor.model_validate(one) for name, one in given.items()}).declare()
        yield


def placed(width: int, height: int) -> Located:
    return Located((width, height), Georeference(ground.UTM, tuple(PLACE)[:6]))


def test_rasters_are_geotiff_of_exactly_their_pixels() -> None:
    value = np.random.default_rng(0).random((24, 24, 2)).astype(np.float32)
    value[3, 4] = np.nan
    made = maps.files("s2", value, None, placed(48, 64), ())
    assert made.keys() == {"tif"}
    with rasterio.open(io.BytesIO(made["tif"])) as file:
        # The centre square of 48 x 64 px, at half of its resolution.
        expected = PLACE @ Affine.translation(0, 8) @ Affine.scale(2)
        np.testing.assert_allclose(tuple(file.transform), tuple(expected), rtol=0, atol=1e-9)
        np.testing.assert_array_equal(file.read(), np.moveaxis(value, -1, 0))
        assert file.crs.to_epsg() == 32633 and np.isnan(file.nodata) and file.units == ("1", "1")
        assert file.descriptions == ("B04", "B08")


def test_classes_have_names_colours_and_shares() -> None:
    members = np.array([[[[0, 1], [2, 255]]], [[[0, 3], [2, 2]]], [[[0, 3], [1, 2]]]], np.uint8)
    spread = maps.spread("lulc", members, 4)
    assert spread is not None and spread.shape == (1, 2, 2, 4)
    np.testing.assert_allclose(spread[0, 0, 1], [0, 1 / 3, 0, 2 / 3])
    np.testing.assert_allclose(spread[0, 1, 1], [0, 0, 2 / 3, 0])  # one has none there
    made = maps.files("lulc", np.array([[0, 3], [2, 2]], np.uint8), spread[0], placed(2, 2), landscape.CLASSES)
    assert made.keys() == {"tif", "probability.tif", "probability.npy"}
    with rasterio.open(io.BytesIO(made["tif"])) as file:
        assert file.nodata == 255 and len({file.colormap(1)[i] for i in range(4)}) == 4
        assert [file.tags(1)[f"CLASS_{i}"] for i in range(4)] == landscape.CLASSES
        assert tuple(file.transform) == tuple(PLACE)
    with rasterio.open(io.BytesIO(made["probability.tif"])) as file:
        assert list(file.descriptions) == landscape.CLASSES
        np.testing.assert_array_equal(file.read(4), spread[0, :, :, 3])


def test_numbers_have_a_spread_and_no_map() -> None:
    spread = maps.spread("agb", np.array([[[1.0]], [[3.0]]], np.float32), 0)
    assert spread is not None and spread.tolist() == [[1.0]]
    made = maps.files("agb", np.array([2.0], np.float32), spread[0], placed(2, 2), ())
    assert made.keys() == {"std.npy"}
    assert (
        maps.spread("agb", np.zeros((1, 1, 1)), 0) is None and maps.spread("depth", np.zeros((2, 1, 4, 4)), 0) is None
    )


def test_a_fits_has_the_world_coordinates_of_its_pixels() -> None:
    header = fits.Header()
    header.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=31.5, CRPIX2=16.5, CRVAL1=10.0, CRVAL2=41.0, CUNIT1="deg",
        CUNIT2="deg", CDELT1=-0.01, CDELT2=0.01, PC1_1=0.8, PC1_2=-0.6, PC2_1=0.6, PC2_2=0.8,
    )  # fmt: skip
    of = located.of_info({"wcs": cards(header), "window": [8, 4, 32, 32]})
    assert of is not None and of.size == (32, 32)
    value = np.random.default_rng(0).random((16, 16, 2)).astype(np.float32)
    made = maps.files("s2", value, value / 2, of, ())
    assert made.keys() == {"fits", "std.npy"}
    with fits.open(io.BytesIO(made["fits"])) as file:
        assert file[0].data.shape == (2, 16, 16) and file["STD"].data.shape == (2, 16, 16)
        assert file[0].header["BUNIT"] == "1" and file[0].header["BAND2"] == "B08"
        world, found = WCS(header), WCS(file[0].header).celestial
        for col, row in ((0, 0), (15, 3), (7.5, 12)):  # pixels twice as wide, from (8, 4) on
            there = world.wcs_pix2world([[2 * col + 0.5 + 8, 2 * row + 0.5 + 4]], 0)
            np.testing.assert_allclose(found.wcs_pix2world([[col, row]], 0), there, rtol=0, atol=1e-9)


def test_the_place_of_a_sample_is_read_from_its_shard(tmp_path: Path) -> None:
    from fourmill.pipelines import archive

    tif = ground.raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.float32), from_origin(5, 6, 2, 2)).read_bytes()
    about = {"crs": ground.UTM, "transform": list(PLACE)[:6], "size": [48, 48]}
    members = [
        ("a.json", json.dumps(about).encode()), ("b.dem.tif", tif), ("c.s2.npy", landscape.npy(np.ones((2, 4, 4)))),
        ("d.json", json.dumps(about | {"transform": [1, 2]}).encode()),
    ]  # fmt: skip
    (tmp_path / "0.tar").write_bytes(archive.archive(members))
    asked = [("0", "a", 0), ("0", "b", 1), ("0", "c", 2), ("0", "d", 3), ("1", "a", 0), ("gone", "a", 0)]
    places = {"0": str(tmp_path / "0.tar"), "gone": str(tmp_path / "gone.tar")}
    found = located.of_samples(places, asked)
    assert found[0] == placed(48, 48) and found[2:] == [None] * 4
    assert found[1] == Located((8, 8), Georeference(ground.UTM, (2.0, 0.0, 5.0, 0.0, -2.0, 6.0)))


def test_a_place_that_cannot_be_read_or_written_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = maps.files("s2", np.zeros((4, 4, 2), np.float32), None, placed(4, 4), ())["tif"]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rasterio" else found(name, *a))
    assert located.of_file("mine.tif", file) is None
    assert "mine.tif: where it lies is not read: that needs the package rasterio" in caplog.text
    maps._say.cache_clear()
    assert maps.files("s2", np.zeros((4, 4, 2), np.float32), None, placed(4, 4), ()) == {}
    assert caplog.text.count("maps are written without their place: GeoTIFF needs the package rasterio") == 1
