"""One model on several devices: DDP, or FSDP2 (`fully_shard`, Zhao et al. 2023), with mixed precision and compilation.

A step calls `ModalityLosses`: its output is one tensor, to which DDP and FSDP attach the exchange of gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model.batch import PackedBatch
from ..model.checkpointing import Checkpointing
from ..model.fourm import FourM
from ..model.prepare import TargetGroups
from ..model.unpadding import Unpadding
from .settings import Precision, in_bf16
from .touched import TABLE, Touched, pays

UNIT_BYTES = 10**9  # that FSDP gathers at a time, at most


class ModalityLosses(nn.Module):
    """The mean cross-entropy of each of a model's outputs, float32 (outputs,); 0 where a batch has no targets."""

    def __init__(self, model: FourM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, groups: TargetGroups, unpadding: Unpadding | None = None) -> Tensor:
        output = self.model(batch, groups=groups, unpadding=unpadding)
        return torch.stack([output.losses[name] for name in self.model.config.outputs])


class Parallel:
    """A model as the workers of a run call it.

    Args:
        model: on its device, the same on every worker. With "fsdp" its parameters become shards (DTensor) in place.
        mode: "ddp": each worker has all of it; "fsdp": each worker has a part of every parameter, gathered when used.
        precision: "bf16" computes in bfloat16 under autocast, with float32 weights, norms, losses and gradient sums;
            "auto" does so on CUDA.
        compiled: whether blocks are compiled (`FourM.compile_blocks`).
        checkpointing: whether activations of blocks are computed again in the backward pass, and which.
        inputs: of a worker's step, padding included, for what it may touch of the encoder's table.
    """

    def __init__(
        self,
        model: FourM,
        mode: Literal["ddp", "fsdp"] = "ddp",
        precision: Precision = "auto",
        *,
        compiled: bool = False,
        checkpointing: Checkpointing = False,
        inputs: int | None = None,
    ) -> None:
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.device = model.device
        self.bf16 = in_bf16(precision, self.device.type)
        model.checkpoint_blocks(checkpointing)
        if compiled:
            model.compile_blocks()
        self._module: Any = ModalityLosses(model)
        self.touched: Touched | None = None
        self._sharded = mode == "fsdp" and dist.is_initialized()
        if self._sharded:
            # Blocks are gathered in the dtype they compute in; the residual stream stays as autocast leaves it. On CPU
            # autocast leaves norms to their weights' dtype, which then must be the stream's.
            dtype = torch.bfloat16 if self.bf16 and self.device.type == "cuda" else None
            shard(self._module, self.device.type, self.world, dtype)
            self._tables: list[Any] = _tables(model)
        elif self.world > 1:
            if inputs is not None and pays(len(model.encoder_embeddings.tokens), inputs, self.world):
                self.touched = Touched(model, inputs, dist.get_rank(), self.world)
                ignore = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
                ignore(self._module, [f"model.{TABLE}"])  # type: ignore[no-untyped-call]
            # Buffers are constant tables (positions): sending them at each step would cost time for nothing.
            self._module = nn.parallel.DistributedDataParallel(
                self._module, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def losses(self, batch: PackedBatch, groups: TargetGroups, unpadding: Unpadding | None = None) -> Tensor:
        """See `ModalityLosses`."""
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            losses: Tensor = self._module(batch, groups, unpadding)
        return losses

    def train(self, mode: bool = True) -> None:
        self._module.train(mode)

    def begin(self, rows: Tensor | None) -> None:
        """Call it before the first part of a step.

        Args:
            rows: that the step touches of the encoder's table, see `touched`.
        """
        if self.touched is not None and rows is not None:
            self.touched.pull(rows)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a part of a step: gradients are exchanged after the last one only."""
        # Without this, n micro-batches would exchange the gradients of all parameters n times in a step.
        if self._sharded:
            self._module.set_requires_gradient_sync(last)
        elif self.world > 1 and not last:
            with self._module.no_sync():
                yield
            return
        yield
        if last and self.touched is not None:
            self.touched.push()

    def norm(self, parameters: Iterable[Tensor]) -> Tensor:
        """The norm of the gradients of all parameters, a scalar; a DTensor of shards."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients) if self.touched is None else self.touched.norm(gradients)

    def make_whole(self, tensors: Mapping[str, Tensor]) -> None:
        """Have all workers of DDP hold the same; all must call it before what they hold is read.

        Args:
            tensors: parameters, and what else has a value for each of theirs, by "kind.parameter".
        """
        if self.touched is not None:
            self.touched.make_whole(x for name, x in tensors.items() if name.endswith(f".{TABLE}"))

    def discard_gathered(self) -> None:
        """Drop gathered copies of parameters. Call it when anything else than the optimizer has changed parameters."""
        if self._sharded:
            for module in (self._module, *self._tables):
                module.reshard()


def shard(losses: ModalityLosses, device: str, world: int, dtype: torch.dtype | None) -> None:
    """Make the parameters of a model shards of so many workers, in place; `dtype` is what they are gathered in.

    Tables of more than UNIT_BYTES are split first.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh, model = init_device_mesh(device, (world,)), losses.model
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Block by block: of one at a time all parameters are on the device, the rest stays sharded.
    for block in (*model.encoder, *model.decoder):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # Tables are read at both ends of a step: gathered once for both, each on its own.
    for tables in (model.encoder_embeddings, model.decoder_embeddings):
        tables.split(UNIT_BYTES // (model.config.dim * (dtype or torch.float32).itemsize))
    for module in _tables(model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(losses, mesh=mesh)


def _tables(model: FourM) -> list[nn.Module]:
    """Tables of tokens and positions, the parts of one before all of it."""
    sides = (model.encoder_embeddings, model.decoder_embeddings)
    return [module for side in sides for module in (*side.parts, side)]


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one, on every worker; all must call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
