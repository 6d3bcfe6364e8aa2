"""Transformer blocks of 4M: pre-norm attention and (gated) MLP, on scaled_dot_product_attention.

Legend: B samples, N queries, K keys, D width, H heads, E = D / H. Masks are boolean, True = may attend, and broadcast
to (B, H, N, K). Parameter names are those of apple/ml-4m.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FourMConfig
from .cpu.attention import attention
from .cpu.linear import linear

KeysValues = tuple[Tensor, Tensor]  # each (B, H, K, E)


class Linear(nn.Linear):
    """nn.Linear, faster on a CPU (see `linear`)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def layer_norm(dim: int, config: FourMConfig) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6, bias=config.norm_bias)


class _Heads(nn.Module):
    """What self- and cross-attention share: the split into heads, QK-norm (4M-21 XL), the output projection."""

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        head_dim = config.dim // config.num_heads
        self.proj = Linear(config.dim, config.dim, bias=config.proj_bias)
        self.q_norm = layer_norm(head_dim, config) if config.qk_norm else nn.Identity()
        self.k_norm = layer_norm(head_dim, config) if config.qk_norm else nn.Identity()

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * D) to `parts` tensors (B, H, N, E)."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """Attention outputs (B, N, D), those of queries with `seen` False taken as zeros."""
        # Under autocast QK-norm returns float32, for which there is no fast kernel of attention.
        y = attention(q.to(v.dtype), k.to(v.dtype), v, mask)
        if seen is not None:
            y = y * seen
        return self.proj(y.transpose(1, 2).flatten(2))


class SelfAttention(_Heads):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.split(self.qkv(x), 3)
        return self.attend(self.q_norm(q), self.k_norm(k), v, mask)

    def step(self, x: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """One more token x (B, 1, D) of a causal sequence; returns its output and the grown keys and values."""
        q, k, v = self.split(self.qkv(x), 3)
        q, k = self.q_norm(q), self.k_norm(k)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        return self.attend(q, k, v, None), (k, v)


class CrossAttention(_Heads):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.q = Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = Linear(config.dim, 2 * config.dim, bias=config.qkv_bias)

    def keys_values(self, context: Tensor) -> KeysValues:
        k, v = self.split(self.kv(context), 2)
        return self.k_norm(k), v

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        (q,) = self.split(self.q(x), 1)
        if mask is None:
            return self.attend(self.q_norm(q), *keys_values, None)
        # Kernels differ in what a query gets that may attend to nothing: zeros, or NaN. It must be zeros, so that a
        # sample without inputs is the same in a batch as alone. (Self-attention lets every query see itself.)
        seen = mask.any(dim=-1, keepdim=True)
        return self.attend(self.q_norm(q), *keys_values, mask | ~seen, seen)


class Mlp(nn.Module):
    """fc2(act(fc1 x)), gated by fc3 x: SwiGLU with SiLU (Shazeer 2020)."""

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.gelu = config.activation == "gelu"
        self.fc1 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias)
        self.fc2 = Linear(config.mlp_hidden, config.dim, bias=config.mlp_bias)
        self.fc3 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias) if config.gated_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x)) if self.gelu else F.silu(self.fc1(x))
        return self.fc2(hidden if self.fc3 is None else hidden * self.fc3(x))


class EncoderBlock(nn.Module):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config.dim, config)
        self.attn = SelfAttention(config)
        self.norm2 = layer_norm(config.dim, config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, D), mask (B, 1, 1, N) of the valid tokens, None if all are."""
        x = x + self.attn(self.norm1(x), mask)
        x = x + self.mlp(self.norm2(x))
        return x


class DecoderBlock(nn.Module):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config.dim, config)
        self.self_attn = SelfAttention(config)
        self.query_norm = layer_norm(config.dim, config)
        self.context_norm = layer_norm(config.dim, config)
        self.cross_attn = CrossAttention(config)
        self.norm2 = layer_norm(config.dim, config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, context: Tensor, self_mask: Tensor | None, cross_mask: Tensor | None) -> Tensor:
        """x (B, M, D), context (B, N, D), self_mask (B, 1, M, M), cross_mask (B, 1, 1, N); None for all."""
        x = x + self.self_attn(self.norm1(x), self_mask)
        return self._read(x, self.context_keys_values(context), cross_mask)

    def context_keys_values(self, context: Tensor) -> KeysValues:
        return self.cross_attn.keys_values(self.context_norm(context))

    def step(
        self, x: Tensor, past: KeysValues | None, context: KeysValues, cross_mask: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """One more token x (B, 1, D) of a causal sequence, with cached keys and values."""
        y, past = self.self_attn.step(self.norm1(x), past)
        return self._read(x + y, context, cross_mask), past

    def _read(self, x: Tensor, context: KeysValues, cross_mask: Tensor | None) -> Tensor:
        x = x + self.cross_attn(self.query_norm(x), context, cross_mask)
        x = x + self.mlp(self.norm2(x))
        return x
