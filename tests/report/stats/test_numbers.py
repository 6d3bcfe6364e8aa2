"""Moments and quantiles in one pass, and those of parts together: as NumPy has them of all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.tokenize.sensors import numbers
from fourmill.tokenize.sensors.numbers import LEVELS, Channels


def read(arrays: list[np.ndarray]) -> numbers.Numbers:
    channels = Channels(arrays[0].shape[1])
    for array in arrays:
        channels.add(array.astype(np.float32))
    return channels.done()


@pytest.mark.parametrize("offset", [0.0, 300.0, -2e4])
def test_a_stream_is_as_all_at_once(offset: float) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((rng.integers(1, 500), 3)) * [1, 10, 0.01] + offset for _ in range(30)]
    found, whole = read(arrays), np.concatenate(arrays).astype(np.float32).astype(np.float64)
    assert np.allclose(found.of(numbers.MEAN), whole.mean(axis=0), rtol=1e-6)
    assert np.allclose(found.std, whole.std(axis=0), rtol=1e-3)
    assert (found.of(numbers.LOW) == whole.min(axis=0)).all() and (found.of(numbers.HIGH) == whole.max(axis=0)).all()
    expected = np.quantile(whole, LEVELS, axis=0, method="inverted_cdf").T
    assert np.abs(found.quantiles - expected).max() <= 5e-4 * np.abs(whole).max()


def test_values_of_float16_are_exact() -> None:
    values = np.linspace(-1, 1, 999).astype(np.float16)[:, None]
    exact = np.quantile(values[:, 0].astype(np.float64), LEVELS, method="inverted_cdf")
    assert (read([values]).quantiles[0] == exact).all()


def test_what_is_no_number_is_counted_and_left_out() -> None:
    values = np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, np.nan]])
    found = read([values])
    assert found.of(numbers.COUNT).tolist() == [3, 3] and found.of(numbers.FINITE).tolist() == [2, 0]
    assert found.of(numbers.MEAN)[0] == 2 and np.isnan(found.of(numbers.LOW)[1]) and np.isnan(found.quantiles[1]).all()


def test_values_at_the_ends_are_counted() -> None:
    found = read([np.array([[0.0], [0.0], [0.5]]), np.array([[1.0], [0.0], [1.0]])])
    assert found.moments[0, [numbers.AT_LOW, numbers.AT_HIGH]].tolist() == [3, 2]


def test_many_channels_have_quantiles_together() -> None:
    values = np.arange(400.0).reshape(10, 40)
    found = read([values])
    assert found.quantiles.shape == (1, len(LEVELS)) and found.moments.shape == (40, 8)
    assert found.quantiles[0, numbers.level(0.5)] == 199


def test_quantiles_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(mean, 1, size) for mean, size in ((0, 5_000), (5, 20_000), (0.5, 100))]
    quantiles = [np.quantile(part, LEVELS) for part in parts]
    merged = numbers.merged_quantiles(quantiles, [len(part) for part in parts])
    whole = np.concatenate(parts)
    ranks = np.searchsorted(np.sort(whole), merged) / len(whole)
    assert np.abs(ranks - LEVELS).max() < 0.01


def test_atoms_stay_atoms() -> None:
    edges = np.quantile(np.repeat([0.0, 255.0], [900, 100]), LEVELS, method="inverted_cdf")
    merged = numbers.merged_quantiles([edges, edges], [1_000, 1_000])
    assert set(merged[:-10].tolist()) <= {0.0} and merged[-1] == 255
    assert numbers.cdf(edges, np.array([-1.0, 0.0, 255.0])).tolist() == pytest.approx([0, 0.9, 1], abs=0.026)
