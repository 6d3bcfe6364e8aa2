"""TerraMind's tokenizers: files of PyTorch (.pt) that hold tensors alone, read without running anything of theirs.

Sizes are those of the tensors. What tensors cannot say is TerraMind's: linear betas and predicted samples of its
diffusion, 64 channels of an attention head, the levels of FSQ. A config.json beside the file, with the arguments of
terratorch's classes, and what a recipe says (`levels`, `heads`) come before that.

One of class maps (LULC) reads a channel for each class: here it gets an embedding of class ids that is just that. Where
there are as many channels as ids, the first is that of no class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...infra.formats import pth
from ..networks.quantizers import LEVELS
from ..networks.vit import PRESETS

HUB_PATTERN = "*.pt"
# Of ibm-esa-geospatial's tokenizers, v1: all others have LEVELS.
_LEVELS_OF_CLASSES = (7, 5, 5, 5, 5)
_HEAD = 64  # channels of an attention head
_NEVER = -1e4  # logit of "no class", of a tokenizer that does not know it


def is_tokenizer(tensors: Mapping[str, Any]) -> bool:
    """Whether tensors are those of a tokenizer without a codebook."""
    needed = {"quant_proj.weight", "encoder.proj.weight", "encoder.pos_emb"}
    return needed <= tensors.keys() and not any(name.startswith("quantize.") for name in tensors)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped from it. ValueError if it holds anything else."""
    tensors = pth.tensors(file)
    if not is_tokenizer(tensors):
        raise ValueError(
            f"{file}: its tensors are those of no FSQ tokenizer ({', '.join(sorted(tensors)[:3]) or 'none'}, ...); "
            "expected TerraMind's, or convert a checkpoint of ml-4m's training (`fourmill convert`)"
        )
    return tensors


