"""Schedules against the recorded ones of apple/ml-4m, and their invariants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill.model.generation.schedules import check_temperature_schedule, temperature_schedule, token_schedule

GOLDEN = Path(__file__).parents[2] / "golden" / "fm_schedules_and_embeddings.npz"


@pytest.mark.parametrize(("steps", "tokens"), [(8, 196), (12, 196), (49, 196), (25, 784)])
def test_schedules_are_those_of_the_reference(steps: int, tokens: int) -> None:
    with np.load(GOLDEN) as golden:
        for name in ("cosine", "linear"):
            assert np.array_equal(token_schedule(name, steps, tokens), golden[f"{name}_schedule/{steps}_{tokens}"])
        linear = token_schedule("linear", steps, tokens)
        for name, schedule in (("onex_temp", "onex:0.5:0.5"), ("linear_temp", "linear")):
            key = next(k for k in golden if k.startswith(f"{name}/{steps}_{tokens}"))
            peak = float(key.split("_")[3])
            np.testing.assert_allclose(temperature_schedule(schedule, peak, linear), golden[key], rtol=1e-6)


@given(st.sampled_from(["cosine", "linear"]), st.integers(1, 60), st.integers(1, 800))
def test_a_schedule_fills_every_token_once(name: str, steps: int, tokens: int) -> None:
    counts = token_schedule(name, steps, tokens)
    assert len(counts) == steps and counts.sum() == tokens and counts.min() >= 0


@given(st.sampled_from(["constant", "linear", "onex:0.1", "onex:0.1:2"]), st.integers(1, 60), st.integers(1, 800))
def test_temperatures_never_rise_nor_leave_their_range(name: str, steps: int, tokens: int) -> None:
    temperatures = temperature_schedule(name, 3.0, token_schedule("cosine", steps, tokens))
    assert len(temperatures) == steps
    assert (np.diff(temperatures) <= 1e-9).all()
    assert temperatures.max() <= 3.0 and temperatures.min() >= 0


@pytest.mark.parametrize("name", ["onex", "onex:x", "onex:-1", "onex:1:0", "cosine", "onex:1:2:3"])
def test_unknown_temperature_schedules_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="temperature schedule"):
        temperature_schedule(name, 1.0, np.array([3, 3]))


def test_unknown_token_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="cosine, linear"):
        token_schedule("square", 3, 9)
    with pytest.raises(ValueError, match="at least 1"):
        token_schedule("linear", 0, 9)


@pytest.mark.parametrize("name", ["constant", "linear", "onex:1e-1", "onex:.5:2"])
def test_names_of_temperature_schedules(name: str) -> None:
    assert check_temperature_schedule(name) == name


@pytest.mark.parametrize("name", ["onex:.", "onex:1:0", "onex:nan", "onex:1:inf", "onex", "cosine", "onex:-1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="temperature schedule"):
        check_temperature_schedule(name)
