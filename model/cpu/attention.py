"""Attention for writing text on a CPU, one token at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention: q (B, H, N, E) and k, v (B, H, K, E) to (B, H, N, E).

    bias: added to the scores, -inf where a query may not attend, broadcast to (B, H, N, K), of the dtype of q; None for
    none. It is PyTorch's, but for one query on a CPU without gradients.
    """
    if q.shape[2] > 1 or q.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # PyTorch's kernel is made for many queries: for one it copies all keys to scale or widen them, which takes three
    # times as long in bfloat16 as these three small products.
    scores = (k @ (q * q.shape[-1] ** -0.5).mT).mT  # the larger matrix first: the other order takes 1.5 times as long
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    return (v.mT @ weights.mT).mT


def in_reading_order(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of keys and values (B, H, K, E) in the memory order in which `attention` reads them for one query: keys as
    (B, H, K, E), on a CPU values as (B, H, E, K). Worth it where the same ones are read for every token of a text."""
    if values.device.type != "cpu":  # whose kernels refuse values of which a vector is not in one piece
        return keys.contiguous(), values.contiguous()
    return keys.contiguous(), values.mT.contiguous().mT
