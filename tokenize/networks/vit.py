"""ViT encoder and decoder of 4M's VQ-VAE tokenizers.

Legend: B batch, C channels, H W pixels, h w token grid, N = h w, D width of a token, p side of a patch in pixels.

Names of parameters and buffers, initialization and arithmetic are those of apple/ml-4m, so that its checkpoints load:
pre-norm blocks without a LayerNorm at the end, fixed 2-D sine-cosine positions resized bicubically to other grids, an
optional tanh MLP next to the quantizer (ViT-VQGAN, arXiv 2110.04627), optional ConvNeXt blocks after unpatching.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

_EPS = 1e-6  # of LayerNorm, as in timm; torch's default is 1e-5


@dataclass(frozen=True)
class ViTSize:
    """Width, depth and heads of one ViT. `mlp_ratio` and `qkv_bias` are 4 and True in everything published."""

    dim_tokens: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.dim_tokens % 4 or self.dim_tokens % self.num_heads:
            raise ValueError(
                f"ViT size: got dim_tokens {self.dim_tokens} with {self.num_heads} heads; expected a multiple of 4 and "
                "of num_heads"
            )


PRESETS: dict[str, ViTSize] = {
    "vit_s": ViTSize(512, 8, 8),
    "vit_b": ViTSize(768, 12, 12),
    "vit_l": ViTSize(1024, 24, 16),
}


def sincos_positions(height: int, width: int, dim: int) -> torch.Tensor:
    """Fixed 2-D positions (1, D, h, w), float32: quarters sin(row), cos(row), sin(column), cos(column)."""
    # In float64 first: the float32 angle of row 100 is off by up to 4e-6.
    omega = 1.0 / 10_000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows = (torch.arange(height, dtype=torch.float64)[None] * omega[:, None])[:, :, None].expand(-1, -1, width)
    columns = (torch.arange(width, dtype=torch.float64)[None] * omega[:, None])[:, None].expand(-1, height, -1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()]).float()[None]


class Attention(nn.Module):
    """Self-attention, (B, N, D) to (B, N, D)."""

    def __init__(self, size: ViTSize) -> None:
        super().__init__()
        self.num_heads = size.num_heads
        self.qkv = nn.Linear(size.dim_tokens, 3 * size.dim_tokens, bias=size.qkv_bias)
        self.proj = nn.Linear(size.dim_tokens, size.dim_tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        # One matrix for q, k and v, in this order: the layout of timm's and 4M's checkpoints.
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        return self.proj(mixed)


class Mlp(nn.Module):
    """Two linear layers around GELU or tanh."""

    def __init__(self, dim: int, hidden: int, tanh: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.tanh = tanh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.fc1(x)
        return self.fc2(hidden.tanh() if self.tanh else F.gelu(hidden))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: ViTSize) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.dim_tokens, eps=_EPS)
        self.attn = Attention(size)
        self.norm2 = nn.LayerNorm(size.dim_tokens, eps=_EPS)
        self.mlp = Mlp(size.dim_tokens, int(size.dim_tokens * size.mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7 convolution and MLP on pixels (B, C, H, W); starts close to the identity (layer scale 1e-6)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Channels last, for LayerNorm and the pointwise layers.
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        hidden = self.gamma * self.pwconv2(F.gelu(self.pwconv1(hidden)))
        x = x + hidden.permute(0, 3, 1, 2)
        return x


class _ViT(nn.Module):
    """What encoder and decoder share: positions, blocks, tanh MLP."""

    pos_emb: torch.Tensor

    def __init__(
        self, size: ViTSize, patch_size: int, grid: tuple[int, int], patch_proj: bool, post_mlp: bool, series: bool
    ) -> None:
        super().__init__()
        # A cell of a feature map is a token already.
        self.patch_size = patch_size if patch_proj else 1
        self.patch = (1 if series else self.patch_size, self.patch_size)
        dim = size.dim_tokens
        self.register_buffer("pos_emb", sincos_positions(*grid, dim))
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.depth)))
        self.norm_mlp = nn.LayerNorm(dim, eps=_EPS) if post_mlp else None
        self.post_mlp = Mlp(dim, int(size.mlp_ratio * dim), tanh=True) if post_mlp else None

    def _transform(self, x_BDhw: torch.Tensor, half: bool = False) -> torch.Tensor:
        """(B, D, h, w) without positions to (B, N, D). `half`: the tanh MLP in autocast's dtype too."""
        positions = self.pos_emb
        # Other resolutions than the fit's: 4M adapts its tokenizers from 224 to 448 px like this.
        if positions.shape[2:] != x_BDhw.shape[2:]:
            positions = F.interpolate(positions, size=x_BDhw.shape[2:], mode="bicubic", align_corners=False)
        x: torch.Tensor = self.blocks((x_BDhw + positions).flatten(2).transpose(1, 2))
        if self.norm_mlp is None or self.post_mlp is None:
            return x
        # In a fit in the weights' float32 under autocast too, as 4M does. For encoding alone that would be 5 % of the
        # work of a ViT-B, at a fifteenth of a H200's peak.
        with nullcontext() if half else torch.autocast(x.device.type, enabled=False):
            x = x.to(self.norm_mlp.weight.dtype)
            x = x + self.post_mlp(self.norm_mlp(x))
            return x


