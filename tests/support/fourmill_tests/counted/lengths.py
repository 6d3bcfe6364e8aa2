"""The FLOPs of attention within sequences, where tensors have no data: of lengths that the host knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.attention.varlen  # declares torch_attn
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from fourmill.model.unpadding import Unpadding


def formulas(unpadding: Unpadding | None) -> dict[Any, Callable[..., int]]:
    """For FlopCounterMode, whose own take each sequence to be as long as the longest may be."""
    if unpadding is None:
        return {}
    rows = {"tokens": len(unpadding.places), "queries": int(unpadding.queries[-1])}
    of = {"among_inputs": ("tokens", "tokens"), "of_inputs": ("queries", "tokens")}
    of |= {"among_queries": ("queries", "queries")} if unpadding.runs is not None else {}
    lengths = {}
    for name, (q, k) in of.items():
        way = getattr(unpadding, name)
        pairs = list(zip(way.queries.diff().tolist(), way.keys.diff().tolist(), strict=True))
        lengths[rows[q], rows[k], len(pairs)] = pairs
    assert len(lengths) == len(of), "two ways to attend have equal sizes"

    def shapes(q: Any, k: Any, edges: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        heads, width = q.shape[1:]
        pairs = lengths[len(q), len(k), len(edges) - 1]
        return [((1, heads, a, width), (1, heads, b, width)) for a, b in pairs]

    def forward(q: Any, k: Any, v: Any, edges: Any, *_: Any, **__: Any) -> int:
        return sum(sdpa_flop_count(a, b, b) for a, b in shapes(q, k, edges))

    def backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, edges: Any, *_: Any, **__: Any) -> int:
        return sum(sdpa_backward_flop_count(a, a, b, b) for a, b in shapes(q, k, edges))

    forward._get_raw = backward._get_raw = True  # type: ignore[attr-defined]
    operations = torch.ops.torch_attn
    return {operations._varlen_attn: forward, operations._varlen_attn_backward: backward}
