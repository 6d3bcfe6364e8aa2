"""Random numbers of samples: their distributions, and that they depend on their sample alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.train.data.draws import Draws, _log_gamma_above_1

MANY = 40_000


def draws(rows: int = MANY) -> Draws:
    """Of neighbouring keys, the worst case: those of the loader are mixed."""
    return Draws(np.arange(rows, dtype=np.uint64)).of("test")


def chi_square(values: np.ndarray, cells: int) -> float:
    """Of values in 0..1 against uniform."""
    counts = np.bincount(np.minimum((values.ravel() * cells).astype(int), cells - 1), minlength=cells)
    expected = values.size / cells
    return float(((counts - expected) ** 2 / expected).sum())


def test_numbers_are_pinned() -> None:
    """Every bit of every mask follows from these; if they must change, FORMAT in order.py goes up."""
    keys = Draws(np.array([1, 2**40 + 7, 2**64 - 1], np.uint64))
    assert keys.bits(3).tolist() == [
        [2261973619, 1580013426, 350525680],
        [2437034648, 274948958, 2697778440],
        [1010127484, 2014932197, 1933809403],
    ]
    assert keys.of("a", 1).bits(1)[:, 0].tolist() == [1654654567, 2728501281, 2311892305]
    assert keys.numbered(np.array([0, 1, 2])).bits(1)[:, 0].tolist() == [2212311209, 3494215535, 335323944]


def test_bits_are_uniform_and_independent() -> None:
    bits = draws().bits(4) / 2.0**32
    assert chi_square(bits, 100) < 149  # 99 degrees of freedom, p = 0.001
    pairs = {"columns": bits[:, 0] - bits[:, 1], "rows": bits[1:, 0] - bits[:-1, 0]}
    pairs["purposes"] = bits[:, 0] - draws().of("other").bits(1)[:, 0] / 2.0**32
    for name, difference in pairs.items():
        assert chi_square(difference % 1, 100) < 149, name
    each_bit = (draws(5000).bits(2)[..., None] >> np.arange(32, dtype=np.uint32) & 1).mean((0, 1))
    assert np.abs(each_bit - 0.5).max() < 4 * 0.5 / 10_000**0.5


def test_integers_are_uniform_below_their_bound() -> None:
    highs = np.tile([1, 3, 10], MANY)
    drawn = draws(3 * MANY).below(highs)
    assert (drawn[::3] == 0).all()
    assert chi_square((drawn[1::3] + 0.5) / 3, 3) < 13.8 and chi_square((drawn[2::3] + 0.5) / 10, 10) < 27.9


@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0, 1000.0])
def test_gamma_has_its_mean_and_variance(alpha: float) -> None:
    """Of Gamma(a) both are a; fourth central moment 3 a^2 + 6 a."""
    values = np.exp(draws().log_gamma(np.full((MANY, 2), alpha)).astype(np.float64)).ravel()
    assert abs(values.mean() - alpha) < 4 * (alpha / values.size) ** 0.5
    error = ((3 * alpha**2 + 6 * alpha - alpha**2) / values.size) ** 0.5
    assert abs(values.var() - alpha) < 4 * error


def test_gamma_has_known_special_cases() -> None:
    values = np.exp(draws().log_gamma(np.full((MANY, 1), 1.0)).astype(np.float64))
    assert chi_square(np.exp(-values), 100) < 149
    shapes = np.tile([0.5, 0.5], (MANY, 1))
    pair = np.exp(draws().log_gamma(shapes).astype(np.float64))
    share = pair[:, 0] / pair.sum(axis=1)  # Beta(1/2, 1/2): the arcsine law
    assert chi_square(2 / np.pi * np.arcsin(np.sqrt(share)), 50) < 86  # 49 degrees of freedom, p = 0.001


def test_what_accepts_a_gamma_draw_serves_again() -> None:
    """The uniform number left over has no memory of the draw: Gamma(a) with a below 1 is the product of both."""
    above, log_u = _log_gamma_above_1(draws(), np.full((1, MANY), 1.5, np.float32))
    assert chi_square(np.exp(log_u), 100) < 149
    below = log_u[above > np.median(above)]
    assert chi_square(np.exp(below), 50) < 86


def test_tiny_shapes_do_not_underflow() -> None:
    values = draws(1000).log_gamma(np.full((1000, 3), 1e-9))
    assert np.isfinite(values).all() and values.min() < -1e8


@given(rows=st.lists(st.integers(0, 49), max_size=8), counts=st.lists(st.integers(0, 5), min_size=50, max_size=50))
@settings(deadline=None)
def test_numbers_belong_to_their_rows(rows: list[int], counts: list[int]) -> None:
    all_of, chosen = draws(50), np.array(rows, np.int64)
    some, shapes = all_of.rows(chosen), np.linspace(0.01, 3, 100).reshape(50, 2)
    np.testing.assert_array_equal(some.bits(7), all_of.bits(7)[chosen])
    np.testing.assert_array_equal(some.log_gamma(shapes[chosen]), all_of.log_gamma(shapes)[chosen])
    np.testing.assert_array_equal(some.of("x", 1).uniform(2), all_of.of("x", 1).uniform(2)[chosen])
    np.testing.assert_array_equal(all_of.flat(np.full(50, 7)), all_of.bits(7).ravel())
    np.testing.assert_array_equal(
        all_of.times(chosen).bits(2).reshape(50, -1, 2)[3], all_of.rows(np.full(len(rows), 3)).numbered(chosen).bits(2)
    )
    lengths = np.array(counts)
    pieces = np.split(all_of.flat(lengths), np.cumsum(lengths)[:-1])
    parts = [pieces[row] for row in rows] or [np.zeros(0, np.uint32)]
    np.testing.assert_array_equal(some.flat(lengths[chosen]), np.concatenate(parts))
