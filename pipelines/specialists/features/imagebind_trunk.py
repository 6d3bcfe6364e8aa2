"""The vision trunk of ImageBind (Girdhar et al., 2023): ViT-H/14, 1280 wide, 32 blocks, 16 heads.

It differs from a plain ViT by a LayerNorm before its blocks and none after, and by a stem that convolves two frames of
a clip. A still image is a clip of equal frames, so that the stem's kernel is summed over time once instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ....tokenize.networks.vit import Block, ViTSize

# Published names and ours, in the order in which they are replaced.
_RENAMED = (
    ("modality_preprocessors.vision.cls_token", "cls_token"),
    ("modality_preprocessors.vision.pos_embedding_helper.pos_embed", "pos_emb"),
    ("modality_preprocessors.vision.rgbt_stem.proj.1.", "proj."),
    ("modality_trunks.vision.pre_transformer_layer.0.", "norm_pre."),
    ("modality_trunks.vision.blocks.", "blocks."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".norm_", ".norm"),
)
PREFIXES = ("modality_preprocessors.vision.", "modality_trunks.vision.")


class VisionTrunk(nn.Module):
    """Pixels (B, 3, H, W) to the residual stream after the last block, (B, 1 + h w, D), class token first."""

    def __init__(self, size: ViTSize, patch_size: int, positions: int) -> None:
        super().__init__()
        dim = size.dim_tokens
        self.patch_size = patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_emb = nn.Parameter(torch.zeros(1, 1 + positions, dim))
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size, bias=False)
        self.norm_pre = nn.LayerNorm(dim, eps=1e-6)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.depth)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches_BDhw = self.proj(pixels)
        rows, columns = patches_BDhw.shape[2:]
        patches = patches_BDhw.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self._positions(rows, columns)
        return self.blocks(self.norm_pre(x))

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """(1, 1 + h w, D), resized bicubically from the square grid of training to any other."""
        positions: torch.Tensor = self.pos_emb
        side = math.isqrt(positions.shape[1] - 1)
        if (rows, columns) == (side, side):
            return positions
        square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # In float32: bicubic weights in half precision move the positions.
        resized = F.interpolate(square.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def from_tensors(tensors: Mapping[str, torch.Tensor], num_heads: int) -> VisionTrunk:
    """The trunk from the tensors of a published checkpoint, which may hold other modalities too; float32, on the CPU.

    Every size but the number of heads is read from the tensors. ValueError if one is missing or has another shape.
    """
    ours = {_renamed(name): tensor.float() for name, tensor in tensors.items() if name.startswith(PREFIXES)}
    try:
        stem, positions = ours["proj.weight"], ours["pos_emb"]
        hidden = len(ours["blocks.0.mlp.fc1.weight"])
    except KeyError as error:
        raise ValueError(f"this is no ImageBind: there is no tensor for {error} among its {len(tensors)}") from None
    if stem.ndim != 5 or stem.shape[3] != stem.shape[4]:
        raise ValueError(f"the stem has shape {tuple(stem.shape)}; expected (width, 3, frames, patch, patch)")
    dim, patch = stem.shape[0], stem.shape[4]
    ours["proj.weight"] = stem.sum(dim=2)
    depth = 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("blocks."))
    count = positions.shape[1] - 1
    if math.isqrt(count) ** 2 != count:
        raise ValueError(f"the positions have shape {tuple(positions.shape)}; expected a square grid and a class token")
    with torch.device("meta"):  # no time for weights that are about to be replaced
        trunk = VisionTrunk(ViTSize(dim, depth, num_heads, mlp_ratio=hidden / dim), patch, count)
    try:
        trunk.load_state_dict(ours, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the tensors of ImageBind's vision trunk do not fit together: {error}") from error
    return trunk.requires_grad_(False)


def _renamed(name: str) -> str:
    for published, own in _RENAMED:
        name = name.replace(published, own)
    return name
