"""A tiny CLIP in OpenCLIP's layout, whose tensors follow from their names alone: upstream's own classes were given the
same ones, and what they answered is recorded in the tests."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTH, LAYERS, PATCH, SIDE, EMBED = 32, 2, 8, 32, 12
VISION = {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": PATCH}


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of a name: normal, around 1 for scales of norms."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    is_scale = ".ln_" in f".{name}" and name.endswith("weight")
    return torch.randn(shape, generator=generator) * 0.2 + (1.0 if is_scale else 0.0)


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the image tower, as `open_clip.transformer.VisionTransformer` has them."""
    found: dict[str, tuple[int, ...]] = {
        "class_embedding": (WIDTH,), "positional_embedding": ((SIDE // PATCH) ** 2 + 1, WIDTH),
        "proj": (WIDTH, EMBED), "conv1.weight": (WIDTH, 3, PATCH, PATCH),
    }  # fmt: skip
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{n}.ln_{k}" for n in range(LAYERS) for k in (1, 2))):
        found |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for n in range(LAYERS):
        place = f"transformer.resblocks.{n}"
        found |= {
            f"{place}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{place}.attn.in_proj_bias": (3 * WIDTH,),
            f"{place}.attn.out_proj.weight": (WIDTH, WIDTH), f"{place}.attn.out_proj.bias": (WIDTH,),
            f"{place}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{place}.mlp.c_fc.bias": (4 * WIDTH,),
            f"{place}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH), f"{place}.mlp.c_proj.bias": (WIDTH,),
        }  # fmt: skip
    return found


def pixels() -> torch.Tensor:
    """float32 (1, 3, SIDE, SIDE)."""
    return drawn("pixels", (1, 3, SIDE, SIDE)) * 5


def write(folder: Path, quick_gelu: bool = True, **vision: Any) -> Path:
    """The folder, with a text tower's tensor beside the image tower's, as published files have it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"embed_dim": EMBED, "vision_cfg": VISION | vision, "text_cfg": {"width": 8}}
    model |= {"quick_gelu": True} if quick_gelu else {}
    stated = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": stated}))
    tensors = {f"visual.{name}": drawn(name, shape) for name, shape in shapes().items()}
    save_file(tensors | {"text_projection": torch.zeros(8, EMBED)}, folder / "open_clip_model.safetensors")
    return folder
