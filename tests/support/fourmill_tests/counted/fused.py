"""Attention as a GPU does it, where tensors have no data: PyTorch takes plain products there, and keeps scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor


def _kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, compute_log_sumexp=True)[0]
    return y


@contextmanager
def fused() -> Iterator[None]:
    """Attention within is an operation that CUDA runs with a mask of numbers."""
    with patch.object(F, "scaled_dot_product_attention", _kernel):
        yield
