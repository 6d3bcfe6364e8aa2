"""4M models of apple/ml-4m's training scripts: their configuration, from options and tensors; and ours as such files.

A training checkpoint has no configuration of the model: its options name one of ml-4m's models and the modalities. All
sizes are read from the tensors; the options say what tensors do not: the number of heads, and the activation.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...modalities import MODALITIES
from ...model.config import SIZES, FourMConfig
from ...model.fourm import FourM
from ...model.published import ml4m
from ...model.published.names import published_names

_PUBLISHED = {modality.published_name() for modality in MODALITIES.values()}
_NAMES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "xlarge": "XL"}
_MODEL = re.compile(r"fm_([a-z]+)_(\d+)e_(\d+)d_(?:gelu|swiglu)\w*")


def is_model(tensors: Mapping[str, Any]) -> bool:
    return "mask_token" in tensors and any(name.startswith("encoder_embeddings.") for name in tensors)


def of_training(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int | None = None) -> FourM:
    """The model of a training checkpoint.

    Args:
        heads: of attention, for models that are none of ml-4m's own; None as its options say.

    Raises:
        ValueError: something is missing, or does not fit.
    """
    return ml4m.build({name: value.float() for name, value in tensors.items()}, configuration(tensors, args, heads))


def configuration(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """The config.json that a published model of these weights has. ValueError if options do not say enough."""
    dim = tensors["mask_token"].shape[-1]
    fc1 = tensors.get("encoder.0.mlp.fc1.weight")
    if fc1 is None:
        raise ValueError("its encoder has no block (encoder.0.mlp.fc1.weight); expected the weights of a 4M model")
    gated = "encoder.0.mlp.fc3.weight" in tensors
    name = str(args.get("model", ""))
    depths = _depth("encoder", tensors), _depth("decoder", tensors)
    if (known := _MODEL.fullmatch(name)) and depths != (int(known[2]), int(known[3])):
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
    known = _MODEL.fullmatch(name)
    size = SIZES.get(_NAMES.get(known[1], "")) if known else None
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


def as_training(model: FourM) -> dict[str, Any]:
    """A checkpoint that ml-4m's training goes on from (`--finetune`): `model`, and `args` that say what it is.

    ValueError if the decoder reads by another table than it predicts with, which that training cannot express.
    """
    config: FourMConfig = model.config
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in ml4m.state_dict(model).items()}
    for key in [key for key in tensors if key.endswith(".to_logits.weight")]:
        tied = tensors[key.replace("to_logits", "token_emb")]
        if not torch.equal(tied, tensors[key]):
            raise ValueError(
                f"{key}: the decoder reads by another table than it predicts with, and ml-4m's training has one for "
                "both; name a folder as DEST, which `FM.from_pretrained` opens"
            )
        tensors[key] = tied
    published = ml4m.configuration(config)
    args = argparse.Namespace(
        model=_published_model(config),
        in_domains=published["domains_in"],
        out_domains=published["domains_out"],
        all_domains=sorted({*published["domains_in"], *published["domains_out"]}),
        input_size=published["image_size"],
        patch_size=published["patch_size"],
        num_register_tokens=config.num_register_tokens,
    )
    return {"model": tensors, "args": args, "epoch": 0}


def unknown_modalities(model: FourM) -> list[str]:
    """The published names of its modalities that are none of 4M's."""
    return [name for name in published_names(model.config.modalities).values() if name not in _PUBLISHED]


def _published_model(config: FourMConfig) -> str:
    """ml-4m's name of a model of these sizes, "" if it has none."""
    sizes = (config.dim, config.encoder_depth, config.decoder_depth, config.num_heads)
    names = {size: name for name, size in _NAMES.items()}
    size = next((names[key] for key, value in SIZES.items() if value == sizes), "")
    if not size:
        return ""
    norm = "_qknorm" if config.qk_norm else ""
    kind = f"swiglu{norm}_nobias" if config.gated_mlp else "gelu"
    return f"fm_{size}_{config.encoder_depth}e_{config.decoder_depth}d_{kind}"
