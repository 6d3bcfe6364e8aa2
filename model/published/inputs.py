"""Masked dictionaries of apple/ml-4m to packed batches: the bridge that parity is tested over.

Legend: B samples, n tokens of a modality, N and M the budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...modalities import Kind, ModalitySpec
from ..batch import PackedBatch
from ..config import FourMConfig
from ..fourm import FourM
from ..generation.known import to_numpy
from ..patches import patchify
from .names import patch_size

Array = np.ndarray | torch.Tensor
_FIELDS = ("ids", "queries", "mod", "pos", "valid", "attention")


@dataclass
class _Columns:
    """Candidates of one side, each (B, n)."""

    ids: np.ndarray
    queries: np.ndarray
    mod: np.ndarray
    pos: np.ndarray
    valid: np.ndarray
    attention: np.ndarray


def pack(
    model: FourM,
    mod_dict: Mapping[str, Mapping[str, Array]],
    num_encoder_tokens: int,
    num_decoder_tokens: int,
    decoder_order: Sequence[str] | None = None,
) -> PackedBatch:
    """Gather what the masks choose, as apple/ml-4m's `forward_mask_encoder` and `forward_mask_decoder` do.

    Args:
        model: that will read the batch.
        mod_dict: published modality name -> `tensor` (B, n) or (B, h, w) ids, or (B, C, H, W) normalized pixels, or
            (B, n, D) embeddings; `input_mask` and `target_mask`, bool (B, n), True = ignore; `decoder_attention_mask`,
            int (B, n), compressed (see the source). Modalities are concatenated in its order. NumPy arrays, or tensors
            of any device and dtype; no gradient flows to them.
        num_encoder_tokens, num_decoder_tokens: budgets; the first ones are kept.
        decoder_order: order of the decoder's modalities, by either name; apple/ml-4m shuffles them, which changes
            which ones survive the budget. The order of `mod_dict` if None.

    Returns:
        A NumPy batch, (B, num_encoder_tokens) and (B, num_decoder_tokens) or fewer columns if there are fewer (but at
        least one). Its `outputs` are those of `mod_dict`: apple/ml-4m's mean over modalities is over these.

    A sample without any input attends to nothing here. In apple/ml-4m its masks block everything, which attends to
    all of the padding evenly: the logits of such a sample, and of no other, differ.

    Raises:
        ValueError: a budget below 1; a part of a modality that is missing or of another shape or type than above, named
            with what was expected; a modality of `decoder_order` that is not in `mod_dict`, or there twice; no modality
            of `mod_dict` is the model's, or one is there under both names.
    """
    if num_encoder_tokens < 1 or num_decoder_tokens < 1:
        raise ValueError(f"got budgets {num_encoder_tokens} and {num_decoder_tokens}, expected 1 or more tokens each")
    config = model.config
    given = config.by_own_name({name: d for name, d in mod_dict.items() if config.find(name) is not None})
    if not given:
        raise ValueError(f"got {', '.join(mod_dict) or 'no modality'}, expected some of {', '.join(config.published)}")
    order = list(given) if decoder_order is None else [config.spec(name).name for name in decoder_order]
    if (missing := [name for name in order if name not in given]) or len(set(order)) < len(order):
        got = f"decoder_order names {', '.join(missing)}" if missing else f"decoder_order is {', '.join(order)}"
        raise ValueError(f"{got}, expected modalities of mod_dict, none twice")
    arrays = {name: _arrays(config, config.spec(name), d, name in order) for name, d in given.items()}
    sizes = {name: len(d["tensor"]) for name, d in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"got samples {sizes}, expected as many of each modality")
    samples = next(iter(sizes.values()))
    values: dict[str, np.ndarray | torch.Tensor] = {}
    inputs = []
    for name, d in arrays.items():
        spec = config.spec(name)
        if name in config.inputs:
            inputs.append(_input_columns(config, spec, d))
            if spec.kind is Kind.PIXELS:
                values[spec.name] = patchify(d["tensor"], _patch(spec, d["tensor"]))
            elif spec.kind is Kind.EMBEDDING:
                values[spec.name] = d["tensor"]
    offered = [name for name in order if name in config.outputs]
    targets = [_target_columns(config, config.spec(name), arrays[name]) for name in offered]
    source, target = _keep(inputs, num_encoder_tokens, samples), _keep(targets, num_decoder_tokens, samples)
    return PackedBatch(
        input_ids=source.ids,
        input_mod=source.mod,
        input_pos=source.pos,
        input_valid=source.valid,
        target_ids=target.ids,
        query_ids=target.queries,
        target_mod=target.mod,
        target_pos=target.pos,
        target_end=np.cumsum(target.attention, axis=1).astype(np.int32),
        target_valid=target.valid,
        values=values,
        outputs=tuple(offered),
    )


def _arrays(config: FourMConfig, spec: ModalitySpec, d: Mapping[str, Array], asked: bool) -> dict[str, np.ndarray]:
    """The parts that the model reads of a modality on the host, grids and masks flat; they fit each other."""
    parts = ["tensor"]
    parts += ["input_mask"] if spec.name in config.inputs else []
    parts += ["target_mask", "decoder_attention_mask"] if asked and spec.name in config.outputs else []
    if missing := [part for part in parts if part not in d]:
        raise ValueError(f"{spec.name}: got {', '.join(d)}, expected {', '.join(missing)} as well")
    arrays = {part: to_numpy(spec.name, d[part]) for part in parts}
    flat = {part: part != "tensor" or spec.kind is Kind.GRID for part in parts}
    arrays = {part: x.reshape(len(x), -1) if flat[part] else x for part, x in arrays.items()}
    tensor = arrays.pop("tensor")
    fixed = spec.kind in (Kind.GRID, Kind.PIXELS) or tensor.ndim < 2
    samples, length = len(tensor), spec.max_tokens if fixed else tensor.shape[1]
    expected: tuple[int, ...] = (samples, length)
    if spec.kind is Kind.PIXELS:
        patch = _patch(spec, tensor)
        rows, columns = spec.grid
        expected = (samples, spec.input_dim // patch**2, rows * patch, columns * patch)
    elif spec.kind is Kind.EMBEDDING:
        expected = (samples, length, spec.input_dim)
    if spec.is_target and tensor.dtype.kind not in "iu":
        raise ValueError(f"{spec.name}: got a tensor of the type {tensor.dtype}, expected ids, which are integers")
    for part, x, shape in (("tensor", tensor, expected), *((p, x, (samples, length)) for p, x in arrays.items())):
        if x.shape != shape:
            raise ValueError(f"{spec.name}: got {part} of shape {x.shape}, expected {shape}")
    return arrays | {"tensor": tensor}


def _patch(spec: ModalitySpec, pixels: np.ndarray) -> int:
    """Pixels along a side of a patch: a model says how many values it has, and the pixels how many channels."""
    channels = pixels.shape[1] if pixels.ndim == 4 else 0
    side = math.isqrt(spec.input_dim // channels) if channels else 0
    return side if side and side * side * channels == spec.input_dim else patch_size(spec)


def _input_columns(config: FourMConfig, spec: ModalitySpec, d: Mapping[str, np.ndarray]) -> _Columns:
    valid = ~d["input_mask"].astype(bool)
    index = np.broadcast_to(np.arange(valid.shape[1]), valid.shape)
    # Texts and embeddings are numbered through by what is shown, grids by their place.
    grid = spec.kind in (Kind.GRID, Kind.PIXELS)
    pos = index if grid else np.where(valid, np.cumsum(valid, axis=1) - 1, -1)
    ids = d["tensor"] if spec.is_target else index
    mod = np.full(valid.shape, config.index(spec.name))
    return _Columns(ids, ids, mod, pos, valid, np.zeros(valid.shape, int))


def _target_columns(config: FourMConfig, spec: ModalitySpec, d: Mapping[str, np.ndarray]) -> _Columns:
    masked, ids, attention = d["target_mask"].astype(bool), d["tensor"], d["decoder_attention_mask"]
    mod = np.full(masked.shape, config.index(spec.name))
    if spec.kind is Kind.GRID:
        pos = np.broadcast_to(np.arange(masked.shape[1]), masked.shape)
        return _Columns(ids, np.full(masked.shape, -1), mod, pos, ~masked, attention)
    # The decoder reads a token and predicts the next one: columns are shifted by one below.
    rank = np.cumsum(~masked, axis=1) - 1
    # Past the table the reference falls back to its first row.
    pos = np.where(masked, -1, np.where(rank >= spec.max_tokens, 0, rank))
    return _Columns(
        ids[:, 1:], ids[:, :-1], mod[:, 1:], pos[:, :-1], ~(masked[:, 1:] | masked[:, :-1]), attention[:, :-1]
    )


def _keep(parts: Sequence[_Columns], budget: int, samples: int) -> _Columns:
    """Concatenate, put the valid ones first in order, cut to the budget, blank the rest."""
    if not parts:
        nothing = np.zeros((samples, 1), np.int64)
        parts = [_Columns(nothing, nothing, nothing, nothing, nothing.astype(bool), nothing)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in _FIELDS}
    # Stable, as the reference's argsort of mask + 1e-6 * place.
    order = np.argsort(~joined["valid"], axis=1, kind="stable")[:, :budget]
    kept = {name: np.take_along_axis(x, order, axis=1) for name, x in joined.items()}
    valid = kept["valid"]
    blank = {name: np.where(valid, kept[name], 0).astype(np.int32) for name in ("ids", "queries", "mod", "pos")}
    return _Columns(**blank, valid=valid, attention=kept["attention"])
