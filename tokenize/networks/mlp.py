"""The bottleneck MLP of 4M's tokenizers of vectors (Scaling MLPs, arXiv 2306.13575)."""

from __future__ import annotations

import re

import torch
from torch import nn

# BottleneckMLP/B_6-Wi_1024: 6 blocks of width 1024; a third part (-E_2) replaces the expansion of 4.
_NAME = re.compile(r"BottleneckMLP/B_(\d+)-Wi_(\d+)(?:-[A-Za-z]+_(\d+))?")


def is_mlp(name: str) -> bool:
    """Whether an encoder or decoder type names an MLP."""
    return "MLP" in name


def mlp_name(blocks: int, width: int) -> str:
    return f"BottleneckMLP/B_{blocks}-Wi_{width}"


class BottleneckMLP(nn.Module):
    """Pre-norm residual MLP on the channels of (B, C, h, w), each position for itself."""

    def __init__(self, name: str, dim_in: int | None = None, dim_out: int | None = None) -> None:
        """`name` as in 4M's configs; the sizes at the ends are the width unless given. ValueError for other names."""
        super().__init__()
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"MLP: got the type {name!r}; expected BottleneckMLP/B_<blocks>-Wi_<width>")
        # The third group is missing in all published names, and stands for an expansion of 4.
        blocks, self.width, expansion = (int(group or 4) for group in match.groups())
        self.linear_in = nn.Linear(dim_in or self.width, self.width)
        self.blocks = nn.ModuleList(_Block(self.width, expansion * self.width) for _ in range(blocks))
        self.layernorms = nn.ModuleList(nn.LayerNorm(self.width) for _ in range(blocks))
        self.linear_out = nn.Linear(self.width, dim_out or self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Channels last: linear layers act on the last axis.
        x = self.linear_in(x.movedim(1, -1))
        for block, norm in zip(self.blocks, self.layernorms, strict=True):
            x = x + block(norm(x))
        out: torch.Tensor = self.linear_out(x)
        return out.movedim(-1, 1)


class _Block(nn.Module):
    def __init__(self, thin: int, wide: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(thin, wide), nn.GELU(), nn.Linear(wide, thin))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)
