"""From the tokens that masking chose to a `PackedBatch`: side by side, modality after modality, valid ones first.

Legend: B samples, N and M the largest numbers of input and target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...modalities import Kind, ModalitySpec
from ...model.batch import PackedBatch
from ..data import ragged


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
    shown, predicted = _Side(inputs, num_inputs), _Side(targets, num_targets)
    queries = [np.full(len(t.ids), -1, np.int32) if t.queries is None else t.queries for t in targets]
    # Decoder attention (4M): a grid's targets see each other; a text's targets see the ones before and themselves.
    causal = np.array([spec.kind is Kind.SEQUENCE for spec in specs] + [True])
    ends = predicted.spread(np.where(causal, 0, predicted.ends))
    own = np.arange(1, num_targets + 1, dtype=np.int32) * predicted.valid
    return PackedBatch(
        input_ids=shown.gather([piece.ids for piece in inputs]),
        input_mod=shown.mod,
        input_pos=shown.gather([piece.positions for piece in inputs]),
        input_valid=shown.valid,
        target_ids=predicted.gather([piece.ids for piece in targets]),
        query_ids=predicted.gather(queries),
        target_mod=predicted.mod,
        target_pos=predicted.gather([piece.positions for piece in targets]),
        target_end=np.where(ends > 0, ends, own),
        target_valid=predicted.valid,
    )


class _Side:
    """Where the tokens of one side go: each sample's are those of all modalities and then padding, S + 1 runs.

    counts, ends: int64 (B, S + 1), places of each run and where it ends.
    mod: int32 (B, width); valid: bool (B, width).
    """

    def __init__(self, chosen: Sequence[Chosen], width: int) -> None:
        given = np.stack([piece.counts for piece in chosen])
        used = given.sum(axis=0)
        assert used.max(initial=0) <= width
        self.width = width
        counts = np.vstack([given, width - used])
        self.counts = counts.T
        self.ends = np.cumsum(self.counts, axis=1)
        self.mod = self.spread(np.r_[: len(chosen), 0])
        self.valid = np.arange(width) < used[:, None]
        # `gather` reads tokens that lie modality after modality, followed by `width` zeros for the padding: one take()
        # for the whole batch, in place of a copy for each sample and modality.
        starts = ragged.exclusive_cumsum(counts.ravel()).reshape(counts.shape)
        starts[-1] = used.sum()  # where the zeros begin
        self._source = ragged.indices(starts.T.ravel(), self.counts.ravel()).reshape(-1, width)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value for each run, (S + 1,) or (B, S + 1), given to all its places: int32 (B, width)."""
        each = np.broadcast_to(values.astype(np.int32), self.counts.shape)
        return ragged.spread(each.ravel(), self.counts.ravel()).reshape(-1, self.width)

    def gather(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """Values of the tokens of each modality, put in place: int32 (B, width)."""
        flat = np.concatenate([*pieces, np.zeros(self.width, np.int32)], dtype=np.int32, casting="same_kind")
        return flat.take(self._source)
