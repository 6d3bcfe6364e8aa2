"""PyTorch's attention to samples of different lengths, which has kernels of GPUs alone: the same by plain products.

What no sample has stays undefined, as there: it is NaN here, so that a use of it is seen.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen


def _samples(edges_q: Tensor, edges_k: Tensor) -> list[tuple[slice, slice]]:
    q, k = ([slice(a, b) for a, b in pairwise(edges.tolist())] for edges in (edges_q, edges_k))
    assert all(a.stop > a.start and b.stop > b.start for a, b in zip(q, k, strict=True)), "a sample without tokens"
    return list(zip(q, k, strict=True))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("qhe,khe->hqk", q, k) * q.shape[-1] ** -0.5


def _forward(
    q: Tensor, k: Tensor, v: Tensor, edges_q: Tensor, edges_k: Tensor, most_q: int, most_k: int, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    out, lse = torch.full_like(q, torch.nan), q.new_full((q.shape[1], len(q)), torch.nan, dtype=torch.float)
    for a, b in _samples(edges_q, edges_k):
        assert a.stop - a.start <= most_q and b.stop - b.start <= most_k, "longer than the most"
        out[a] = torch.einsum("hqk,khe->qhe", _scores(q[a], k[b]).softmax(-1), v[b])
    return out, lse, torch.zeros(2, dtype=torch.uint64)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, edges_q: Tensor, edges_k: Tensor,
    *_: Any, **__: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grads = tuple(torch.full_like(x, torch.nan) for x in (q, k, v))
    for a, b in _samples(edges_q, edges_k):
        weights, rows = _scores(q[a], k[b]).softmax(-1), torch.einsum("qhe,khe->hqk", grad[a], v[b])
        inner = weights * (rows - (weights * rows).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        grads[0][a] = torch.einsum("hqk,khe->qhe", inner, k[b])
        grads[1][b] = torch.einsum("hqk,qhe->khe", inner, q[a])
        grads[2][b] = torch.einsum("hqk,qhe->khe", weights, grad[a])
    return grads[0], grads[1], grads[2]


def on_cpu() -> None:
    """Give the operation kernels for this process, which compute on a CPU."""
    varlen._varlen_attn.register_kernel("cpu")(_forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(_backward)
