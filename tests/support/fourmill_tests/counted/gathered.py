"""What FSDP gathers at a time: counted on a model without data, for workers that are not there."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.parallel import ModalityLosses, shard


def gathered_bytes(config: FourMConfig, world: int = 128) -> dict[str, int]:
    """Bytes of each unit that FSDP gathers on a GPU, by the name of its module; "" is what is in no other unit."""
    with torch.device("meta"):
        losses = ModalityLosses(FourM(config))
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        shard(losses, "cpu", world, torch.bfloat16)
    finally:
        dist.destroy_process_group()
    found = {}
    for name, module in losses.named_modules():
        if not isinstance(module, FSDPModule):
            continue
        state = module._get_fsdp_state()
        if (group := state._fsdp_param_group) is not None:
            size = (state._mp_policy.param_dtype or torch.float32).itemsize
            found[name] = sum(p._orig_size.numel() for p in group.fsdp_params) * size
    return found