class ViTEncoder(_ViT):
    """Images (B, C, H, W), or feature maps (B, C, h, w) if not `patch_proj`, to token features (B, D, h, w).

    A `series` is an image with a height of 1, and so is a patch of it.
    """

    def __init__(
        self,
        size: ViTSize,
        channels: int,
        patch_size: int,
        grid: tuple[int, int],
        patch_proj: bool = True,
        post_mlp: bool = False,
        series: bool = False,
    ) -> None:
        super().__init__(size, patch_size, grid, patch_proj, post_mlp, series)
        self.proj = nn.Conv2d(channels, size.dim_tokens, kernel_size=self.patch, stride=self.patch)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (height, width), (rows, columns) = x.shape[2:], self.patch
        if height % rows or width % columns:
            what = f"an image of {height} x {width} px" if rows == columns else f"a series of {width} samples"
            raise ValueError(f"got {what}; expected multiples of the patch size, {self.patch_size}")
        tokens = self._transform(self.proj(x), half=not self.training)
        return tokens.transpose(1, 2).reshape(len(x), -1, height // rows, width // columns)


class ViTDecoder(_ViT):
    """Token features (B, D, h, w) to images (B, C, H, W), or feature maps (B, C, h, w) if not `patch_proj`."""

    def __init__(
        self,
        size: ViTSize,
        channels: int,
        patch_size: int,
        grid: tuple[int, int],
        patch_proj: bool = True,
        post_mlp: bool = False,
        out_conv: bool = False,
        series: bool = False,
    ) -> None:
        super().__init__(size, patch_size, grid, patch_proj, post_mlp, series)
        self.channels = channels
        self.out_proj = nn.Linear(size.dim_tokens, channels * math.prod(self.patch))
        self.out_conv = nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels)) if out_conv else None
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        c, (rows, columns) = self.channels, self.patch
        patches = self.out_proj(self._transform(x)).view(batch, height, width, c, rows, columns)
        image: torch.Tensor = patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, c, height * rows, width * columns)
        if self.out_conv is not None:
            image = self.out_conv(image)
        return image


def initialize(model: nn.Module) -> None:
    """MAE's initialization, as in 4M: Xavier uniform, with q, k, v as separate matrices; biases of linear layers 0."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # nn.init.xavier_uniform_ would see one matrix of three times as many rows, and start q, k, v too small.
            rows = module.weight.shape[0] // (3 if name.endswith("qkv") else 1)
            limit = math.sqrt(6 / (rows + module.weight.shape[1]))
            nn.init.uniform_(module.weight, -limit, limit)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d) and name.endswith("proj"):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
