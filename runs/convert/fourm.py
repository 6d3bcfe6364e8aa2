"""4M models of apple/ml-4m's training scripts: their configuration, from options and tensors; and ours as such files.

A training checkpoint has no configuration of the model: its options name one of ml-4m's models and the modalities. All
sizes are read from the tensors; the options say what tensors do not: the number of heads, and the activation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...modalities import MODALITIES
from ...model.config import SIZES, FourMConfig
from ...model.fourm import FourM
from ...model.published import ml4m
from ...model.published.names import published_names
from ...model.published.of_tensors import NAMES, configuration

_PUBLISHED = {modality.published_name() for modality in MODALITIES.values()}


def of_training(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int | None = None) -> FourM:
    """The model of a training checkpoint.

    Args:
        heads: of attention, for models that are none of ml-4m's own; None as its options say.

    Raises:
        ValueError: something is missing, or does not fit.
    """
    return ml4m.build({name: value.float() for name, value in tensors.items()}, configuration(tensors, args, heads))


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
    names = {size: name for name, size in NAMES.items()}
    size = next((names[key] for key, value in SIZES.items() if value == sizes), "")
    if not size:
        return ""
    norm = "_qknorm" if config.qk_norm else ""
    kind = f"swiglu{norm}_nobias" if config.gated_mlp else "gelu"
    return f"fm_{size}_{config.encoder_depth}e_{config.decoder_depth}d_{kind}"
