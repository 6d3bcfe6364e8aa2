"""Filters and draws, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourmill.model.generation.sampling import end_or_go_on, filter_logits, guide, sample

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]))


def kept(logits: torch.Tensor) -> list[int]:
    return torch.isfinite(logits).nonzero().flatten().tolist()


@pytest.mark.parametrize(("top_k", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [1]), (2, [1, 3]), (9, [0, 1, 2, 3, 4])])
def test_top_k(top_k: int, expected: list[int]) -> None:
    assert kept(filter_logits(LOGITS, top_k=top_k)) == expected


@pytest.mark.parametrize(
    ("top_p", "expected"), [(1.0, [0, 1, 2, 3, 4]), (0.3, [1]), (0.5, [1, 3]), (0.7, [1, 3, 4]), (0.9, [0, 1, 3, 4])]
)
def test_top_p_keeps_the_token_that_passes_it(top_p: float, expected: list[int]) -> None:
    assert kept(filter_logits(LOGITS, top_p=top_p)) == expected


@pytest.mark.parametrize(
    ("ends", "above", "expected"),
    [([1], 0.5, [0, 2, 3, 4]), ([1], 0.3, [1]), ([1, 3], 0.6, [1, 3]), ([0], 0.0, [0]), ([1, 3], 0.7, [0, 2, 4])],
)
def test_a_text_ends_where_that_is_likely_enough(ends: list[int], above: float, expected: list[int]) -> None:
    assert kept(end_or_go_on(LOGITS, torch.tensor(ends), above)) == expected


def test_filters_leave_the_others_as_they_are() -> None:
    filtered = filter_logits(LOGITS.expand(2, 3, -1), top_k=3, top_p=0.5)
    assert torch.equal(filtered[1, 2, [1, 3]], LOGITS[[1, 3]])


def test_draws_follow_the_probabilities() -> None:
    n = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, n), dtype=np.float32))
    ids, probability = sample(LOGITS.expand(1, n, -1), uniforms, temperature=0.5)
    expected = LOGITS.exp() ** 2 / (LOGITS.exp() ** 2).sum()
    frequency = ids.flatten().bincount(minlength=5) / n
    # Five standard errors of a frequency.
    assert ((frequency - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()
    torch.testing.assert_close(probability, expected[ids])


def test_filtered_tokens_are_never_drawn() -> None:
    uniforms = torch.tensor([[0.0, 0.25, 0.5, 1 - 2**-24]])
    ids, _ = sample(LOGITS.expand(1, 4, -1), uniforms, temperature=1.0, top_k=2)
    assert set(ids.flatten().tolist()) <= {1, 3}
    assert ids[0, 0] == 1 and ids[0, -1] == 3


def test_temperature_zero_takes_the_likeliest_token() -> None:
    ids, probability = sample(LOGITS.expand(1, 2, -1), torch.tensor([[0.0, 0.99]]), temperature=0)
    assert ids.tolist() == [[1, 1]]
    torch.testing.assert_close(probability, torch.full((1, 2), 0.4))


def test_guidance_of_one_is_the_conditional() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    passes = torch.cat([a, b])
    torch.testing.assert_close(guide(passes, [1.0]), a)
    torch.testing.assert_close(guide(passes, [0.0]), b)
    torch.testing.assert_close(guide(passes, [3.0]), 3 * a - 2 * b)
    assert torch.equal(guide(b, []), b)


def test_guidance_by_several_is_their_weighted_conjunction() -> None:
    first, second, none = torch.randn(3, 2, 5).unbind()
    guided = guide(torch.cat([first, second, none]), [2.0, -0.5])
    torch.testing.assert_close(guided, none + 2 * (first - none) - 0.5 * (second - none))
