"""Bytes that a piece of torch code leaves in memory, counted on tensors without data."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fourmill.model.blocks import DecoderBlock, EncoderBlock, Visible
from fourmill.model.checkpointing import Checkpointing, checkpointed
from fourmill.model.config import FourMConfig


class Alive(TorchDispatchMode):
    """What the operations within have made, and somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in given:
                storage = x.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return made

    @property
    def bytes(self) -> int:
        """Of each storage once."""
        return sum(size for storage, size in self._made.values() if not storage.expired())


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
        with torch.autocast("cpu", torch.bfloat16), Alive() as alive:
            shown = Visible.of(torch.ones(samples, 1, 1, inputs, dtype=torch.bool), x)
            among = Visible.of(torch.ones(samples, 1, targets, targets, dtype=torch.bool), y)
            for block in encoder:
                x = block(x, shown)
            for block in decoder:
                y = block(y, x, among, shown)
        return alive.bytes
