"""Heads on the features of a 4M encoder: one answer for an image, or one for each pixel (4M, section 4; 4M-21, 4.2).

Legend: B samples, D width, C classes or channels, h x w the grid of the main modality, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .transfer import Encoder, Features


class PooledHead(nn.Module):
    """A linear layer on the mean of all tokens, or on the class token: (B, C)."""

    def __init__(self, dim: int, channels: int, pool: Literal["mean", "class"] = "mean") -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.LayerNorm(dim, eps=1e-6) if pool == "mean" else nn.Identity()
        self.linear = nn.Linear(dim, channels)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features) -> Tensor:
        pooled = features.mean() if self.pool == "mean" else features.tokens[:, 0]
        return self.linear(self.norm(pooled))


class LinearMap(nn.Module):
    """A linear layer on each token of one modality, resized to pixels: (B, C, H, W)."""

    def __init__(self, dim: int, channels: int, modality: str = "rgb") -> None:
        super().__init__()
        self.modality = modality
        self.linear = nn.Conv2d(dim, channels, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return _resize(self.linear(features.map(self.modality)), size)


class ConvNeXtMap(nn.Module):
    """The dense head of 4M and MultiMAE: tokens are unfolded to a finer grid of narrow features, refined by ConvNeXt
    blocks, projected and resized: (B, C, H, W).

    Args:
        cells: features that a token is unfolded to, along a side.
        width: of the unfolded features.
    """

    def __init__(
        self, dim: int, channels: int, modality: str = "rgb", depth: int = 2, cells: int = 4, width: int = 96
    ) -> None:
        super().__init__()
        self.modality = modality
        self.unfold = nn.Sequential(nn.Conv2d(dim, width * cells**2, 1), nn.PixelShuffle(cells))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth)))
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        return _resize(self.out(self.blocks(self.unfold(features.map(self.modality)))), size)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, MLP, on (B, C, h, w) (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm(self.depthwise(x).movedim(1, -1)))
        return x + y.movedim(-1, 1)


class Network(nn.Module):
    """An encoder with a head on top."""

    encoder: Encoder
    head: nn.Module


class Numbers(Network):
    """An encoder and a head that says some numbers of a sample: (B, C)."""

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = PooledHead(encoder.dim, channels, "mean" if encoder.class_token is None else "class")

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        answer: Tensor = self.head(self.encoder(inputs))
        return answer


class Maps(Network):
    """An encoder and a head that says something of each pixel: (B, C, H, W) of a size.

    Args:
        modality: whose grid the map is laid on.
    """

    def __init__(self, encoder: Encoder, channels: int, modality: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.size = encoder, size
        self.head = ConvNeXtMap(encoder.dim, channels, modality)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        answer: Tensor = self.head(self.encoder(inputs), self.size)
        return answer


class Classifier(Numbers):
    """An encoder and a head for one answer for each image, logits (B, C); the class token is the encoder's first."""


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
