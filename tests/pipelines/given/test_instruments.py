"""Files of a user's own instruments, given as inputs of generation."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests.earth import ground
from fourmill_tests.tiny import landscape
from rasterio.transform import from_origin

from fourmill.pipelines.geo.georeference import Georeference, Located
from fourmill.pipelines.given import labels, listing
from fourmill.pipelines.given.given import Given, Mistake
from fourmill.runs.files import files_of
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor

S2 = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)


@pytest.fixture(autouse=True)
def sensors() -> Iterator[None]:
    with landscape.forgotten():
        Sensors({name: Sensor.model_validate(one) for name, one in landscape.SENSORS.items()}).declare()
        yield


def read(label: str, given: Any) -> Given:
    return labels.read(label, given, 10_000)


def test_any_file_of_the_bands_is_the_label_of_its_members(tmp_path: Path) -> None:
    tif = ground.raster(tmp_path / "a.tif", S2, from_origin(100, 200, 10, 10))
    np.save(tmp_path / "a.npy", np.moveaxis(S2, 0, -1))
    expected = np.where(S2 == 0, np.nan, S2 * 1e-4)[[2, 3]].transpose(1, 2, 0).astype(np.float32)
    for given in (str(tif), str(tmp_path / "a.npy"), S2):
        found = read("s2", given)
        np.testing.assert_allclose(found.value, expected, rtol=1e-6)
        assert found.size == (8, 6) and found.value.dtype == np.float32
    place = Georeference(ground.UTM, (10.0, 0.0, 100.0, 0.0, -10.0, 200.0))
    assert read("s2", str(tif)).place == Located((8, 6), place) and found.place is None
    assert {key for key in listing.samples({"s2": str(tmp_path)}, {"s2": "s2"})[0].values} == {"s2"}


def test_numbers_and_series_are_no_maps(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"biomass": {"mg_ha": 7.5}}))
    for given in ("7.5", 7.5, [7.5], str(tmp_path / "a.json")):
        found = read("agb", given)
        assert found.value.tolist() == [7.5] and found.size is None
    assert not labels.is_dense("agb") and not labels.is_dense("ndvi") and labels.is_dense("lulc")
    kept = np.load(io.BytesIO(files_of("agb", np.array([70_000.0]))["npy"]))
    assert kept.tolist() == [70_000.0]


@pytest.mark.parametrize(
    ("label", "given", "said"),
    [
        ("s2", S2[:3], r"\(3, 6, 8\), expected 4 bands first or last"),
        ("s2", "nowhere.tif", "there is no file nowhere.tif"),
        ("agb", "1,2", "got 2 numbers, expected 1"),
        ("agb", "a.npy", "got .npy, expected a .json with its fields"),
        ("lulc", np.full((4, 4), 9, np.uint8), "the ids 9, expected those of classes"),
    ],
)
def test_what_cannot_be_read_is_said(label: str, given: Any, said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros(1))
    with pytest.raises(Mistake, match=said):
        read(label, given)
