from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.train.schedule import cosine_lr

GOLDEN = Path(__file__).parents[1] / "golden" / "fm_schedules_and_embeddings.npz"


def test_the_schedule_of_the_reference() -> None:
    with np.load(GOLDEN) as recorded:
        expected = recorded["lr_cosine/base1e-3_min1e-5_ep3_it50_warm20"]
    rates = [cosine_lr(step, peak=1e-3, minimum=1e-5, warmup=20, steps=150) for step in range(150)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-15)


@given(st.integers(1, 300), st.integers(0, 400), st.floats(1e-6, 1.0), st.floats(0, 1))
@settings(deadline=None)
def test_it_rises_to_the_peak_and_falls_to_the_minimum(steps: int, warmup: int, peak: float, share: float) -> None:
    minimum = share * peak
    rates = [cosine_lr(step, peak=peak, minimum=minimum, warmup=warmup, steps=steps) for step in range(steps)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if warmup <= steps and warmup > 1:
        assert rates[0] == 0 and rates[warmup - 1] == pytest.approx(peak)
    beyond = cosine_lr(10 * steps + warmup, peak=peak, minimum=minimum, warmup=warmup, steps=steps)
    assert beyond == pytest.approx(minimum)
