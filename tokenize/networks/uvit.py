"""UViT: the other diffusion decoder of 4M, a convolutional UNet around a transformer (arXiv 2301.11093).

Legend: B batch, C channels, H W pixels, h w grid of the transformer, N = h w, D its width, L width of a condition,
E width of the time.

Layers and names of weights are apple/ml-4m's; its convolutional blocks are those of diffusers. The time modulates the
transformer (adaLN, arXiv 2212.09748) with gates that start at zero. The codes are added to the transformer's input
("concat") or attended to by it ("xattn").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import nn

from .diffusion import timestep_embedding
from .vit import Attention, Mlp, ViTSize, initialize, sincos_positions

CONDITIONINGS = ("concat", "xattn")


@dataclass(frozen=True)
class UViTSize:
    """Sizes of a UViT. `mid_hw_posemb`: side of the grid that the positions are made for; other grids work."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    block_out_channels: tuple[int, ...]
    mid_layers: int
    mid_num_heads: int
    mid_dim: int
    downsample_before_mid: bool = False
    patch_size: int = 4
    layers_per_block: int = 2
    mid_mlp_ratio: float = 4.0
    mid_qkv_bias: bool = True
    mid_use_long_skip: bool = False
    mid_hw_posemb: int = 32
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        if self.mid_use_long_skip and self.mid_layers % 2 == 0:
            raise ValueError(f"UViT size: got {self.mid_layers} mid_layers; long skip connections need an odd number")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(
                f"UViT size: got block_out_channels {self.block_out_channels}; expected multiples of norm_num_groups, "
                f"{self.norm_num_groups}"
            )

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of, in pixels."""
        return self.patch_size << (len(self.block_out_channels) - 1 + self.downsample_before_mid)

    @property
    def vit(self) -> ViTSize:
        return ViTSize(self.mid_dim, self.mid_layers, self.mid_num_heads, self.mid_mlp_ratio, self.mid_qkv_bias)

    @property
    def time_dim(self) -> int:
        return 4 * self.block_out_channels[0]


_SHALLOW, _DEEP = (128, 256), (128, 256, 512)
PRESETS: dict[str, UViTSize] = {
    "uvit_b_p4_f16": UViTSize(_SHALLOW, 12, 12, 768, downsample_before_mid=True),
    "uvit_l_p4_f16": UViTSize(_SHALLOW, 24, 16, 1024, downsample_before_mid=True),
    "uvit_h_p4_f16": UViTSize(_SHALLOW, 32, 16, 1280, downsample_before_mid=True),
    "uvit_b_p4_f16_longskip": UViTSize(_SHALLOW, 13, 12, 768, downsample_before_mid=True, mid_use_long_skip=True),
    "uvit_l_p4_f16_longskip": UViTSize(_SHALLOW, 25, 16, 1024, downsample_before_mid=True, mid_use_long_skip=True),
    "uvit_b_p4_f8": UViTSize(_SHALLOW, 12, 12, 768),
    "uvit_l_p4_f8": UViTSize(_SHALLOW, 24, 16, 1024),
    "uvit_b_p4_f16_extraconv": UViTSize(_DEEP, 12, 12, 768),
    "uvit_l_p4_f16_extraconv": UViTSize(_DEEP, 24, 16, 1024),
}


class UViT(nn.Module):
    """(x_t, t, condition) to the prediction."""

    def __init__(
        self, size: UViTSize, channels: int, cond_channels: int, conditioning: str = "concat", dropout: float = 0.0
    ) -> None:
        """`dropout`: in the transformer, after attention and MLP, while training."""
        super().__init__()
        self.size = size
        widths, p = size.block_out_channels, size.patch_size
        self.conv_in = nn.Conv2d(channels, widths[0], p, stride=p)
        self.time_embedding = _TimeEmbedding(widths[0], size.time_dim)
        self.down_blocks = nn.ModuleList(
            _Down(size, widths[max(i - 1, 0)], width, halve=i < len(widths) - 1) for i, width in enumerate(widths)
        )
        self.downsample_mid = _Conv(widths[-1], stride=2) if size.downsample_before_mid else None
        self.mid_block = _Transformer(size, cond_channels, conditioning, dropout)
        self.upsample_mid = _Conv(widths[-1], stride=1) if size.downsample_before_mid else None
        # Level i of the way up meets the skips of its level, and last the one that the level below handed over.
        up = widths[::-1]
        self.up_blocks = nn.ModuleList(
            _Up(size, up[max(i - 1, 0)], width, up[min(i + 1, len(up) - 1)], double=i < len(up) - 1)
            for i, width in enumerate(up)
        )
        self.conv_norm_out = nn.GroupNorm(size.norm_num_groups, widths[0])
        self.conv_out = nn.ConvTranspose2d(widths[0], channels, p, stride=p)
        self._initialize()

    def _initialize(self) -> None:
        initialize(self)
        for name, module in self.named_modules():
            # Residual branches start at zero.
            if name.endswith(("conv2", "adaLN_gate")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, cond_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The prediction (B, C, H, W).

        Args:
            x: noised images (B, C, H, W), sides multiples of `size.multiple`.
            t: steps (B,).
            cond: (B, L, h', w').
            cond_mask: bool (B, h', w'); True: the condition there is replaced by a learned vector ("concat") or not
                attended to ("xattn").
        """
        time = self.time_embedding(timestep_embedding(t, self.size.block_out_channels[0]).to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            h = block(h, time, skips)
        if self.downsample_mid is not None:
            h = self.downsample_mid(h)
        h = self.mid_block(h, time, cond, cond_mask)
        if self.upsample_mid is not None:
            h = self.upsample_mid(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        for block in self.up_blocks:
            h = block(h, time, skips)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class _TimeEmbedding(nn.Module):
    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, time_dim)
        self.linear_2 = nn.Linear(time_dim, time_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _Conv(nn.Module):
    """A 3 x 3 convolution named `conv`; stride 2 halves the sides."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Resnet(nn.Module):
    def __init__(self, size: UViTSize, channels: int, out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(size.norm_num_groups, channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(size.time_dim, out)
        self.norm2 = nn.GroupNorm(size.norm_num_groups, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class _Down(nn.Module):
    """Residual blocks, then half the sides; what each makes is appended to `skips`."""

    def __init__(self, size: UViTSize, channels: int, out: int, halve: bool) -> None:
        super().__init__()
        # Only the first block changes the width.
        widths = [channels] + [out] * (size.layers_per_block - 1)
        self.resnets = nn.ModuleList(_Resnet(size, width, out) for width in widths)
        self.downsamplers = nn.ModuleList([_Conv(out, stride=2)] if halve else [])

    def forward(self, x: torch.Tensor, time: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for resnet in self.resnets:
            x = resnet(x, time)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x


class _Up(nn.Module):
    """Residual blocks, each after the last of `skips` is concatenated, then twice the sides."""

    def __init__(self, size: UViTSize, channels: int, out: int, below: int, double: bool) -> None:
        """`channels` come in; `below` is the width of the last skip, which an earlier level made."""
        super().__init__()
        # One block more than on the way down, for the skip of the level's input.
        inputs = [channels] + [out] * size.layers_per_block
        skips = [out] * size.layers_per_block + [below]
        self.resnets = nn.ModuleList(_Resnet(size, a + b, out) for a, b in zip(inputs, skips, strict=True))
        self.upsamplers = nn.ModuleList([_Conv(out, stride=1)] if double else [])

    def forward(self, x: torch.Tensor, time: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for resnet in self.resnets:
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
        for upsampler in self.upsamplers:
            x = upsampler(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class _Transformer(nn.Module):
    """The bottleneck: (B, width, h, w) to the same, conditioned on codes and the time."""

    mid_pos_emb: torch.Tensor

    def __init__(self, size: UViTSize, cond_channels: int, conditioning: str, dropout: float) -> None:
        super().__init__()
        dim, width, side = size.mid_dim, size.block_out_channels[-1], size.mid_hw_posemb
        self.long_skip, self.attends = size.mid_use_long_skip, conditioning == "xattn"
        self.register_buffer("mid_pos_emb", sincos_positions(side, side, dim))
        context = cond_channels if self.attends else 0
        self.mid_block = nn.ModuleList(
            _Block(size, context, skip=self.long_skip and i > size.mid_layers // 2, dropout=dropout)
            for i in range(size.mid_layers)
        )
        self.mid_proj_in = nn.Linear(width, dim)
        self.mid_proj_out = nn.Linear(dim, width)
        if not self.attends:
            self.mid_cond_proj = nn.Linear(cond_channels, dim)
            self.mask_token = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor, cond_mask: torch.Tensor | None
    ) -> torch.Tensor:
        grid = x.shape[2:]
        h = self.mid_proj_in(x.flatten(2).transpose(1, 2)) + self._positions(grid)
        context, blocked = None, None
        if self.attends:
            context = cond.to(h.dtype).flatten(2).transpose(1, 2)
            # Masked codes are not attended to, rather than replaced.
            blocked = None if cond_mask is None else cond_mask.flatten(1)
        else:
            h = h + self._added(cond.to(h.dtype), cond_mask, grid)
        skips: list[torch.Tensor] = []
        # A long skip joins block i to block n - 1 - i; the middle one of an odd number has none.
        for i, block in enumerate(self.mid_block):
            late = i > len(self.mid_block) // 2
            h = block(h, time, context, blocked, skips.pop() if self.long_skip and late else None)
            if self.long_skip and i < len(self.mid_block) // 2:
                skips.append(h)
        out: torch.Tensor = self.mid_proj_out(h)
        return out.transpose(1, 2).reshape(len(x), -1, *grid)

    def _positions(self, grid: torch.Size) -> torch.Tensor:
        """(1, N, D). The reference resizes them differently for its two ways of conditioning."""
        if self.attends:
            resized = F.interpolate(self.mid_pos_emb, grid, mode="nearest")
        else:
            resized = F.interpolate(self.mid_pos_emb, grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def _added(self, cond: torch.Tensor, cond_mask: torch.Tensor | None, grid: torch.Size) -> torch.Tensor:
        """The condition at each place of the grid, (B, N, D)."""
        added: torch.Tensor = self.mid_cond_proj(F.interpolate(cond, grid, mode="nearest").flatten(2).transpose(1, 2))
        if cond_mask is None:
            return added
        # `interpolate` takes no bools; values are 0 or 1, and nearest keeps them.
        masked = F.interpolate(cond_mask[:, None].float(), grid, mode="nearest").flatten(2).transpose(1, 2) > 0.5
        return torch.where(masked, self.mask_token.to(added.dtype), added)


class _Block(nn.Module):
    """Transformer block whose norms are shifted and scaled, and whose branches are gated, by the time."""

    def __init__(self, size: UViTSize, context: int, skip: bool, dropout: float) -> None:
        """`context`: width of what it attends to, 0 for nothing."""
        super().__init__()
        dim = size.mid_dim
        self.context = context
        self.norm1 = nn.LayerNorm(dim)
        if context:
            self.self_attn = Attention(size.vit)
            self.cross_attn = _CrossAttention(size, context)
            self.query_norm = nn.LayerNorm(dim)
            self.context_norm = nn.LayerNorm(context)
        else:
            self.attn = Attention(size.vit)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * size.mid_mlp_ratio))
        # Attention and MLP, and attention to the codes; each has a shift, a scale and a gate.
        branches = 3 if context else 2
        self.adaLN_modulation = nn.Linear(size.time_dim, 2 * branches * dim)
        self.adaLN_gate = nn.Linear(size.time_dim, branches * dim)
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        context: torch.Tensor | None = None,
        blocked: torch.Tensor | None = None,
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        active = F.silu(time)[:, None]  # the same for all tokens of a sample
        branches = 3 if self.context else 2
        gates = self.adaLN_gate(active).chunk(branches, dim=2)
        modulations = self.adaLN_modulation(active).chunk(2 * branches, dim=2)

        def modulated(norm: nn.Module, branch: int) -> torch.Tensor:
            shift, scale = modulations[2 * branch : 2 * branch + 2]
            return norm(x) * (1 + scale) + shift

        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=2))
        attention = self.self_attn if self.context else self.attn
        x = x + gates[0] * self.dropout(attention(modulated(self.norm1, 0)))
        if self.context:
            query = modulated(self.query_norm, 1)
            x = x + gates[1] * self.dropout(self.cross_attn(query, self.context_norm(context), blocked))
        x = x + gates[-1] * self.dropout(self.mlp(modulated(self.norm2, branches - 1)))
        return x


class _CrossAttention(nn.Module):
    """Attention of (B, N, D) to (B, M, L); `blocked` bool (B, M) is not attended to."""

    def __init__(self, size: UViTSize, context: int) -> None:
        super().__init__()
        self.num_heads = size.mid_num_heads
        self.q = nn.Linear(size.mid_dim, size.mid_dim, bias=size.mid_qkv_bias)
        self.kv = nn.Linear(context, 2 * size.mid_dim, bias=size.mid_qkv_bias)
        self.proj = nn.Linear(size.mid_dim, size.mid_dim)

    def forward(self, x: torch.Tensor, context: torch.Tensor, blocked: torch.Tensor | None) -> torch.Tensor:
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None
        if blocked is not None:
            # A large negative number, not -inf: where everything is blocked, attention is uniform rather than NaN.
            mask = blocked[:, None, None].to(q.dtype) * -torch.finfo(q.dtype).max
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).flatten(2))
