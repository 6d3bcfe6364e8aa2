"""What blocks compute again in the backward pass instead of keeping it: everything, or all but products and attention.

Products and attention are nearly all of a block's operations, and half of what it keeps; the rest (norms, activations,
casts) is computed again in the time that reading it would take (Korthikanti et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Checkpointing = bool | Literal["selective"]
_KEPT = {
    "mm", "addmm", "_linear_pointwise", "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable", "_varlen_attn",
}  # fmt: skip


def checkpointed(forward: Callable[..., Tensor], how: Checkpointing) -> Callable[..., Tensor]:
    """The forward of a block, which computes again what `how` says; "selective" is all but products and attention."""
    context: dict[str, Any] = {"context_fn": _selective} if how == "selective" else {}

    def call(*args: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args)
        y: Tensor = checkpoint(forward, *args, use_reentrant=False, **context)
        return y

    return call if how else forward


def _policy(context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    kept = operation.overloadpacket.__name__ in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_selective = partial(create_selective_checkpoint_contexts, _policy)
