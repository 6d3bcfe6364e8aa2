"""Which rows of the encoder's table a step touches, and whose they are; two ranks exchange them in
pretrain/test_ranks.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests import training

from fourmill.train.touched import Touched, most_of_an_owner, pays


def test_only_rows_that_are_named_have_gradients(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path))
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    rows = [Touched(one.model, 8 * 12, rank, 3).rows(batch) for rank in range(3)]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])  # all agree on the owners
    one.model(batch).loss.backward()
    grad = one.model.encoder_embeddings.tokens.grad
    assert grad is not None
    touched = set(grad.abs().sum(1).nonzero().ravel().tolist())
    named = [row for owner in rows[0].tolist() for row in set(owner)]
    assert touched and touched <= set(named)
    assert max(Counter(named).values()) == 1, "each row has one owner"
    assert set(named) - touched <= {0, *(int(owner[0]) for owner in rows[0])}


def test_more_rows_than_messages_hold_are_refused(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path))
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    with pytest.raises(RuntimeError, match=r"rows of the encoder's table .* train on another number"):
        Touched(one.model, 3, 0, 2).rows(batch)


@pytest.mark.parametrize(
    ("rows", "inputs", "world", "expected"),
    [
        (274_208, 16_384, 8, True), (274_208, 16_384, 64, True), (105_056, 16_384, 1024, True),
        (105_056, 65_536, 1024, False), (274_208, 16_384, 1, False), (274_208, 16_384, 2, True), (696, 48, 2, True),
        (60, 48, 2, False), (1, 48, 2, False),
    ],
)  # fmt: skip
def test_rows_are_sent_where_they_are_fewer(rows: int, inputs: int, world: int, expected: bool) -> None:
    assert pays(rows, inputs, world) is expected


@pytest.mark.parametrize(("rows", "inputs", "world"), [(105_056, 32_768, 64), (274_208, 16_384, 8), (5_000, 900, 7)])
def test_draws_stay_below_what_messages_hold(rows: int, inputs: int, world: int) -> None:
    most, rng = most_of_an_owner(rows, inputs, world), np.random.default_rng(0)
    drawn = [np.bincount(rng.permutation(rows)[: inputs + 1] % world, minlength=world).max() for _ in range(20)]
    assert max(drawn) < most < 2 * max(drawn)
