"""Which rows of the encoder's table a step touches; two ranks exchange them in pretrain/test_ranks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fourmill_tests import training

from fourmill.train.touched import Touched, pays


def test_only_rows_that_are_named_have_gradients(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path))
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    rows = Touched(one.model, 8 * 12, 2).rows(batch)
    one.model(batch).loss.backward()
    grad = one.model.encoder_embeddings.tokens.grad
    assert grad is not None
    touched = set(grad.abs().sum(1).nonzero().ravel().tolist())
    assert touched and touched <= set(rows.tolist())
    assert len(rows) == 97 and rows[0] == 0 and len(set(rows.tolist()) - touched) <= 1


@pytest.mark.parametrize(
    ("rows", "inputs", "world", "device", "expected"),
    [
        (274_208, 16_384, 8, "cuda", True), (274_208, 16_384, 64, "cuda", False), (105_056, 16_384, 8, "cuda", True),
        (274_208, 16_384, 1, "cuda", False), (274_208, 16_384, 2, "cpu", True), (274_208, 16_384, 3, "cpu", False),
    ],
)  # fmt: skip
def test_rows_are_sent_where_they_are_fewer(rows: int, inputs: int, world: int, device: str, expected: bool) -> None:
    assert pays(rows, inputs, world, device) is expected
