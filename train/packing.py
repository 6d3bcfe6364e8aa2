"""From the tokens that masking chose to a `PackedBatch`: side by side, modality after modality, valid ones first.

Legend: B samples, N and M the largest numbers of input and target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..modalities import Kind, ModalitySpec
from ..model.batch import PackedBatch
from . import ragged


@dataclass(frozen=True)
class Chosen:
    """Tokens of one modality that were chosen for one side, sample by sample.

    counts: int64 (B,), tokens of each sample.
    ids, positions: integers, flat (sum of counts,); as in `PackedBatch`.
    queries: likewise, what the decoder reads; None for mask tokens.
    """

    counts: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    queries: np.ndarray | None = None


def pack(
    specs: Sequence[ModalitySpec],
    inputs: Sequence[Chosen],
    targets: Sequence[Chosen],
    num_inputs: int,
    num_targets: int,
) -> PackedBatch:
    """A batch at static shapes (B, num_inputs) and (B, num_targets), without `values` and `keys`.

    Args:
        inputs, targets: for each of `specs`, in their order; a sample's counts sum to no more than the width.
    """
    shown, predicted = _pack_side(inputs, num_inputs), _pack_side(targets, num_targets)
    queries, ends = (np.zeros_like(predicted.ids) for _ in range(2))
    for spec, piece, slots, used in zip(specs, targets, predicted.slots, predicted.used, strict=True):
        queries.reshape(-1)[slots] = -1 if piece.queries is None else piece.queries
        # A grid's targets all see each other; a text's see those before them and themselves.
        causal = spec.kind is Kind.SEQUENCE
        ends.reshape(-1)[slots] = slots % num_targets + 1 if causal else ragged.spread(used, piece.counts)
    return PackedBatch(
        input_ids=shown.ids,
        input_mod=shown.mod,
        input_pos=shown.position,
        input_valid=shown.valid,
        target_ids=predicted.ids,
        query_ids=queries,
        target_mod=predicted.mod,
        target_pos=predicted.position,
        target_end=ends,
        target_valid=predicted.valid,
    )


@dataclass(frozen=True)
class _Side:
    """Inputs or targets: int32 (B, width) each, `valid` bool. For each modality `slots`, the places of its tokens in
    the flattened arrays, and `used`, the places of each sample that are taken with it."""

    ids: np.ndarray
    mod: np.ndarray
    position: np.ndarray
    valid: np.ndarray
    slots: list[np.ndarray]
    used: list[np.ndarray]


def _pack_side(chosen: Sequence[Chosen], width: int) -> _Side:
    count = len(chosen[0].counts)
    ids, mod, position = (np.zeros((count, width), np.int32) for _ in range(3))
    slots, used = [], [np.zeros(count, np.int64)]
    for m, piece in enumerate(chosen):
        slots.append(ragged.indices(np.arange(count) * width + used[-1], piece.counts))
        used.append(used[-1] + piece.counts)
        ids.reshape(-1)[slots[-1]] = piece.ids
        mod.reshape(-1)[slots[-1]] = m
        position.reshape(-1)[slots[-1]] = piece.positions
    assert used[-1].max(initial=0) <= width
    return _Side(ids, mod, position, np.arange(width) < used[-1][:, None], slots, used[1:])
