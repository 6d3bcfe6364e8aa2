"""Bytes that blocks keep of a forward pass, counted on tensors without data; and those that an allocator gave out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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


def allocated(run: Callable[[], object], folder: Path) -> int:
    """Most bytes at once that CPU's allocator gave out while something ran, beyond those before: torch's profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e["name"] == "[memory]"]
    before = events[0]["args"]["Total Allocated"] - events[0]["args"]["Bytes"]
    return max(event["args"]["Total Allocated"] for event in events) - before
