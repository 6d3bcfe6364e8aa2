"""The batch of a step as its micro-batches, ready for the device: made in the loader's thread, beside the step before.

What the launching thread would do for a step, the device would wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from ...modalities import Kind
from ...model.batch import PackedBatch
from ...model.config import FourMConfig
from ...model.prepare import TargetGroups, check_batch, group_targets, only_shown
from ...model.unpadding import Unpadding
from ..flops import Lengths
from ..touched import Touched


@dataclass(frozen=True)
class Parts:
    """batches: consecutive samples, of one size. groups: their targets. unpaddings: of their inputs; None for an
    encoder that computes padding. keys, lengths: of all samples, without padding. rows: of `Touched`, None without."""

    batches: list[PackedBatch]
    groups: list[TargetGroups]
    unpaddings: Sequence[Unpadding | None]
    keys: list[str]
    lengths: Lengths
    rows: torch.Tensor | None = None


def parts_of(
    config: FourMConfig,
    parts: int,
    device: torch.device,
    unpad: bool = False,
    touched: Touched | None = None,
    asked: Iterable[str] | None = None,
) -> Callable[[PackedBatch], Parts]:
    """From a NumPy batch to so many parts; their number divides its samples. ValueError: see `check_batch`.

    Args:
        asked: the modalities that batches may have targets of; all outputs if None.
    """
    # Only from pinned memory a copy to a GPU goes on beside other work.
    pinned = device.type == "cuda"
    registers = config.num_register_tokens
    kinds = {config.spec(name).kind for name in (config.outputs if asked is None else asked)}
    # One way for all batches of a run: blocks are compiled once.
    grids = kinds == {Kind.GRID} and config.decoder_separate and not config.decoder_causal

    def make(batch: PackedBatch) -> Parts:
        check_batch(config, batch)
        pieces = [only_shown(config, piece) for piece in split(batch, parts)]
        # Counted on the host, from NumPy arrays: the step never waits for a number from the device.
        groups = [group_targets(piece, len(config.modalities)) for piece in pieces]
        unpaddings = [Unpadding.of(piece, registers, grids) if unpad else None for piece in pieces]
        lengths, rows = Lengths.of(batch, registers), None if touched is None else touched.rows(batch)
        if pinned:
            pieces, groups = [piece.pinned() for piece in pieces], [group.pinned() for group in groups]
            unpaddings = [one and one.pinned() for one in unpaddings]
            rows = None if rows is None else rows.pin_memory()
        return Parts(pieces, groups, unpaddings, batch.keys, lengths, rows)

    return make


def split(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """Consecutive samples as batches of their own, none copied; their number divides by `parts`."""
    size = batch.num_samples // parts
    return [batch.rows(i, i + size) for i in range(0, batch.num_samples, size)]