def settings(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a tokenizer of these tensors.

    Args:
        said: what is known besides, by the names of `VQConfig`, and `heads`; None and what it lacks is not known.

    ValueError if that is too little, or something else than the tensors show.
    """
    said = {name: value for name, value in said.items() if value is not None}
    known, width = _known(tensors), int(tensors["quant_proj.weight"].shape[0])
    diffusion = "decoder.time_embed.0.weight" in tensors
    found: dict[str, Any] = {"quant_type": "fsq", "latent_dim": width, "num_codebooks": 1, **known}
    # Sizes that somebody gives count; a name alone may stand for other sizes in its package than here.
    given: Mapping[str, Any] = said.get("sizes") or {}
    sizes: dict[str, Any] = {}
    for part in ("enc", "dec"):
        if (name := str(said.get(f"{part}_type"))) in given:
            size = given[name]
        elif part == "dec" and diffusion:
            name, size = "unet_own", _unet(tensors, found["n_channels"], width)
        else:
            name, size = _vit(f"{part}oder", part, tensors, said.get("heads"))
        found[f"{part}_type"] = name
        sizes |= {name: size} if size else {}
    if diffusion:
        found |= {"prediction_type": "sample", "beta_schedule": "linear", "clip_sample": True}
    found["sizes"] = sizes
    own = ("heads", "enc_type", "dec_type", "sizes", "levels", "codebook_size")
    found |= {name: value for name, value in said.items() if name not in own}
    return found | {"codebook_size": _levels(width, diffusion, said)}


def _known(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, patch = tensors["encoder.proj.weight"].shape[1:3]
    found: dict[str, Any] = {"n_channels": channels, "patch_size": patch}
    for part in ("enc", "dec"):
        if (positions := tensors.get(f"{part}oder.pos_emb")) is not None:
            found[f"image_size_{part}"] = positions.shape[-1] * patch
    found["image_size"] = found["image_size_enc"]
    found["post_mlp"] = "encoder.norm_mlp.weight" in tensors
    if "decoder.out_conv.0.gamma" in tensors:
        found["out_conv"] = True
    return found


def _levels(width: int, diffusion: bool, said: Mapping[str, Any]) -> str:
    levels = said.get("levels")
    if levels is None and isinstance(said.get("codebook_size"), str):
        return str(said["codebook_size"])
    if levels is None:
        levels = LEVELS if diffusion else _LEVELS_OF_CLASSES
    if len(levels) != width:
        raise ValueError(
            f"its codes have {width} values, and the levels {list(levels)} are of {len(levels)}; say its own, as "
            "levels: [8, 8, 8, 6, 5]"
        )
    return "-".join(map(str, levels))


def _vit(part: str, suffix: str, tensors: Mapping[str, Tensor], heads: int | None) -> tuple[str, dict[str, Any]]:
    """The name of a ViT, and its sizes if the name does not say them."""
    if (first := tensors.get(f"{part}.blocks.0.mlp.fc1.weight")) is None:
        raise ValueError(f"its {part} is no ViT with blocks; expected TerraMind's ViT, and of the decoder also a UNet")
    hidden, dim = first.shape
    depth = 1 + max(int(m[1]) for name in tensors if (m := re.match(rf"{part}\.blocks\.(\d+)\.", name)))
    for name, preset in PRESETS.items():
        if (preset.dim_tokens, preset.depth) == (dim, depth):
            return f"{name}_{suffix}", {}  # a size that is known by its name
    heads = dim // _HEAD if dim % _HEAD == 0 else heads
    if not heads or dim % heads:
        raise ValueError(
            f"its {part} is {dim} wide, and no tensor shows how many attention heads it has; say it as heads, or in "
            "the sizes of a config.json beside it"
        )
    bias = f"{part}.blocks.0.attn.qkv.bias" in tensors
    size = {"dim_tokens": dim, "depth": depth, "num_heads": heads, "mlp_ratio": hidden / dim, "qkv_bias": bias}
    return f"vit_{dim}x{depth}_{suffix}", size


def _unet(tensors: Mapping[str, Tensor], channels: int, latent: int) -> dict[str, Any]:
    """The sizes of a patched UNet: of each level its width, blocks and attention."""
    blocks = "decoder.input_blocks"
    base = int(tensors["decoder.time_embed.0.weight"].shape[1])
    inner = int(tensors[f"{blocks}.0.0.weight"].shape[1]) - latent
    patch = math.isqrt(inner // channels)
    levels: list[list[tuple[int, bool]]] = [[]]
    for i in range(1, 1 + max(int(m[1]) for name in tensors if (m := re.match(rf"{blocks}\.(\d+)\.", name)))):
        if f"{blocks}.{i}.0.op.weight" in tensors:
            levels.append([])
        elif (convolution := tensors.get(f"{blocks}.{i}.0.in_layers.2.weight")) is not None:
            levels[-1].append((int(convolution.shape[0]), f"{blocks}.{i}.1.qkv.weight" in tensors))
    if patch * patch * channels != inner or len({len(level) for level in levels}) > 1 or not levels[0]:
        raise ValueError("its decoder is no UNet on patches, as TerraMind's tokenizers have one")
    return {
        "model_channels": base, "channel_mult": [level[0][0] / base for level in levels],
        "num_res_blocks": len(levels[0]), "patch_size": patch,
        "attention_resolutions": [2**i for i, level in enumerate(levels) if level[0][1]],
    }  # fmt: skip


def of_class_ids(
    config: dict[str, Any], tensors: dict[str, Tensor], n_labels: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A tokenizer with a channel for each class as one of class ids, of which 0 is no class.

    ValueError if it has no ViT decoder, or another number of classes.
    """
    weight, bias = tensors.get("decoder.out_proj.weight"), tensors.get("decoder.out_proj.bias")
    channels = int(config["n_channels"])
    if weight is None or bias is None or config.get("out_conv"):
        raise ValueError("its decoder gives values, and no logits of classes; expected TerraMind's of land cover")
    if channels not in (n_labels, n_labels - 1):
        raise ValueError(f"it has {channels} classes, the recipe {n_labels - 1} (and none); see classes")
    embedding = torch.eye(channels, dtype=weight.dtype)
    if channels < n_labels:
        embedding = torch.cat([embedding.new_zeros(1, channels), embedding])
        cell = len(bias) // channels
        weight = torch.cat([weight.new_zeros(cell, weight.shape[1]), weight])
        bias = torch.cat([bias.new_full((cell,), _NEVER), bias])
    more = {"cls_emb.weight": embedding, "decoder.out_proj.weight": weight, "decoder.out_proj.bias": bias}
    return config | {"n_labels": n_labels}, tensors | more
