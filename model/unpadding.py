"""Inputs without padding: blocks run on the valid tokens of a batch, one sample after the other (as in ModernBERT,
Warner et al. 2024). A GPU attends so in half precision; where there is no such kernel attention sees samples side by
side, padded.

Legend: B samples, N places of a sample, registers included, T places of a batch without padding, M queries of a sample,
H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import PackedBatch

_SIZES = 128  # that T may have for one B x N: memory is used again, and at most 1/128 of B x N is filled up
_ALIGNED = 8
_WIDEST = 256  # head that the kernels take


def has_kernel(device: torch.device, dtype: torch.dtype, head: int) -> bool:
    """Whether a device attends to samples of different lengths in one call, with heads of a width."""
    if device.type != "cuda" or torch.version.hip is not None or dtype not in (torch.float16, torch.bfloat16):
        return False
    return head % _ALIGNED == 0 and head <= _WIDEST and torch.cuda.get_device_capability(device) >= (8, 0)


@dataclass(frozen=True)
class Sequences:
    """Which rows of queries see which rows of keys, as kernels take it that compute no padding.

    queries, keys: int32 (S + 1,), where each of S sequences begins, and the last one ends. None is empty.
    most_queries, most_keys: at least as many as the longest has.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within each sequence: q (rows, H, E), k and v (rows, H, E) to (rows of q, H, E). What no sequence
        has is undefined, and so is its gradient."""
        from torch.nn.attention.varlen import varlen_attn  # brings torch.compile, which CPUs have no use for

        y = varlen_attn(q, k, v, self.queries, self.keys, self.most_queries, self.most_keys)
        assert isinstance(y, Tensor)
        return y


@dataclass(frozen=True)
class Unpadding:
    """Where the valid tokens of a batch are. A sample without any has its first place as one, which nothing reads.

    places: int64 (T,), where they stand in (B, N), row by row; place 0 for what fills T up.
    real: bool (T,), False for what fills T up, of which there is some.
    slots: int64 (B, N), where each valid token stands in (T,); 0 for padding.
    valid: bool (B * N,).
    edges: int32 (B + 2,), where in (T,) each sample begins, and what fills T up begins and ends.
    queries: int32 (B + 1,), multiples of M.
    targets: M.
    runs: int32 (R + 1,), where in (B * M,) the targets of each modality of each sample, and padding, begin and the last
        ones end; None unless each sees all of its run and nothing else.
    fused: whether attention has no padding either; where there is a kernel for it if None.
    """

    places: Tensor
    real: Tensor
    slots: Tensor
    valid: Tensor
    edges: Tensor
    queries: Tensor
    targets: int
    runs: Tensor | None = None
    fused: bool | None = None

    @classmethod
    def of(cls, batch: PackedBatch, registers: int = 0, grids: bool = False, fused: bool | None = None) -> Unpadding:
        """Of a NumPy batch.

        Args:
            registers: with which each sample begins in the encoder.
            grids: whether all targets are of grids, whose queries see their own modality's alone.
        """
        valid = np.pad(np.asarray(batch.input_valid), ((0, 0), (registers, 0)), constant_values=True)
        # Kernels differ in what they do with a sample of no tokens: there is none.
        valid[~valid.any(1), 0] = True
        found, lengths = np.flatnonzero(valid), valid.sum(1)
        step = _step(valid.size)
        size = (len(found) // step + 1) * step
        places, slots = np.zeros(size, np.int64), np.zeros(valid.size, np.int64)
        places[: len(found)], slots[found] = found, np.arange(len(found))
        edges = np.concatenate([[0], np.cumsum(lengths), [size]]).astype(np.int32)
        targets = np.asarray(batch.target_mod).shape[1]
        queries = np.arange(len(valid) + 1, dtype=np.int32) * np.int32(targets)
        made = torch.from_numpy
        return cls(
            made(places), made(np.arange(size) < len(found)), made(slots.reshape(valid.shape)), made(valid.ravel()),
            made(edges), made(queries), targets, made(_runs(batch)) if grids else None, fused,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Unpadding:
        return self._with(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Unpadding:
        return self._with(lambda x: x.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Unpadding:
        changed: dict[str, Any] = {name: change(x) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **changed)

    def fuses(self, device: torch.device, dtype: torch.dtype, head: int) -> bool:
        """Whether attention has no padding, of heads of a width, on a device and in a dtype."""
        return has_kernel(device, dtype, head) if self.fused is None else self.fused

    @property
    def among_inputs(self) -> Sequences:
        """Tokens (T,) and those of their sample."""
        batch, places = self.slots.shape
        # What fills T up is one more sample: nothing is left undefined.
        most = max(places, _step(batch * places))
        return Sequences(self.edges, self.edges, most, most)

    @property
    def of_inputs(self) -> Sequences:
        """Queries (B * M,) and the tokens (T,) of their sample."""
        return Sequences(self.queries, self.edges[:-1], self.targets, self.slots.shape[1])

    @property
    def among_queries(self) -> Sequences | None:
        """Queries (B * M,) and those that they see."""
        return None if self.runs is None else Sequences(self.runs, self.runs, self.targets, self.targets)

    def with_real_gradient(self, x: Tensor) -> Tensor:
        """x (T, H, E); the gradient of what fills T up is zeros, of which kernels leave it undefined."""
        y: Tensor = _Real.apply(x, self.real)
        return y

    def without_padding(self, x: Tensor) -> Tensor:
        """(B, N, D) to (1, T, D)."""
        return self._rows(x, self.places, self.slots, self.valid)[None]

    def with_padding(self, x: Tensor) -> Tensor:
        """(1, T, D) to (B, N, D); what stands at padding is finite, and must not be used."""
        return self._rows(x, self.slots, self.places, self.real).view(*self.slots.shape, -1)

    def of_any_size(self, *tensors: Tensor) -> None:
        """Have torch.compile make graphs for any T and R, of these tensors of what a block reads, and not one for
        each."""
        size = len(self.places)
        for x in (self.places, self.real, *(() if self.runs is None else (self.runs,))):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        for x in tensors:
            if x.shape[:2] == (1, size):
                torch._dynamo.maybe_mark_dynamic(x, 1)

    @staticmethod
    def _rows(x: Tensor, index: Tensor, inverse: Tensor, used: Tensor) -> Tensor:
        y: Tensor = _Rows.apply(x.flatten(0, 1), index.flatten(), inverse.flatten(), used)
        return y


def _runs(batch: PackedBatch) -> np.ndarray:
    """See `Unpadding.runs`; of targets that each see their whole run."""
    mod, valid, ends = (np.asarray(x) for x in (batch.target_mod, batch.target_valid, batch.target_end))
    begins = np.ones(mod.shape, bool)
    begins[:, 1:] = (mod[:, 1:] != mod[:, :-1]) | (valid[:, 1:] != valid[:, :-1])
    edges = np.append(np.flatnonzero(begins), mod.size)
    whole = np.repeat(edges[1:], np.diff(edges)).reshape(mod.shape) - np.arange(len(mod))[:, None] * mod.shape[1]
    assert np.array_equal(ends[valid], whole[valid]), "a target that does not see all of its run"
    return edges.astype(np.int32)


def _step(places: int) -> int:
    """By which numbers of tokens differ, of batches of B x N places."""
    step = -(-places // _SIZES)
    return step + -step % _ALIGNED


class _Real(torch.autograd.Function):
    """x (T, H, E), of whose gradient the rows that are not real are zeros."""

    @staticmethod
    def forward(x: Tensor, real: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (real,) = ctx.saved_tensors
        return torch.where(real[:, None, None], grad, 0), None


class _Rows(torch.autograd.Function):
    """Rows `index` of x, of which each that is `used` is taken once, at `inverse`: its gradient is one row as well.

    PyTorch's own gradient adds up rows that may have been taken twice, on a GPU in any order.
    """

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor, used: Tensor) -> Tensor:
        return x.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, used = ctx.saved_tensors
        return torch.where(used[:, None], grad.index_select(0, inverse), 0), None, None, None
