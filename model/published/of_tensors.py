"""The configuration of a model whose file holds tensors and the options of a training script, or tensors alone.

Checkpoints of apple/ml-4m's training have options: they name one of ml-4m's models and the modalities. TerraMind's
files have none. All sizes are read from the tensors; what they do not show, the number of heads, the options say, or it
is that of all published sizes: one for 64 channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import SIZES

NAMES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "xlarge": "XL"}
MODEL = re.compile(r"fm_([a-z]+)_(\d+)e_(\d+)d_(?:gelu|swiglu)\w*")
_HEAD = 64  # channels of an attention head


def is_model(tensors: Mapping[str, Any]) -> bool:
    """Whether tensors are those of a 4M model."""
    return "mask_token" in tensors and any(name.startswith("encoder_embeddings.") for name in tensors)


def configuration(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """The config.json that a published model of these weights has. ValueError if options do not say enough."""
    dim = tensors["mask_token"].shape[-1]
    fc1 = tensors.get("encoder.0.mlp.fc1.weight")
    if fc1 is None:
        raise ValueError("its encoder has no block (encoder.0.mlp.fc1.weight); expected the weights of a 4M model")
    gated = "encoder.0.mlp.fc3.weight" in tensors
    name = str(args.get("model", ""))
    depths = _depth("encoder", tensors), _depth("decoder", tensors)
    if (known := MODEL.fullmatch(name)) and depths != (int(known[2]), int(known[3])):
        raise ValueError(
            f"it has {depths[0]} + {depths[1]} blocks, its options say {name}; are all of its tensors there?"
        )
    return {
        "domains_in": _domains("in_domains", "encoder_embeddings", tensors, args),
        "domains_out": _domains("out_domains", "decoder_embeddings", tensors, args),
        "image_size": args.get("input_size", 224),
        "patch_size": args.get("patch_size", 16),
        "dim": dim,
        "encoder_depth": depths[0],
        "decoder_depth": depths[1],
        "num_heads": heads or _heads(name, dim, tensors),
        "mlp_ratio": _ratio(fc1.shape[0], dim, gated),
        "qkv_bias": "encoder.0.attn.qkv.bias" in tensors,
        "proj_bias": "encoder.0.attn.proj.bias" in tensors,
        "mlp_bias": "encoder.0.mlp.fc1.bias" in tensors,
        "norm_bias": any(
            bool(value.any()) for key, value in tensors.items() if re.search(r"(^|[._])norm\d?\.bias$", key)
        ),
        "act_layer": "SiLU" if gated else "GELU",
        "gated_mlp": gated,
        "qk_norm": "encoder.0.attn.q_norm.weight" in tensors,
        "share_modality_embeddings": _shares(tensors),
        "num_register_tokens": tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0,
    }


def _domains(option: str, side: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any]) -> list[str]:
    """The modalities of a side in the order of the options, which alone list what has no tensors."""
    held = list(dict.fromkeys(key.split(".", 2)[1] for key in tensors if key.startswith(f"{side}.")))
    listed = args.get(option)
    return [str(one) for one in listed] if isinstance(listed, list | tuple) and listed else held


def _depth(part: str, tensors: Mapping[str, Tensor]) -> int:
    found = {int(m[1]) for key in tensors if (m := re.match(rf"{part}\.(\d+)\.", key))}
    if found != set(range(len(found))):
        raise ValueError(f"its {part} has the blocks {sorted(found)}; expected all from 0 on")
    return len(found)


def _heads(name: str, dim: int, tensors: Mapping[str, Tensor]) -> int:
    norm = tensors.get("encoder.0.attn.q_norm.weight")
    if norm is not None:
        return dim // norm.shape[0]
    known = MODEL.fullmatch(name)
    size = SIZES.get(NAMES.get(known[1], "")) if known else None
    if not name and dim % _HEAD == 0:
        return dim // _HEAD
    if size is None or size[0] != dim:
        raise ValueError(
            f"its options call the model {name or 'nothing'}, its width is {dim}: how many heads it has can be seen "
            "in no tensor; say --heads N"
        )
    return size[3]


def _ratio(hidden: int, dim: int, gated: bool) -> float:
    """The `mlp_ratio` that gives this hidden width."""
    for ratio in (4.0, (hidden + 0.5) * 1.5 / dim if gated else hidden / dim):
        if int(2 * (dim * ratio) / 3 if gated else dim * ratio) == hidden:
            return ratio
    raise ValueError(f"its blocks have the hidden width {hidden} for {dim}; no ratio gives that")


def _shares(tensors: Mapping[str, Tensor]) -> bool:
    """Whether encoder and decoder have one embedding of each modality."""
    for key, value in tensors.items():
        other = key.replace("encoder_embeddings.", "decoder_embeddings.", 1)
        if key.startswith("encoder_embeddings.") and key.endswith(".mod_emb") and other in tensors:
            if not torch.equal(value, tensors[other]):
                return False
    return True
