"""Intervals by the bootstrap."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fourmill.train.measures import resample
from fourmill.train.measures.forms import Sums


def mean(values: np.ndarray) -> resample.Statistic:
    parts: list[Sums] = [{"sum": np.array(one), "samples": np.ones(())} for one in values]
    return resample.of_sums(parts, lambda total: {"mean": total["sum"] / total["samples"]})


@given(samples=st.integers(1, 40), draws=st.integers(0, 20), seed=st.integers(0, 5))
def test_a_draw_has_as_many_samples_as_there_are(samples: int, draws: int, seed: int) -> None:
    counts = resample.draw(samples, draws, seed)
    assert counts.shape == (draws, samples) and (counts >= 0).all() and (counts.sum(1) == samples).all()
    assert (counts == resample.draw(samples, draws, seed)).all()


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = resample.measure(mean(values), resample.draw(400, 4000, 1))["mean"]
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == np.float64(values.mean()) or math.isclose(found.value, values.mean())
    assert math.isclose(found.low, values.mean() - half, rel_tol=0.01)
    assert math.isclose(found.high, values.mean() + half, rel_tol=0.01)


def test_most_intervals_hold_the_truth() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(200):
        found = resample.measure(mean(rng.exponential(3, 60)), resample.draw(60, 400, seed))["mean"]
        held += found.low <= 3 <= found.high
    assert 0.88 <= held / 200 <= 0.98


def test_draws_without_a_value_do_not_count() -> None:
    parts: list[Sums] = [{"sum": np.array(float(i)), "n": np.array(1.0 if i == 3 else 0.0)} for i in (0, 3)]
    statistic = resample.of_sums(
        parts, lambda t: {"m": np.divide(t["sum"], t["n"], out=t["n"] * np.nan, where=t["n"] > 0)}
    )
    found = resample.measure(statistic, resample.draw(2, 100, 0))["m"]
    assert (found.value, found.low, found.high) == (3, 3, 3)
    without = resample.measure(statistic, resample.draw(2, 0, 0))["m"]
    assert without.value == 3 and math.isnan(without.low) and math.isnan(without.high)
