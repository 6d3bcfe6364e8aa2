"""What checkpointing keeps, counted; that it changes no gradient is held by test_fourm.py."""

from __future__ import annotations

import pytest
from fourmill_tests.counted.memory import kept_by_blocks

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig


@pytest.mark.parametrize("size", ["B", "XL"])
def test_selective_checkpointing_keeps_products(size: str) -> None:
    """By hand, in bytes for each number of the width: what enters a block, and its products."""
    config = FourMConfig.preset(size, (ModalitySpec("tok_rgb", Kind.GRID, 4, 16),))
    none, selective, full = (kept_by_blocks(config, how, 128, 128) for how in (False, "selective", True))
    assert full < 0.1 * none and selective < 0.65 * none
    # float32 is 4 bytes, bfloat16 2. Encoder: the stream, q, k, v, attention, its projection, fc1, fc3, fc2. Decoder:
    # the same, and a query, a key, a value, attention and its projection.
    width, hidden = config.dim, config.mlp_hidden + -config.mlp_hidden % 8
    encoder = 4 * width + 2 * (6 * width + 2 * hidden)
    by_hand = 128 * config.encoder_depth * (2 * encoder + 2 * 5 * width)
    assert selective == pytest.approx(by_hand, rel=0.05)
