"""From the bytes of a sensor's file to its label, and what is wrong with files that are not as they should be."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
import tifffile
from fourmill_tests.tiny.landscape import npy
from pydantic import ValidationError

from fourmill.pipelines.sensors import checks, readers, values
from fourmill.sensors.reading import Reading
from fourmill.sensors.sensor import Sensor

CUBE = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) + 1


def label(data: bytes, **reading: Any) -> np.ndarray:
    one = Reading.model_validate({"member": "x.npy", **reading})
    return values.label(readers.read(data, one), one)


@pytest.mark.parametrize(
    "array",
    [CUBE, CUBE.transpose(1, 2, 0), CUBE[None], np.asfortranarray(CUBE), CUBE.astype(">i2"), CUBE.astype(np.float64)],
    ids=["chw", "hwc", "time first", "Fortran", "big-endian", "float64"],
)
def test_bands_are_found_however_they_lie(array: np.ndarray) -> None:
    found = label(npy(array), bands=["a", "b"])
    assert found.dtype == np.dtype("=f4") and found.flags.c_contiguous
    np.testing.assert_array_equal(found, CUBE.transpose(1, 2, 0))


def test_kept_bands_nodata_scale_and_offset() -> None:
    cube = CUBE.copy()
    cube[1, 0, 0] = 0
    found = label(npy(cube), bands=["a", "b"], use=["b"], nodata=0, scale=0.5, offset=1)
    expected = cube[1] * 0.5 + 1.0
    expected[0, 0] = np.nan
    np.testing.assert_array_equal(found[..., 0], expected)


def test_nan_and_infinite_values_are_no_values() -> None:
    found = label(npy(np.array([[1.0, np.nan], [np.inf, 4.0]])))
    np.testing.assert_array_equal(found[..., 0], [[1, np.nan], [np.nan, 4]])


def test_metres_are_kept_as_float32() -> None:
    heights = np.array([[8848.86, 8848.87]])  # float16 has steps of 8 m there
    np.testing.assert_allclose(label(npy(heights))[..., 0], heights, rtol=1e-7)


def test_readers_of_npz_tif_and_deep_png() -> None:
    import cv2

    several, pages, picture = io.BytesIO(), io.BytesIO(), np.array([[0, 40_000]], np.uint16)
    np.savez_compressed(several, red=CUBE, other=CUBE[0])
    tifffile.imwrite(pages, CUBE, photometric="minisblack")
    expected = CUBE.transpose(1, 2, 0)
    np.testing.assert_array_equal(label(several.getvalue(), member="npz", array="red", bands=["a", "b"]), expected)
    np.testing.assert_array_equal(label(pages.getvalue(), member="tif", bands=["a", "b"]), expected)
    found = label(cv2.imencode(".png", picture)[1].tobytes(), member="dem.png")
    np.testing.assert_array_equal(found[..., 0], picture)


def test_tif_with_bands_in_each_pixel() -> None:
    pages = io.BytesIO()
    tifffile.imwrite(pages, CUBE.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(label(pages.getvalue(), member="tif", bands=["a", "b"]), CUBE.transpose(1, 2, 0))


def test_classes_by_order_and_by_id() -> None:
    ids = np.array([[10, 20], [30, 0]], np.uint8)
    found = label(npy(ids), classes={10: "trees", 20: "grass", 30: "trees"}, nodata=0)
    np.testing.assert_array_equal(found, [[0, 1], [0, 255]])
    np.testing.assert_array_equal(label(npy(ids // 10), classes=["a", "b", "c", "d"]), ids // 10)
    with pytest.raises(ValueError, match="no pixel has a class"):
        label(npy(ids * 0), classes={10: "trees"}, nodata=0)
    floats = np.array([[1.0, np.nan]])
    np.testing.assert_array_equal(label(npy(floats), classes=["a", "b"]), [[1, 255]])


def test_numbers_of_json_and_of_arrays() -> None:
    data = json.dumps({"a": {"b": 2}, "lon": 7.5, "lat": 50}).encode()
    assert label(data, member="json", field="a.b", scale=10).tolist() == [20]
    assert label(data, member="json", fields=["lon", "lat"]).tolist() == [7.5, 50]
    assert label(npy(np.float64(3)), kind="scalar").tolist() == [3]
    assert label(npy(np.arange(3)), kind="vector", shape=[3]).tolist() == [0, 1, 2]


def test_series_of_one_band_and_of_several() -> None:
    series = np.arange(12, dtype=np.float64).reshape(2, 6)
    series[1, 2] = -1
    found = label(npy(series), kind="series", length=6, bands=["a", "b"], use=["b"], nodata=-1)
    assert found.shape == (6, 1) and np.isnan(found[2, 0]) and found[3, 0] == 9
    np.testing.assert_array_equal(label(npy(series.T), kind="series", length=6, bands=["a", "b"])[:, 0], series[0])
    np.testing.assert_array_equal(label(npy(series[0]), kind="series", length=6)[:, 0], series[0])


def test_a_length_or_an_axis_makes_a_series() -> None:
    alone = {"member": "f.npy", "axis": {"wavelength": "l.npy"}, "grid": {"from": 1, "to": 9, "points": 5}}
    for said in (alone, {"member": "f.npy", "length": 6}):
        assert Reading.model_validate(said) == Reading.model_validate(said | {"kind": "series"})


def test_a_reader_of_ones_own() -> None:
    found = label(b"1 2;3 4", member="dat", reader=f"{__name__}:matrix")
    np.testing.assert_array_equal(found[..., 0], [[1, 2], [3, 4]])


def matrix(data: bytes) -> np.ndarray:
    return np.array([row.split() for row in data.decode().split(";")], float)


class Broken:
    """Never made: unpickling it would say so."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was read",)


