"""Weights of values, and series with an axis of their own, from files to what a fit sees."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data
from fourmill_tests.sky import galaxies
from fourmill_tests.tiny import landscape
from fourmill_tests.tiny.landscape import npy

from fourmill import recipe as recipes
from fourmill.pipelines.fit_data import FitData
from fourmill.pipelines.sensors import grid, readers, values
from fourmill.project import Project
from fourmill.sensors.parts import Grid
from fourmill.sensors.reading import Reading
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize.sensors import statistics
from fourmill.train.tokenizers import fit
from fourmill.train.tokenizers.examples import batches

AXIS = {"member": "flux.npy", "kind": "series", "axis": {"wavelength": "lambda.npy", "unit": "nm"}}


def made(members: dict[str, bytes], **reading: Any) -> tuple[np.ndarray, np.ndarray | None]:
    one = Reading.model_validate(reading)
    beside = {what: readers.read(members[where.name], where) for what, where in one.beside.items()}
    return values.weighed(readers.read(members[one.name], one), one, beside)


def onto(places: Any, found: Any, weights: Any = None, **of_grid: Any) -> np.ndarray:
    given = None if weights is None else np.array(weights, np.float64)[:, None]
    one = Grid.model_validate({"from": 0, "to": 10, "step": 1, **of_grid})
    return grid.onto(np.array(found, np.float64)[:, None], np.array(places, np.float64), one, given)[0][:, 0]


def test_points_lie_on_lines_between_neighbours_within_reach() -> None:
    places = np.array([0.5, 1.5, 2.5, 6.5, 7.5, 10.0])
    found = onto(places, 2 * places)
    np.testing.assert_allclose(found[[1, 2, 7]], [2, 4, 14])
    assert np.isnan(found[[0, 3, 4, 5, 6]]).all() and np.isnan(found[9])  # the ends, and a gap of 4
    assert np.isfinite(onto(places, 2 * places, reach=5)[1:]).all()
    np.testing.assert_allclose(onto(places[::-1], 2 * places[::-1])[[1, 2, 7]], [2, 4, 14])  # in any order


def test_what_lies_on_a_point_is_its_value() -> None:
    found = onto([0, 5, 10], [1, 2, 3], reach=1)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(found)), [0, 5, 10])
    np.testing.assert_array_equal(found[[0, 5, 10]], [1, 2, 3])
    assert onto([4.0], [7])[4] == 7


def test_finer_axes_are_averaged_with_their_weights() -> None:
    places = np.arange(0, 10.01, 0.25)
    rng = np.random.default_rng(0)
    noisy = 3 + rng.normal(0, 1, len(places))
    assert np.nanstd(onto(places, noisy)) < 0.7
    found = onto([4.8, 5.1, 9], [1, 100, 3], [3, 1, 1])
    assert found[5] == pytest.approx((3 * 1 + 100) / 4)
    _, known = grid.onto(
        np.array([[1.0], [3.0]]), np.array([0.0, 1.0]), Grid.model_validate({"from": 0, "to": 1, "points": 3}),
        np.array([[4.0], [4.0]]),
    )  # fmt: skip
    np.testing.assert_allclose(known[:, 0], [4, 8, 4])  # the middle is the mean of two


def test_a_spectrum_with_its_wavelengths_and_its_variance() -> None:
    wave = np.linspace(400, 500, 11)
    ivar = np.full(11, 4.0)
    ivar[[2, 3, 4, 5]] = [0, np.nan, -1, np.inf]
    files = {"flux.npy": npy(wave / 100), "lambda.npy": npy(wave), "ivar.npy": npy(ivar)}
    found, weights = made(files, **AXIS, weight="ivar.npy", grid={"from": 400, "to": 500, "step": 10, "reach": 15})
    assert found.shape == (11, 1) and weights is not None
    assert np.isnan(found[2:6, 0]).all() and (weights[2:6] == 0).all() and np.isfinite(found[[0, 1, 6, 10], 0]).all()
    with pytest.raises(ValueError, match=r"wavelength: 10 places for 11 values"):
        made(files | {"lambda.npy": npy(wave[1:])}, **AXIS, grid={"from": 400, "to": 500, "step": 10})
    with pytest.raises(ValueError, match="no point of the grid has a value: wavelength is 400 to 500"):
        made(files, **AXIS, grid={"from": 4000, "to": 5000, "step": 10})


def test_dates_are_days() -> None:
    dates = json.dumps(["2020-01-01", "2020-01-11", "2020-01-21T12:00:00"]).encode()
    files = {"flux.npy": npy(np.array([1.0, 2.0, 3.0])), "d.json": dates}
    reading = {"member": "flux.npy", "kind": "series", "axis": {"time": "d.json"}}
    found, _ = made(files, **reading, grid={"from": "2020-01-01", "to": "2020-01-21", "step": 5})
    np.testing.assert_allclose(found[:, 0], [1, 1.5, 2, 2 + 5 / 10.5, 2 + 10 / 10.5])
    found, _ = made(files, **reading, grid={"from": 1, "to": 11, "step": 5})  # of any year
    np.testing.assert_allclose(found[:, 0], [1, 1.5, 2])
    with pytest.raises(ValueError, match="'soon' is no date as 2020-05-31"):
        made(
            files | {"d.json": b'["soon", "2020-01-11", "2020-01-21"]'}, **reading, grid={"from": 1, "to": 9, "step": 1}
        )


def test_arrays_of_one_file_go_together() -> None:
    sink = io.BytesIO()
    np.savez(sink, flux=np.arange(4.0), ivar=np.array([1, 0, 1, 1.0]))
    found, weights = made({"npz": sink.getvalue()}, member="npz", array="flux", kind="series", length=4, weight="ivar")
    assert np.isnan(found[1, 0]) and weights is not None and weights[:, 0].tolist() == [1, 0, 1, 1]
    raster, one = np.ones((2, 3, 4), np.float32), np.ones((3, 4), np.float32)
    one[0, 0] = 0
    found, weights = made({"x.npy": npy(raster), "w.npy": npy(one)}, member="x.npy", bands=["a", "b"], weight="w.npy")
    assert np.isnan(found[0, 0]).all() and weights is not None and weights.shape == (3, 4, 2)  # one for all bands
    with pytest.raises(ValueError, match=r"weight: \(2, 2, 1\), and the values are \(3, 4, 2\)"):
        made({"x.npy": npy(raster), "w.npy": npy(one[:2, :2])}, member="x.npy", bands=["a", "b"], weight="w.npy")


@pytest.mark.parametrize(
    ("sensor", "said"),
    [
        ({"axis": {"time": "d.json"}}, "axis and grid go together: .*from: 2020-01-01"),
        ({"grid": {"from": 0, "to": 1, "step": 0.1}}, "axis and grid go together"),
        ({"axis": {"a": "x.npy", "b": "y.npy"}, "grid": {"from": 0, "to": 1, "points": 9}}, "expected a name"),
        ({"axis": {"a": "x.npy"}, "grid": {"from": 1, "to": 0, "step": 1}}, "is not below to"),
        ({"axis": {"a": "x.npy"}, "grid": {"from": 0, "to": 1}}, "say step, or points"),
        ({"axis": {"a": "x"}, "grid": {"from": 0, "to": 1, "points": 5}}, "expected a member such as x.npy"),
        ({"kind": "scalar", "weight": "w.npy"}, "weight: it is of a raster or a series"),
        ({"kind": None, "mel": {}}, "mel: it makes a raster of a sound"),
        ({"kind": None, "member": "wav"}, "or a raster by mel"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(sensor: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sensor.model_validate({"member": "x.npy", "kind": "series", **sensor})


@pytest.mark.parametrize(("transform", "softening"), [("linear", 1.0), ("log", 1.0), ("arcsinh", 0.5)])
def test_weighted_errors_are_those_of_the_unit(transform: Any, softening: float) -> None:
    """A small error counts as in chi squared, whatever values are standardized by."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(1, 5, (1, 64, 2)) * [1, 100]
    ivar = rng.uniform(0.1, 10, rows.shape)
    known = statistics.measure(rows, ["a", "b"], transform=transform, softening=softening)
    true, weights = torch.from_numpy(rows), torch.from_numpy(ivar)
    errors = torch.from_numpy(rng.normal(0, 1e-6, rows.shape)) * true
    weight = known.weighed(true, weights)
    off = known.transformed(true + errors) / torch.tensor(known.std) - known.transformed(true) / torch.tensor(known.std)
    found, expected = (weight * off.square()).flatten(), (weights * errors.square()).flatten()
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=1e-3)
    assert weight.mean() == pytest.approx(1, rel=1e-5)
    mask = torch.ones(3, dtype=torch.bool)
    assert known.weighed(true, mask) is mask


