"""What the workers of an FSDP run send each other in a step; gathered.py has what is held at a time.

Counted on one of 64 workers, on tensors without data, with a process group that sends nothing, and in float32: on CUDA
blocks and tables are gathered in bfloat16, half as many bytes.

- gathered: GB in a step, forward and backward; "over parameters" in units of the model's size.
- reduced: GB of gradients in a step, over the model's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.device_mesh as meshes
from counted.training import job_of, load, random_batch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.parallel import Parallel
from fourmill.train.pretrain.job import TrainJob, configured
from fourmill.train.pretrain.parts import parts_of

TITLE = "What FSDP's workers send in a step"
WORLD = 64
GB = 1e9


class Sent(TorchDispatchMode):
    """Bytes of each message: of what is gathered, and of what is reduced, both whole; of what goes from each worker to
    each, dtype and bytes that one worker sends."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered: list[int] = []
        self.reduced: list[int] = []
        self.exchanged: list[tuple[torch.dtype, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_allgather_base_":
            self.gathered.append(_bytes(args[0]))
        elif name == "_reduce_scatter_base_":
            self.reduced.append(_bytes(args[1]))
        elif name == "alltoall_base_":
            self.exchanged.append((args[1].dtype, _bytes(args[1])))
        return func(*args, **(kwargs or {}))


def _bytes(tensors: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(tensors) if isinstance(x, torch.Tensor))


@contextmanager
def workers() -> Iterator[None]:
    """A group of WORLD workers of which this process is one, and that send nothing."""
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    made, mesh = meshes.init_device_mesh, meshes.init_device_mesh("cpu", (WORLD,))
    # The mesh is a tensor with data: it is made before there are those without.
    meshes.init_device_mesh = lambda *_: mesh
    try:
        yield
    finally:
        meshes.init_device_mesh = made
        dist.destroy_process_group()


def sent(job: TrainJob, config: FourMConfig, depth: int) -> Sent:
    """Messages of a step of a model with so many blocks a side."""
    parts = parts_of(config, 1, torch.device("cpu"))(random_batch(job, 2))
    with workers(), FakeTensorMode(allow_non_fake_inputs=True):
        model = FourM(replace(config, encoder_depth=depth, decoder_depth=depth)).train()
        parallel = Parallel(model, "fsdp", "fp32", checkpointing=job.settings.activation_checkpointing)
        with Sent() as messages, parallel.micro_batch(last=True):
            parallel.losses(parts.batches[0], parts.groups[0]).sum().backward()
    return messages


def counted(name: str) -> dict[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    job = job_of(recipe)
    config = configured(job.specs, recipe.train.model)
    # Blocks are alike: what a second one of each side adds, each further one adds.
    one, two = (sent(job, config, depth) for depth in (1, 2))
    with torch.device("meta"):
        size = sum(4 * p.numel() for p in FourM(config).parameters())
    more = config.encoder_depth - 1
    gathered, reduced = (
        sum(few) + (sum(many) - sum(few)) * more
        for few, many in ((one.gathered, two.gathered), (one.reduced, two.reduced))
    )
    return {
        "gathered": gathered / GB,
        "gathered, over parameters": gathered / size,
        "reduced, over parameters": reduced / size,
    }


ROWS = {name: partial(counted, name) for name in ("4m7_xl", "4m21_xl")}
