"""An encoder that computes no padding: what it learns is the same, and how much it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.prepare import only_shown
from fourmill.model.unpadding import Unpadding

Batches = Callable[..., PackedBatch]


def with_inputs(batch: PackedBatch, counts: list[int]) -> PackedBatch:
    """The batch with so many inputs of each sample."""
    batch.input_valid = np.arange(batch.input_valid.shape[1]) < np.array(counts)[:, None]
    return batch


@pytest.mark.parametrize("registers", [0, 3])
def test_losses_and_gradients_are_the_same(random_batch: Batches, config: FourMConfig, registers: int) -> None:
    """Whatever is padding: parts of samples, and all of one."""
    model = FourM(replace(config, num_register_tokens=registers, qk_norm=bool(registers))).double()
    batch = random_batch(config, seed=1)
    batch = only_shown(config, with_inputs(batch, [0, *range(3, 2 + batch.num_samples)]))
    found = []
    for unpadding in (None, Unpadding.of(batch, registers)):
        model.zero_grad()
        loss = model(batch, unpadding=unpadding).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(0, 2))
def test_each_valid_token_has_one_place(counts: list[int], registers: int) -> None:
    valid = np.arange(40) < np.array(counts)[:, None]
    unpadding = Unpadding.of(PackedBatch(*([valid] * 3), valid, *([valid] * 6)), registers)
    x = torch.arange(unpadding.slots.numel()).view(*unpadding.slots.shape, 1)
    flat = unpadding.without_padding(x)
    shown = unpadding.valid.view(*unpadding.slots.shape, 1)
    assert int(unpadding.real.sum()) == sum(counts) + registers * len(counts) == int(shown.sum())
    assert flat[0, unpadding.real, 0].tolist() == x[shown].tolist()
    assert torch.equal(unpadding.with_padding(flat)[shown], x[shown])


def test_batches_have_few_sizes() -> None:
    """So that memory is used again; one in 128 places is filled up at most, one in 256 on average."""
    rng, sizes, filled = np.random.default_rng(0), set(), 0
    for _ in range(300):
        valid = np.arange(256) < rng.integers(1, 257, 16)[:, None]
        unpadding = Unpadding.of(PackedBatch(*([valid] * 3), valid, *([valid] * 6)))
        sizes.add(len(unpadding.places))
        filled += int((~unpadding.real).sum())
    assert all(size % 32 == 0 for size in sizes) and max(sizes) <= 4096
    assert filled / 300 < 32 * 0.6