def recipe(folder: Path, path: str) -> dict[str, Any]:
    sensors = {
        "image": {"column": "image.flux", "bands": galaxies.BANDS, "weight": "image.ivar"},
        "spectrum": {
            "column": "spectrum.flux", "kind": "series", "weight": "spectrum.ivar",
            "axis": {"wavelength": "spectrum.lambda", "unit": "angstrom"},
            "grid": {"from": 3600, "to": 9800, "points": 32},
        },
    }  # fmt: skip
    settings = landscape.recipe(folder, [path], [], sensors=sensors, generate={})
    common = settings["tokenizers"]["common"] | {"samples": 12, "validation_samples": 4}
    return settings | {
        "modalities": ["tok_image", "tok_spectrum"], "images": {"size": 16, "patch_size": 8},
        "labels": {"keep": ["image"]},
        "tokenizers": {"common": common},
    }  # fmt: skip


def test_weights_go_with_their_values_into_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = galaxies.write(tmp_path / "0.parquet", range(8))
    with landscape.forgotten():
        project = Project(recipes.parse(recipe(tmp_path, path)))
        data.make(
            project.recipe, data.outputs(project.recipe, tokens=False)
        )  # what is kept is read, its weights are made
        project.refresh_all()
        job = project.fit_job(["tok_image", "tok_spectrum"])
        assert isinstance(job.train, FitData)
        cache = fit.fill(job, ["tok_image", "tok_spectrum"], 0, 1, "cpu", data.Silent())
        for name in ("tok_image", "tok_spectrum"):
            rows = cache[name]
            assert rows.weights is not None and rows.weights.shape == rows.train.shape
            assert len(rows.train) == (12 if name == "tok_image" else 6)
            known = np.isfinite(rows.train)
            np.testing.assert_allclose(rows.weights[~known], 0)
            assert (rows.weights[known] > 0).all()
        assert np.isnan(cache["tok_spectrum"].train[:, 0]).all()  # of no weight, in all
        rows, settings = cache["tok_image"], job.tokenizers["tok_image"]
        steps = batches("tok_image", settings, rows.train, 16, 0, 0, 4, settings.total_steps - 1, "cpu", rows.weights)
        known = statistics.measure(rows.train, galaxies.BANDS)
        x, weight = next(steps).to("tok_image", "cpu", known)
        assert weight is not None and weight.shape == x.shape and weight.dtype == torch.float32
        assert weight[0, 3].mean() / weight[0, 0].mean() == pytest.approx((known.std[3] / known.std[0]) ** 2, rel=1e-4)


def test_recipes_of_before_are_the_same(tmp_path: Path) -> None:
    """Settings at their defaults are in no fingerprint."""
    assert Reading.model_validate({"member": "tif", "nodata": 0}).plain() == {"member": "tif", "nodata": [0.0]}
