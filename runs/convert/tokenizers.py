"""Tokenizers of apple/ml-4m's training scripts: their settings, from options and tensors; and ours as such files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...tokenize.networks.divae import DiVAEConfig
from ...tokenize.networks.tables import Table
from ...tokenize.networks.vqvae import VQVAEConfig
from ...tokenize.published import terramind
from ...tokenize.tokenizer import Tokenizer

# Settings of a network -> the option of the training scripts that says it; all others have one name.
_OPTIONS = {
    "enc_type": "encoder_type",
    "dec_type": "decoder_type",
    "quant_type": "quantizer_type",
    "image_size_enc": "input_size_enc",
    "image_size_dec": "input_size_dec",
    "ema_decay": "quantizer_ema_decay",
}
_FEATURES = ("CLIP", "DINO", "ImageBind")  # whose maps have a token for each cell, so that nothing is cut to patches
_UNSET = object()


def is_tokenizer(tensors: Mapping[str, Any]) -> bool:
    return "quant_proj.weight" in tensors


def settings(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """The config.json that a published tokenizer of these weights has.

    Args:
        heads: of attention, of TerraMind's, which have no options.

    ValueError if the options say too little of it, or it is of a kind that is not read (ControlNet).
    """
    if any("controlnet" in name for name in tensors):
        raise ValueError("it is a ControlNet decoder on Stable Diffusion; expected a VQ-VAE or a DiVAE")
    if not args and terramind.is_tokenizer(tensors):
        return terramind.settings(tensors, {"heads": heads})
    if not args:
        raise ValueError(
            "it holds no `args`, which say how its tensors are put together; convert the checkpoint that ml-4m's "
            "training wrote, or a folder with config.json"
        )
    if not any(name.startswith("decoder.") for name in tensors):
        raise ValueError("it holds an encoder alone; expected a tokenizer with its decoder")
    domain = str(args.get("domain", ""))
    names = VQVAEConfig.model_fields.keys() | DiVAEConfig.model_fields.keys()
    given = {name: args.get(_OPTIONS.get(name, name), _UNSET) for name in names}
    found = {name: value for name, value in given.items() if value is not _UNSET and value is not None}
    size = args.get("mask_size") if "sam" in domain else args.get("input_size") or args.get("input_size_max")
    if size:
        found["image_size"] = size
    if any(name in domain for name in _FEATURES):
        found["patch_proj"] = False
    for name in ("codebook_size", "num_codebooks"):  # words of a command line
        if name in found:
            found[name] = int(found[name])
    if "cls_emb.weight" in tensors:
        found["n_labels"], found["n_channels"] = tensors["cls_emb.weight"].shape
    elif "encoder.linear_in.weight" in tensors:
        found["n_channels"] = tensors["encoder.linear_in.weight"].shape[1]
    else:
        found["n_channels"] = tensors["encoder.proj.weight"].shape[1]
    # The options of fits at several resolutions do not say for which one the positions were made.
    for part in ("enc", "dec"):
        if (positions := tensors.get(f"{part}oder.pos_emb")) is not None and positions.ndim == 4:
            found[f"image_size_{part}"] = positions.shape[-1] * int(found.get("patch_size", 16))
    return found


def as_training(model: Tokenizer) -> dict[str, Any]:
    """A checkpoint that ml-4m's `get_image_tokenizer` opens: `model`, and `args` that say how it is put together."""
    values = published(model)
    options = {_OPTIONS.get(name, name): value for name, value in values.items()}
    options["input_size"] = values["image_size"]
    if not values.get("patch_proj", True):
        options["domain"] = "CLIP-B16"  # by which it knows that maps are not cut to patches
    options.setdefault("domain", "")
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return {"model": tensors, "args": argparse.Namespace(**options), "epoch": 0}


def published(model: Tokenizer) -> dict[str, Any]:
    """Its settings by ml-4m's names, without our own; `sync_codebook` is for training on several GPUs alone."""
    values = model.config.model_dump(mode="json", exclude_none=True)
    sizes = values.pop("sizes", {})
    return values | {"sync_codebook": False} | ({"sizes": sizes} if sizes else {})


def own_sizes(model: Tokenizer) -> list[str]:
    """The names of its networks that ml-4m does not know."""
    return [] if isinstance(model, Table) else sorted(model.config.sizes)
