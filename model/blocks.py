"""Transformer blocks of 4M: pre-norm attention and (gated) MLP, on scaled_dot_product_attention.

Legend: B samples, N queries, K keys, D width, H heads, E = D / H. Blocks take masks as `Visible`, made once for all of
them. Parameter names are those of apple/ml-4m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FourMConfig
from .cpu.attention import attention
from .cpu.linear import linear
from .unpadding import Sequences, Unpadding

KeysValues = tuple[Tensor, Tensor]  # each (B, H, K, E), or (T, H, E) of all samples without padding
Product = Callable[[Tensor], Tensor]

# Rows of a matrix begin at multiples of 16 bytes if their length is one of 8 numbers of half precision; on others the
# fast kernels of a GPU do not run. Multiples of 64 fill its tiles as well, and would only be more work for a CPU.
_ALIGNED, _TILE = 8, 64
_MANY_ROWS = 64  # from here on a product costs more than a copy of its weights


@dataclass(frozen=True)
class Visible:
    """Which keys each query may attend to, as `scaled_dot_product_attention` adds it to scores, or as sequences.

    bias: (B, 1, N or 1, K), 0 where it may and -inf where not, in the dtype of products; None with sequences.
    some: (B, 1, N or 1, 1), 1 for the queries that may attend to something and 0 for others, whose output is zeros;
        None if all may.
    unpadding: where the keys are, if blocks read them without padding.
    sequences: within which queries attend, without padding.
    """

    bias: Tensor | None
    some: Tensor | None = None
    unpadding: Unpadding | None = None
    sequences: Sequences | None = None

    @classmethod
    def of(
        cls,
        mask: Tensor | None,
        like: Tensor,
        empty: bool = False,
        unpadding: Unpadding | None = None,
        sequences: Sequences | None = None,
    ) -> Visible | None:
        """Of a boolean mask, True = may attend; None, for all, stays None.

        Kernels want numbers: of booleans each block would make its own.

        Args:
            mask: (B, 1, N or 1, K).
            like: what the blocks read, which says device and dtype.
            empty: whether there may be queries that may attend to nothing.
            sequences: that say the same as the mask.
        """
        if mask is None:
            return None
        dtype, some = compute_dtype(like), None
        if empty:
            # Kernels differ in what such a query gets, zeros or NaN. It must be zeros, so that a sample without inputs
            # is the same in a batch as alone.
            some = mask.any(dim=-1, keepdim=True)
            mask, some = mask | ~some, some.to(dtype)
        if sequences is not None:
            return cls(None, some, unpadding, sequences)
        keys = mask.shape[-1]
        # Kernels read the bias at aligned addresses, and would copy one whose rows are not, in each block.
        rows = torch.zeros(*mask.shape[:-1], keys + -keys % _ALIGNED, dtype=dtype, device=like.device)
        return cls(rows[..., :keys].masked_fill_(~mask, -torch.inf), some, unpadding)


class Past:
    """Keys and values of the tokens of a causal sequence so far, written into room for `most` tokens."""

    def __init__(self, most: int) -> None:
        self._most, self._length = most, 0
        self._room: KeysValues | None = None

    def add(self, keys: Tensor, values: Tensor) -> KeysValues:
        """With those of one more token, (B, H, 1, E) each: all so far, as views."""
        if self._room is None:
            batch, heads, _, width = keys.shape
            shape = (batch, heads, self._most, width)
            self._room = keys.new_empty(shape), values.new_empty(shape)
        here = slice(self._length, self._length + 1)
        self._room[0][:, :, here], self._room[1][:, :, here] = keys, values
        self._length += 1
        return self._room[0][:, :, : self._length], self._room[1][:, :, : self._length]


class FixedPast:
    """Keys and values of a causal sequence in room whose shape never changes: operations are the same for each token.

    Args:
        most: tokens that there is room for.
        place: int64 (1,), on the device: of the next token.
        keys, values: (B, H, K, E) of any K, which say the rest of the shape.
    """

    def __init__(self, most: int, place: Tensor, keys: Tensor, values: Tensor) -> None:
        shape = (*keys.shape[:2], most, keys.shape[3])
        # Zeros: what no token has written is masked, and a mask does not hide NaN.
        self._place, self._room = place, (keys.new_zeros(shape), values.new_zeros(shape))

    def add(self, keys: Tensor, values: Tensor) -> KeysValues:
        """With those of one more token, (B, H, 1, E) each: the whole room."""
        for room, one in zip(self._room, (keys, values), strict=True):
            room.index_copy_(2, self._place, one.to(room.dtype))
        return self._room


def compute_dtype(x: Tensor) -> torch.dtype:
    """In which products with x are computed: under autocast its dtype, else that of x."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


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

    def rows(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * D) to `parts` tensors (B * N, H, E), of all samples one after the other."""
        return x.view(x.shape[0] * x.shape[1], parts, self.num_heads, -1).unbind(1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Visible | None) -> Tensor:
        """Attention outputs (B, N, D), before the last projection."""
        bias = None if visible is None or visible.bias is None else visible.bias.to(v.dtype)
        # Under autocast QK-norm returns float32, for which there is no fast kernel of attention.
        y = attention(q.to(v.dtype), k.to(v.dtype), v, bias)
        if visible is not None and visible.some is not None:
            y = y * visible.some
        return y.transpose(1, 2).flatten(2)


class SelfAttention(_Heads):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)

    def forward(self, x: Tensor, visible: Visible | None) -> Tensor:
        unpadding = None if visible is None else visible.unpadding
        qkv = self.qkv(x)
        if visible is not None and visible.sequences is not None:
            q, k, v = self.rows(qkv, 3)
            y = visible.sequences.attend(self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v)
            return self.proj(y.flatten(1).view(x.shape))
        q, k, v = self.split(qkv if unpadding is None else unpadding.with_padding(qkv), 3)
        y = self.attend(self.q_norm(q), self.k_norm(k), v, visible)
        return self.proj(y if unpadding is None else unpadding.without_padding(y))

    def step(self, x: Tensor, past: Past | FixedPast, before: Visible | None) -> Tensor:
        """The output of one more token x (B, 1, D) of a causal sequence, which sees those before it and itself.

        before: which of the keys that `past` has room for are theirs; None for all.
        """
        q, k, v = self.split(self.qkv(x), 3)
        return self.proj(self.attend(self.q_norm(q), *past.add(self.k_norm(k), v), before))


class CrossAttention(_Heads):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.q = Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = Linear(config.dim, 2 * config.dim, bias=config.qkv_bias)

    def keys_values(self, context: Tensor, visible: Visible | None = None) -> KeysValues:
        """Of a context (B, N, D), or (1, T, D) without padding, which gives (T, H, E) to attend within sequences."""
        kv, unpadding = self.kv(context), None if visible is None else visible.unpadding
        if unpadding is not None and visible is not None and visible.sequences is not None:
            k, v = self.rows(kv, 2)
            return unpadding.with_real_gradient(self.k_norm(k)), unpadding.with_real_gradient(v)
        k, v = self.split(kv if unpadding is None else unpadding.with_padding(kv), 2)
        return self.k_norm(k), v

    def forward(self, x: Tensor, keys_values: KeysValues, visible: Visible | None) -> Tensor:
        k, v = keys_values
        if visible is None or visible.sequences is None:
            (q,) = self.split(self.q(x), 1)
            return self.proj(self.attend(self.q_norm(q), k, v, visible))
        (q,) = self.rows(self.q(x), 1)
        y = visible.sequences.attend(self.q_norm(q).to(v.dtype), k.to(v.dtype), v).view(x.shape)
        return self.proj(y if visible.some is None else y * visible.some[:, 0])


class Mlp(nn.Module):
    """fc2(act(fc1 x)), gated by fc3 x: SwiGLU with SiLU (Shazeer 2020)."""

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.gelu = config.activation == "gelu"
        self.fc1 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias)
        self.fc2 = Linear(config.mlp_hidden, config.dim, bias=config.mlp_bias)
        self.fc3 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias) if config.gated_mlp else None
        # 5,461 of XL, 2,730 of L and 1,365 of S are no widths for a GPU.
        self.aligned = config.mlp_hidden % _ALIGNED == 0

    def forward(self, x: Tensor) -> Tensor:
        first, second, gate = self._products(x)
        hidden = F.gelu(first(x)) if self.gelu else F.silu(first(x))
        return second(hidden if gate is None else hidden * gate(x))

    def _products(self, x: Tensor) -> tuple[Product, Product, Product | None]:
        """fc1, fc2 and fc3, with as many hidden rows of zeros as make widths aligned.

        The zeros are no parameters: they stay zeros, and no file has them.
        """
        layers = [self.fc1, self.fc2] if self.fc3 is None else [self.fc1, self.fc2, self.fc3]
        # Layers that adapters have taken the place of (peft) have products of their own.
        plain = all(type(layer) is Linear for layer in layers)
        # A graph is of many rows, and does not ask how many.
        few = not torch.compiler.is_compiling() and x.shape[:-1].numel() < _MANY_ROWS
        if self.aligned or not plain or few:
            return self.fc1, self.fc2, self.fc3
        more = -self.fc1.out_features % (_ALIGNED if x.device.type == "cpu" else _TILE)
        dtype, rows, columns = compute_dtype(x), (0, 0, 0, more), (0, more)

        def product(layer: nn.Linear, weight_padding: tuple[int, ...], bias_padding: tuple[int, int]) -> Product:
            weight = F.pad(layer.weight.to(dtype), weight_padding)
            bias = None if layer.bias is None else F.pad(layer.bias.to(dtype), bias_padding)
            return lambda x: linear(x, weight, bias)

        first, second = product(self.fc1, rows, columns), product(self.fc2, columns, (0, 0))
        return first, second, None if self.fc3 is None else product(self.fc3, rows, columns)


class EncoderBlock(nn.Module):
    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config.dim, config)
        self.attn = SelfAttention(config)
        self.norm2 = layer_norm(config.dim, config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, visible: Visible | None) -> Tensor:
        """x (B, N, D), or (1, T, D) without padding, of which each token sees the `visible` ones, all if None."""
        x = x + self.attn(self.norm1(x), visible)
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

    def forward(self, x: Tensor, context: Tensor, queries: Visible | None, inputs: Visible | None) -> Tensor:
        """x (B, M, D), context (B, N, D), or (1, T, D) without padding; which queries and which inputs each query sees,
        all if None."""
        x = x + self.self_attn(self.norm1(x), queries)
        return self._read(x, self.context_keys_values(context, inputs), inputs)

    def context_keys_values(self, context: Tensor, inputs: Visible | None = None) -> KeysValues:
        return self.cross_attn.keys_values(self.context_norm(context), inputs)

    def step(
        self, x: Tensor, past: Past | FixedPast, context: KeysValues, before: Visible | None, inputs: Visible | None
    ) -> Tensor:
        """One more token x (B, 1, D) of a causal sequence, with cached keys and values; see `SelfAttention.step`."""
        return self._read(x + self.self_attn.step(self.norm1(x), past, before), context, inputs)

    def _read(self, x: Tensor, context: KeysValues, inputs: Visible | None) -> Tensor:
        x = x + self.cross_attn(self.query_norm(x), context, inputs)
        x = x + self.mlp(self.norm2(x))
        return x
