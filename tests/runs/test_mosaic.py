"""Tiles of a scene are blended into one map."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests.tiny import landscape

from fourmill.modalities import Size
from fourmill.runs.mosaic import Canvas, _check_shape, _layer, _likeliest
from fourmill.sensors.declared import Sensors
from fourmill.sensors.reading import Reading
from fourmill.sensors.sensor import Sensor
from fourmill.verbs.make.generate import _tile


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_what_all_tiles_agree_on_is_the_map(tmp_path: Path, size: tuple[int, int]) -> None:
    rows, cols, (high, wide) = 50, 90, size
    down, across = np.mgrid[0:120, 0:160]
    truth = np.stack([down * 2.0 + across, 5.0 - across], axis=-1).astype(np.float32)
    canvas = Canvas(str(tmp_path), (rows, cols, 2), size)
    for row in range(0, rows, high * 3 // 4):
        for col in range(0, cols, wide * 3 // 4):
            tile = truth[row : row + high, col : col + wide].copy()
            tile[:4, :4] = np.nan  # others may have a value there
            canvas.add(col, row, tile)
    found = np.concatenate(list(canvas.rows()))
    assert found.shape == (rows, cols, 2)
    gaps = np.isnan(found)
    np.testing.assert_allclose(found[~gaps], truth[:rows, :cols][~gaps], rtol=1e-5)
    assert gaps[:4, :4].all() and gaps.sum() == 4 * 4 * 2 * 1  # the corner that one tile alone shows


def test_a_seam_is_a_slope_and_no_step(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path), (32, 56, 1), 32)
    canvas.add(0, 0, np.zeros((32, 32, 1), np.float32))
    canvas.add(24, 0, np.ones((32, 32, 1), np.float32))
    (row,) = next(canvas.rows())[10:11]
    values = row[:, 0]
    assert (values[:24] == 0).all() and (values[32:] == 1).all()
    assert (np.diff(values[23:33]) > 0).all() and np.diff(values).max() < 0.2


def test_the_likeliest_class_may_be_none() -> None:
    shares = np.array([[[0.6, 0.4], [0.2, 0.3], [0.0, 0.0], [np.nan, np.nan], [0.1, 0.5]]], np.float32)
    assert _likeliest(shares)[0, :, 0].tolist() == [0, 255, 255, 255, 1]


def test_tiles_have_the_shape_of_crops() -> None:
    assert [_tile(text) for text in ("96", "96x192", "64X64")] == [96, (96, 192), 64]
    for wrong in ("0", "96x", "1x2x3", "-4", "a"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected pixels, 96, or height x width"):
            _tile(wrong)
    with landscape.forgotten():
        Sensors({"strip": Sensor.model_validate({"member": "npy", "size": [32, 64]})}).declare()
        fitting: list[tuple[str, Size]] = [("strip", (96, 192)), ("depth", 96)]
        for label, size in fitting:
            _check_shape(label, label, size)
        for label, size, said in (("strip", 96, "of 32 x 64 px.*such as 32x64"), ("depth", (96, 192), "squares")):
            with pytest.raises(ValueError, match=said):
                _check_shape(label, label, size)


def test_a_scene_may_be_of_another_kind_than_the_members() -> None:
    """Members of a Zarr say an array; a GeoTIFF of a scene has none."""
    reading = Reading(member="zarr.zip", array="bands", bands=["a", "b"])
    found = [_layer(reading, name)["array"] for name in ("scene.tif", "s.jp2", "scene.zarr", "s.nc", "S.H5")]
    assert found == [None, None, "bands", "bands", "bands"]