def pickled() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([Broken()], object), allow_pickle=True)
    return sink.getvalue()


def test_what_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_BYTES", 1 << 20)
    several, pages = io.BytesIO(), io.BytesIO()
    np.savez_compressed(several, a=np.zeros((2048, 1024), np.uint8))
    tifffile.imwrite(pages, np.zeros((2048, 1024), np.uint8), compression="zlib")
    for member, file in (("npz", several), ("tif", pages)):
        with pytest.raises(ValueError, match="expected at most 1048576"):
            label(file.getvalue(), member=member)


TWO = {"bands": ["a", "b"]}


@pytest.mark.parametrize(
    ("data", "reading", "said"),
    [
        (npy(CUBE), {"bands": ["a", "b", "c", "d", "e"]}, "expected 5 bands first or last"),
        (npy(CUBE), TWO | {"axes": "hwc"}, "expected 2 bands last; see bands .the axes are the other way"),
        (npy(np.zeros((2, 5, 2))), TWO, "say axes: chw, or hwc"),
        (npy(CUBE), {}, r"\(2, 3, 4\), expected 1 bands first or last"),
        (npy(CUBE[0]), TWO, r"\(3, 4\), expected 2 bands: \(2, H, W\) or \(H, W, 2\)"),
        (npy(np.zeros((2, 2))), {"nodata": 0}, "no pixel has a value"),
        (npy(np.full((2, 2), np.nan)), {}, "no pixel has a value"),
        (npy(CUBE[0]), {"dtype": "float32"}, "int16, and the recipe says float32"),
        (npy(CUBE[0]), {"shape": [4, 4]}, r"\(3, 4\), and the recipe says \(4, 4\)"),
        (npy(np.zeros((0, 4))), {}, "which is empty"),
        (npy(np.zeros((2, 2), complex)), {}, "complex128, expected numbers"),
        (npy(np.array([["a"]])), {}, "expected numbers"),
        (pickled(), {}, "object, expected numbers"),
        (b"nothing", {}, "not an array"),
        (npy(CUBE)[:-4], TWO, "44 bytes of values, expected 48"),
        (b"nothing", {"member": "tif"}, "not a TIFF file"),
        (b"nothing", {"member": "npz"}, "not an archive"),
        (npy(CUBE), {"member": "xyz"}, "nothing reads .xyz"),
        (npy(np.array([[7]])), {"classes": ["a", "b"]}, "the ids 7, expected those of classes"),
        (npy(np.array([[0.5]])), {"classes": ["a", "b"]}, "no whole numbers"),
        (b"{}", {"member": "json", "field": "agb"}, "agb: there is no value"),
        (b'{"agb": "high"}', {"member": "json", "field": "agb"}, "agb is 'high', expected a number"),
        (b'{"agb": -9999}', {"member": "json", "field": "agb", "nodata": -9999}, "agb: there is no value"),
        (b"[1]", {"member": "json", "field": "agb"}, "list, expected an object"),
        (npy(np.arange(3)), {"kind": "scalar"}, r"\(3,\), expected 1 numbers"),
        (npy(np.arange(3.0)), {"kind": "series", "length": 4}, r"\(3,\), expected \(4,\); see length"),
        (npy(np.zeros((2, 2))), TWO | {"kind": "series", "length": 2}, "say axes: chw, or hwc"),
        (b"", {"member": "dat", "reader": "no_such_module:read"}, "cannot be loaded"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(data: bytes, reading: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        label(data, **reading)


@pytest.mark.parametrize(
    ("sensor", "said"),
    [
        ({"member": ".tif"}, "expected what follows the key"),
        ({"member": "tif", "bands": ["a", "a"]}, "a name stands twice"),
        ({"member": "tif", "bands": ["a"], "use": ["b"]}, "'b' is not among the bands"),
        ({"member": "tif", "field": "agb"}, "it is of a JSON"),
        ({"member": "tif", "kind": "classes"}, "name the classes"),
        ({"member": "tif", "classes": ["a"], "scale": 2}, "have no meaning for classes"),
        ({"member": "tif", "scale": 0}, "which would make all values one"),
        ({"member": "tif", "bands": ["a", "b"], "show": ["a", "b"]}, "expected one band of a raster, or three"),
        ({"member": "tif", "stretch": "p98-p2"}, "expected percentiles"),
        ({"member": "tif", "softening": 2}, "it is of arcsinh"),
        ({"member": "npy", "kind": "vector"}, "say how many numbers"),
        ({"member": "npy", "kind": "series"}, "it goes with kind: series"),
        ({"member": "npy", "kind": "raster", "length": 5}, "it goes with kind: series"),
    ],
)
def test_settings_that_cannot_be(sensor: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sensor.model_validate(sensor)


def zarred(array: np.ndarray, chunks: tuple[int, ...], version: int = 2, fill: float = 0, lost: int = 0) -> bytes:
    """A Zarr group of `bands` and another array in a .zip, without some of its chunks."""
    import zarr
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(content), mode="w", zarr_format=2 if version == 2 else 3)
    for name in ("bands", "other"):
        made = group.create_array(name, shape=array.shape, chunks=chunks, dtype=array.dtype, fill_value=fill)
        made[...] = array
    if version == 2:
        zarr.consolidate_metadata(group.store)
    # Zarr writes chunks in any order.
    parts = sorted(name for name in content if name.startswith("bands/") and name.rpartition("/")[2][0].isdigit())
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, value in content.items():
            if name not in parts[:lost]:
                archive.writestr(name, value.to_bytes())
    return sink.getvalue()


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_in_a_zip(version: int) -> None:
    expected = CUBE.transpose(1, 2, 0)
    found = label(zarred(CUBE[None], (1, 1, 3, 4), version), member="zarr.zip", array="bands", **TWO)
    np.testing.assert_array_equal(found, expected)


def test_chunks_of_zarr_that_are_lost() -> None:
    lost = zarred(CUBE, (1, 3, 4), lost=1)
    with pytest.raises(
        ValueError, match="1 of 2 chunks are missing, and their fill value 0 is no nodata; sparse: true"
    ):
        label(lost, member="zarr.zip", array="bands", **TWO)
    found = label(lost, member="zarr.zip", array="bands", sparse=True, **TWO)
    assert (found[..., 0] == 0).all() and (found[..., 1] == CUBE[1]).all()
    ids = zarred(CUBE[0], (3, 2), lost=2)  # a tile of the first class alone has no chunk at all
    assert (label(ids, member="zarr.zip", array="bands", sparse=True, classes=["sea", "land"]) == 0).all()
    with pytest.raises(ValidationError, match="sparse: it is of files with chunks"):
        Reading(member="npy", sparse=True)
    found = label(lost, member="zarr.zip", array="bands", nodata=0, **TWO)
    assert np.isnan(found[..., 0]).all() and not np.isnan(found[..., 1]).any()
    with pytest.raises(ValueError, match="holds the arrays bands, other; say which one"):
        label(lost, member="zarr.zip", **TWO)
    with pytest.raises(ValueError, match="not a Zarr store"):
        label(b"nothing", member="zarr.zip")


def test_a_part_of_a_file_has_gaps_whatever_dtype_is_declared() -> None:
    part = np.ma.MaskedArray(np.array([[1, 2], [3, 0]], np.int16), [[False, False], [False, True]])
    reading = Reading(member="npy", dtype="int16", shape=[9, 9])
    np.testing.assert_array_equal(values.label(part, reading)[..., 0], [[1, 2], [3, np.nan]])
    ids = values.label(part, Reading(member="npy", dtype="int16", classes=["a", "b", "c", "d"]))
    assert ids.tolist() == [[1, 2], [3, 255]]
