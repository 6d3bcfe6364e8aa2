"""Sizes of encoders and decoders by name: the `sizes` of our configs, and the arch.json of published folders.

A size is what builds the part that its name stands for: an encoder is a ViT (of a series also a ConvNeXt), a decoder
what its name says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .stages import ConvNeXtSize
from .unet import UNetSize
from .uvit import UViTSize
from .vit import ViTSize

Size = ViTSize | UNetSize | UViTSize | ConvNeXtSize

# Arguments of the reference's that are for training alone, or whose only value in use is this.
_NEUTRAL: dict[str, Any] = {
    "drop_rate": 0, "attn_drop_rate": 0, "drop_path_rate": 0, "dropout": 0, "mid_drop_rate": 0, "mid_attn_drop_rate": 0,
    "mid_drop_path_rate": 0, "use_checkpoint": False, "use_fp16": False, "sincos_pos_emb": True,
    "learnable_pos_emb": False, "ckpt_path": None, "dims": 2, "num_classes": None, "conv_resample": True,
    "num_heads_upsample": -1, "use_scale_shift_norm": False, "resblock_updown": False,
    "use_new_attention_order": False,
}  # fmt: skip


def is_diffusion(dec_type: str) -> bool:
    """Whether a decoder type names a diffusion decoder."""
    return _kind(dec_type) in (UNetSize, UViTSize)


def _kind(name: str) -> type[Size]:
    # The reference too goes by the name alone; a size in arch.json does not say what it is of.
    if "uvit_" in name:
        return UViTSize
    if "convnext_" in name:
        return ConvNeXtSize
    return UNetSize if "unet_" in name else ViTSize


def sizes_of(table: Mapping[str, Any], enc_type: str, dec_type: str) -> dict[str, Size]:
    """The sizes of one tokenizer's parts; what else the table holds is not read.

    Args:
        table: by name, a size or its fields.

    Raises:
        ValueError: fields that a size does not have, or lacks, or that do not fit together.
    """
    encoder: type[Size] = ConvNeXtSize if _kind(enc_type) is ConvNeXtSize else ViTSize
    kinds: dict[str, type[Size]] = {dec_type: _kind(dec_type), enc_type: encoder}
    return {name: _size(name, kinds[name], value) for name, value in table.items() if name in kinds}


def _size(name: str, kind: type[Size], value: Any) -> Size:
    if not isinstance(value, Mapping):
        return value
    # Neutral arguments are dropped; others that a size does not have would build another model than was trained.
    known = {field.name: field.default for field in fields(kind)}
    given = {key: it for key, it in value.items() if key in known or key not in _NEUTRAL or _NEUTRAL[key] != it}
    wrong = [f"got {key} {it!r}" for key, it in given.items() if key not in known]
    wrong += [f"found no {key}" for key, default in known.items() if default is MISSING and key not in given]
    if wrong:
        raise ValueError(f"sizes, {name}: {wrong[0]}; expected a {kind.__name__} of {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        # One sentence about the first mistake; pydantic's text has several lines.
        first = error.errors()[0]
        place = "".join(f", {part}" for part in first["loc"])
        raise ValueError(f"sizes, {name}{place}: {first.get('ctx', {}).get('error', first['msg'])}") from None
