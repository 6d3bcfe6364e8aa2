"""Inputs without padding: what is computed for each token alone runs on the valid ones of a batch, one sample after the
other (as in ModernBERT, Warner et al. 2024); only attention sees samples side by side.

Legend: B samples, N places of a sample, registers included, T places of a batch without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import PackedBatch

_SIZES = 128  # that T may have for one B x N: memory is used again, and at most 1/128 of B x N is filled up
_ALIGNED = 8


@dataclass(frozen=True)
class Unpadding:
    """Where the valid tokens of a batch are.

    places: int64 (T,), where they stand in (B, N), row by row; place 0 for what fills T up.
    real: bool (T,), False for what fills T up.
    slots: int64 (B, N), where each valid token stands in (T,); 0 for padding.
    valid: bool (B * N,).
    """

    places: Tensor
    real: Tensor
    slots: Tensor
    valid: Tensor

    @classmethod
    def of(cls, batch: PackedBatch, registers: int = 0) -> Unpadding:
        """Of a NumPy batch, whose samples begin with so many registers in the encoder."""
        valid = np.pad(np.asarray(batch.input_valid), ((0, 0), (registers, 0)), constant_values=True)
        found = np.flatnonzero(valid)
        step = -(-valid.size // _SIZES)
        step += -step % _ALIGNED
        size = max(1, -(-len(found) // step)) * step
        places, slots = np.zeros(size, np.int64), np.zeros(valid.size, np.int64)
        places[: len(found)], slots[found] = found, np.arange(len(found))
        arrays = (places, np.arange(size) < len(found), slots.reshape(valid.shape), valid.ravel())
        return cls(*(torch.from_numpy(array) for array in arrays))

    def to(self, device: torch.device | str) -> Unpadding:
        return Unpadding(*(x.to(device, non_blocking=True) for x in self._tensors()))

    def pinned(self) -> Unpadding:
        return Unpadding(*(x.pin_memory() for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.places, self.real, self.slots, self.valid

    def without_padding(self, x: Tensor) -> Tensor:
        """(B, N, D) to (1, T, D)."""
        return self._rows(x, self.places, self.slots, self.valid)[None]

    def with_padding(self, x: Tensor) -> Tensor:
        """(1, T, D) to (B, N, D); what stands at padding is finite, and must not be used."""
        return self._rows(x, self.slots, self.places, self.real).view(*self.slots.shape, -1)

    def of_any_size(self, *tensors: Tensor) -> None:
        """Have torch.compile make graphs for any T, of these tensors of what a block reads, and not one for each."""
        size = len(self.places)
        for x in (self.places, self.real):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        for x in tensors:
            if x.shape[:2] == (1, size):
                torch._dynamo.maybe_mark_dynamic(x, 1)

    @staticmethod
    def _rows(x: Tensor, index: Tensor, inverse: Tensor, used: Tensor) -> Tensor:
        y: Tensor = _Rows.apply(x.flatten(0, 1), index.flatten(), inverse.flatten(), used)
        return y


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
