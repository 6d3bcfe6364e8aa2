"""Tiny random HMR2.0, by the names of the published checkpoint."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HEADS, DECODER_HEADS = 2, 2


def tensors(width: int = 16, depth: int = 2, unit: int = 1, patch: int = 16, token: int = 1) -> dict[str, torch.Tensor]:
    """A state dict: crops of 4 unit x 3 unit patches, a decoder of two layers 12 wide with attention 8 wide."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, mean: float = 0.0, scale: float = 0.2) -> torch.Tensor:
        return mean + scale * torch.randn(*shape, generator=generator)

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(size, mean=1), f"{name}.bias": draw(size)}

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(rows, columns)} | ({f"{name}.bias": draw(rows)} if bias else {})

    state = {
        "backbone.pos_embed": draw(1, 12 * unit**2 + 1, width),
        "backbone.patch_embed.proj.weight": draw(width, 3, patch, patch, scale=0.05),
        "backbone.patch_embed.proj.bias": draw(width),
        **norm("backbone.last_norm", width),
    }
    for i in range(depth):
        block = f"backbone.blocks.{i}"
        state |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        state |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        state |= linear(f"{block}.mlp.fc1", 2 * width, width) | linear(f"{block}.mlp.fc2", width, 2 * width)
    head = "smpl_head.transformer"
    state |= linear(f"{head}.to_token_embedding", 12, token) | {f"{head}.pos_embedding": draw(1, 1, 12)}
    for i in range(2):
        layer = f"{head}.transformer.layers.{i}"
        for part in range(3):
            state |= norm(f"{layer}.{part}.norm", 12)
        state |= linear(f"{layer}.0.fn.to_qkv", 24, 12, bias=False) | linear(f"{layer}.0.fn.to_out.0", 12, 8)
        state |= linear(f"{layer}.1.fn.to_q", 8, 12, bias=False) | linear(f"{layer}.1.fn.to_kv", 16, width, bias=False)
        state |= linear(f"{layer}.1.fn.to_out.0", 12, 8)
        state |= linear(f"{layer}.2.fn.net.0", 20, 12) | linear(f"{layer}.2.fn.net.3", 12, 20)
    for name, init, size in (("decpose", "body_pose", 144), ("decshape", "betas", 10), ("deccam", "cam", 3)):
        state |= linear(f"smpl_head.{name}", size, 12) | {f"smpl_head.init_{init}": draw(1, size)}
    return state


def safetensors(path: Path, **sizes: int) -> Path:
    save_file(tensors(**sizes), path)
    return path


def lightning(path: Path, settings: Any = None) -> Path:
    """As published: a Lightning checkpoint with SMPL, a discriminator, and settings of a package that is not here."""
    others = {"smpl.v_template": torch.zeros(4, 3), "discriminator.D_alone.0.weight": torch.zeros(2)}
    made = {"state_dict": tensors() | others, "epoch": 35, "hyper_parameters": {"cfg": settings}}
    if settings is not None:
        torch.save(made, path)
        return path
    config = types.ModuleType("yacs_of_nobody.config")

    class CfgNode(dict):  # type: ignore[type-arg]
        def __init__(self, values: dict[str, Any]) -> None:
            super().__init__(values)
            self.frozen = True

    CfgNode.__module__, CfgNode.__qualname__ = config.__name__, "CfgNode"
    config.CfgNode = CfgNode  # type: ignore[attr-defined]
    sys.modules |= {"yacs_of_nobody": types.ModuleType("yacs_of_nobody"), config.__name__: config}
    try:
        made["hyper_parameters"] = {"cfg": CfgNode({"MODEL": CfgNode({"IMAGE_SIZE": 256, "MEAN": [0.485, 0.456]})})}
        torch.save(made, path)
    finally:
        del sys.modules["yacs_of_nobody"], sys.modules[config.__name__]
    return path
