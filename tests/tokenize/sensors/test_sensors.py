"""Statistics of bands, rasters in crops, quantiles of numbers, and pixels of bands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fourmill_tests.tiny.landscape import forgotten

from fourmill import modalities
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize import inputs
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.networks.tables import TableConfig, quantiles
from fourmill.tokenize.sensors import raster
from fourmill.tokenize.sensors.statistics import Statistics, measure
from fourmill.train.tokenizers.examples import weights_of

RNG = np.random.default_rng(0)


def statistics(**changes: object) -> Statistics:
    rows = RNG.normal([5, -300], [2, 40], (40, 8, 8, 2)).astype(np.float32)
    return measure(rows, ["a", "b"], **changes)  # type: ignore[arg-type]


def test_statistics_are_those_of_numpy() -> None:
    rows = RNG.gamma(2, 30, (50, 4, 4, 2)).astype(np.float32)
    rows[:10, :, :, 1] = np.nan
    found = measure(rows, ["a", "b"], "m", "log")
    flat = rows.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(found.mean, np.nanmean(np.log(flat), 0))
    np.testing.assert_allclose(found.std, np.nanstd(np.log(flat), 0))
    np.testing.assert_allclose([found.low, found.median, found.high], np.nanpercentile(flat, (2, 50, 98), 0))
    np.testing.assert_allclose([found.least, found.most], [np.nanmin(flat, 0), np.nanmax(flat, 0)])
    assert found.valid == (1.0, 0.8) and found.samples == 50


def test_parts_that_are_read_one_after_the_other_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RNG.normal(1000, 3, (64, 256, 256, 1)).astype(np.float32)  # more than one part
    assert measure(rows, [""]).std[0] == pytest.approx(rows.astype(np.float64).std(), rel=1e-9)


@pytest.mark.parametrize("transform", ["linear", "log", "arcsinh"])
def test_standardized_and_restored(transform: str) -> None:
    values = RNG.gamma(2, 30, (20, 4, 4, 2)).astype(np.float32)
    found = measure(values, ["a", "b"], "", transform)  # type: ignore[arg-type]
    x = found.standardized(torch.from_numpy(values))
    np.testing.assert_allclose(x.numpy().reshape(-1, 2).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.numpy().reshape(-1, 2).std(0), 1, atol=1e-4)
    np.testing.assert_allclose(found.restored(x).numpy(), values, rtol=1e-4)


def test_what_is_not_there_is_the_mean() -> None:
    x = statistics().standardized(torch.tensor([[float("nan"), -300.0]]))
    assert x[0, 0] == 0 and x.isfinite().all()


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.nan, "band a: there is no value in any example"), (7.0, "band a: all values are 7")],
)
def test_bands_that_say_nothing_are_refused(values: float, said: str) -> None:
    rows = RNG.normal(size=(4, 2, 2, 2)).astype(np.float32)
    rows[..., 0] = values
    with pytest.raises(ValueError, match=said):
        measure(rows, ["a", "b"])


def test_no_logarithm_of_what_is_below_nought() -> None:
    with pytest.raises(ValueError, match="no value has a logarithm"):
        measure(-np.ones((4, 2, 2, 1), np.float32), ["a"], "", "log")


def test_missing_pixels_are_no_part_of_an_average() -> None:
    values = np.full((4, 4, 5), 10, np.float32)  # more than four bands
    values[0, 0] = values[:2, 2:] = np.nan
    found = raster.window(values, Crop(0, 0, 4, 4), 2)
    assert np.isnan(found[0, 1]).all()  # none of its four pixels is there
    np.testing.assert_allclose(found[[0, 1, 1], [0, 0, 1]], 10)


def test_a_crop_is_the_same_place_at_any_resolution() -> None:
    drawing = raster.Drawing(3, 4, (0.3, 1.0), 0.5)
    fine, coarse = drawing.windows("k", (264, 264)), drawing.windows("k", (88, 88))
    for one, other in zip(fine, coarse, strict=True):
        assert one.flip == other.flip
        np.testing.assert_allclose(
            [one.left / 3, one.top / 3, one.width / 3], [other.left, other.top, other.width], atol=1
        )


def test_quantiles_are_even_and_come_back() -> None:
    numbers = RNG.lognormal(3, 1, (1000, 2)).astype(np.float32)
    found = measure(numbers, ["a", "b"], "", "log")
    table = quantiles(TableConfig(table="quantiles", codebook_size=50, num_codebooks=2, statistics=found), numbers)
    ids = table.encode(torch.from_numpy(numbers))
    assert (np.bincount(ids[:, 0], minlength=50) == 20).all()
    back = table.decode(ids).numpy()
    assert back.dtype == np.float32 and np.median(np.abs(back / numbers - 1)) < 0.03
    assert torch.equal(table.encode(torch.from_numpy(back)), ids)
    beyond = torch.tensor([[1e-6, 1e9]])
    assert table.encode(beyond).tolist() == [[0, 49]]
    with pytest.raises(ValueError, match="a number is missing"):
        table.encode(torch.tensor([[1.0, float("nan")]]))


@pytest.fixture
def declared() -> Iterator[None]:
    with forgotten():
        Sensors({"lab": Sensor(member="tif", bands=["a", "b"], size=64)}).declare()
        yield


def test_examples_keep_their_unit_and_inputs_are_standardized(declared: None) -> None:
    values = RNG.normal(5, 2, (8, 8, 2)).astype(np.float32)
    values[0, 0, 1] = np.nan
    rows = inputs.examples("tok_lab", values, Crop(0, 0, 8, 8), 8, (8, 8))
    assert rows.dtype == np.float32 and np.array_equal(rows[0], values, equal_nan=True)
    x = inputs.to_input("tok_lab", rows, statistics=statistics())
    assert x.shape == (1, 2, 8, 8) and x[0, 1, 0, 0] == 0
    weight = weights_of(rows)
    assert weight is not None
    there = inputs.channels_first("tok_lab", weight)
    assert not there[0, 1, 0, 0] and there.sum() == 127
    with pytest.raises(ValueError, match="no pixel of the crop has a value"):
        inputs.examples("tok_lab", np.full_like(values, np.nan), Crop(0, 0, 8, 8), 8, (8, 8))


def test_sizes_of_a_sensors_modalities(declared: None) -> None:
    pixels = modalities.spec("lab", image_size=224, patch_size=16)
    assert (pixels.max_tokens, pixels.input_dim, pixels.channels) == (16, 2 * 16 * 16, 2)
    assert modalities.TOKENIZERS["tok_lab"].image_size == 64 and modalities.TOKENIZERS["lab"].is_table


def test_names_of_ones_own_are_not_those_of_fourmill() -> None:
    with pytest.raises(ValueError, match="depth: there is another declaration"):
        Sensors({"depth": Sensor(member="tif")}).declare()
    with pytest.raises(ValueError, match="expected small letters"):
        Sensors({"tok_s2": Sensor(member="tif")}).declare()
