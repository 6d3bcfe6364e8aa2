"""Bytes that blocks keep of a forward pass, counted on tensors without data."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fourmill.model.blocks import DecoderBlock, EncoderBlock, Visible
from fourmill.model.checkpointing import Checkpointing, checkpointed
from fourmill.model.config import FourMConfig
from fourmill.train.memory import Live


def kept_by_blocks(config: FourMConfig, how: Checkpointing, inputs: int, targets: int) -> int:
    """Bytes that the blocks of a model keep of one sample's forward pass under bfloat16 autocast."""
    kept = {(n, depth): _kept(config, how, n, depth, inputs, targets) for n in (1, 2) for depth in (1, 2)}
    # Blocks are alike, and so are samples: what a second one adds, casts of weights not among it.
    one = kept[2, 1] - kept[1, 1]
    each = kept[2, 2] - kept[1, 2] - one
    return one + each * (config.encoder_depth - 1)


def _kept(config: FourMConfig, how: Checkpointing, samples: int, depth: int, inputs: int, targets: int) -> int:
    with FakeTensorMode():
        encoder = [checkpointed(EncoderBlock(config).forward, how) for _ in range(depth)]
        decoder = [checkpointed(DecoderBlock(config).forward, how) for _ in range(depth)]
        x, y = (torch.empty(samples, n, config.dim, requires_grad=True) for n in (inputs, targets))
        with torch.autocast("cpu", torch.bfloat16), Live() as live:
            shown = Visible.of(torch.ones(samples, 1, 1, inputs, dtype=torch.bool), x)
            among = Visible.of(torch.ones(samples, 1, targets, targets, dtype=torch.bool), y)
            for block in encoder:
                x = block(x, shown)
            for block in decoder:
                y = block(y, x, among, shown)
        return live.bytes
