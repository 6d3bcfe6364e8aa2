"""The patched UNet of 4M's diffusion decoder: pixels are cut into patches, codes are concatenated to them.

Legend: B batch, C channels, H W pixels, p side of a patch, h w patches, L width of a condition, E width of the time.

Layers and names of weights are those of guided diffusion (arXiv 2105.05233), as in apple/ml-4m: group norms of 32
groups, attention with the heads split before q, k, v. Layers that end a residual branch start at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import nn

from .diffusion import timestep_embedding

_GROUPS = 32  # of channels, normalized together
Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class UNetSize:
    """Sizes of a patched UNet. `attention_resolutions`: downsampling rates, relative to patches, that have attention.

    num_head_channels: channels of a head; -1 takes `num_heads` heads.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...] = ()
    patch_size: int = 4
    num_heads: int = 1
    num_head_channels: int = -1

    def __post_init__(self) -> None:
        for channels in self.widths:
            if channels % _GROUPS:
                raise ValueError(
                    f"UNet size: got {channels} channels (model_channels {self.model_channels}, channel_mult "
                    f"{self.channel_mult}); expected multiples of {_GROUPS}"
                )

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [int(m * self.model_channels) for m in self.channel_mult]

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of, in pixels."""
        return self.patch_size << (len(self.channel_mult) - 1)

    def heads(self, channels: int) -> int:
        return self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels


PRESETS: dict[str, UNetSize] = {"unet_patched": UNetSize(256, (1, 2, 2, 2), 3, (4, 8))}


class PatchedUNet(nn.Module):
    """(x_t, t, condition) to the prediction."""

    def __init__(self, size: UNetSize, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.size = size
        inner = channels * size.patch_size**2
        time_dim = 4 * size.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(size.model_channels, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        # `skips` holds the widths of what `forward` will concatenate, last in, first out.
        first, last = size.widths[0], size.widths[-1]
        self.input_blocks = nn.ModuleList([_Timed(nn.Conv2d(inner + cond_channels, first, 3, padding=1))])
        skips, width, levels = [first], first, len(size.widths)
        for level, out in enumerate(size.widths):
            for _ in range(size.num_res_blocks):
                self.input_blocks.append(_Timed(ResBlock(width, time_dim, out), *self._attention(level, out)))
                width = out
                skips.append(width)
            if level < levels - 1:
                self.input_blocks.append(_Timed(Downsample(width)))
                skips.append(width)
        self.middle_block = _Timed(
            ResBlock(last, time_dim, last), AttentionBlock(last, size.heads(last)), ResBlock(last, time_dim, last)
        )
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(size.widths))):
            # One block more than on the way down: the first input of each level is a skip too.
            for block in range(size.num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), time_dim, out), *self._attention(level, out)]
                width = out
                if level and block == size.num_res_blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(_Timed(*layers))
        self.out = nn.Sequential(_norm(first), nn.SiLU(), _zero(nn.Conv2d(first, inner, 3, padding=1)))

    def _attention(self, level: int, width: int) -> list[nn.Module]:
        has = 2**level in self.size.attention_resolutions
        return [AttentionBlock(width, self.size.heads(width))] if has else []

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, cond_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The prediction (B, C, H, W).

        Args:
            x: noised images (B, C, H, W), sides multiples of `size.multiple`.
            t: steps (B,).
            cond: (B, L, h', w'), resized to the patches by nearest neighbour.
            cond_mask: bool (B, h', w'); True: the condition there is replaced by zeros.
        """
        # Zeros are what the codes were replaced by in training with guidance dropout.
        if cond_mask is not None:
            cond = cond.masked_fill(cond_mask[:, None], 0.0)
        # Patches become channels, in the reference's order (channel, row, column).
        h = F.pixel_unshuffle(x, self.size.patch_size)
        h = torch.cat([h, F.interpolate(cond.to(h.dtype), h.shape[2:], mode="nearest")], dim=1)
        time = self.time_embed(timestep_embedding(t, self.size.model_channels).to(h.dtype))
        skips = []
        for block in self.input_blocks:
            h = block(h, time)
            skips.append(h)
        h = self.middle_block(h, time)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time)
        return F.pixel_shuffle(self.out(h), self.size.patch_size)


class _Timed(nn.Sequential):
    """Layers in a row, of which residual blocks see the time."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, time) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions; the time (B, E) is added between them."""

    def __init__(self, channels: int, time_dim: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, out))
        # The branch starts as nothing, the block as the identity.
        convolution = _zero(nn.Conv2d(out, out, 3, padding=1))
        self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Identity(), convolution)  # 2: a dropout, of 0 in 4M
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class AttentionBlock(nn.Module):
    """Self-attention among all places."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        # Heads outside, q, k, v inside: the order of guided diffusion's "legacy" attention, which 4M's weights have.
        q, k, v = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(3, 4).unbind(2)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return (flat + self.proj_out(mixed)).view_as(x)


class Downsample(nn.Module):
    """Half the sides by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the sides, each place repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _zero(layer: Layer) -> Layer:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
