"""Cross-entropy of a linear head, which keeps no logits where they are many.

The logits of a vocabulary are the largest tensors of a training step: at 256 samples of 4M-B some 36 GB would be saved
for the backward pass. They are one product, so they are computed again there, a part of the targets at a time.

Legend: V targets, D width, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu.linear import linear

KEPT = 2**22  # logits, 16 MB in float32: fewer are kept, since one more product takes longer than they are worth,
KEPT_ON_GPU = 2**18  # where products are fast only as few as a launch is worth
LOGITS = 2**26  # at a time


def head_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The mean of `cross_entropy(hidden @ head.T, targets)`, a float32 scalar.

    Args:
        hidden: (V, D), at least one target. Products are in its dtype, sums and logarithms in float32.
        head: (C, D), the weights.
        targets: int64 (V,).
    """
    if len(targets) * len(head) <= (KEPT if hidden.device.type == "cpu" else KEPT_ON_GPU):
        return F.cross_entropy(F.linear(hidden, head).float(), targets)
    loss: Tensor = _HeadCrossEntropy.apply(hidden, head, targets)
    return loss


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        weight, normalizers, total = head.to(hidden.dtype), [], torch.zeros((), device=hidden.device)
        with _as_it_is(hidden):
            for part in _parts(len(targets), len(head)):
                logits = linear(hidden[part], weight).float()
                normalizers.append(logits.logsumexp(-1))
                total += (normalizers[-1] - logits.gather(1, targets[part, None])[:, 0]).sum()
        ctx.save_for_backward(hidden, head, targets, torch.cat(normalizers))
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, head, targets, normalizers = ctx.saved_tensors
        weight, scale = head.to(hidden.dtype), grad / len(targets)
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        with _as_it_is(hidden):
            for part in _parts(len(targets), len(head)):
                rows = hidden[part]
                # softmax - one-hot, in the memory of the logits
                errors = linear(rows, weight).float().sub_(normalizers[part, None]).exp_()
                errors.scatter_add_(1, targets[part, None], errors.new_full((len(rows), 1), -1.0))
                errors = errors.mul_(scale).to(hidden.dtype)
                if for_hidden is not None:
                    for_hidden[part] = errors @ weight
                if for_head is not None:
                    for_head += errors.t() @ rows
        return for_hidden, for_head, None


def _as_it_is(x: Tensor) -> AbstractContextManager[None]:
    """Without autocast: everything has the dtype that it shall have."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _parts(targets: int, vocabulary: int) -> Iterator[slice]:
    rows = max(1, LOGITS // vocabulary)
    for start in range(0, targets, rows):
        yield slice(start, start + rows)
