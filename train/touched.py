"""Gradients of the encoder's table of tokens, exchanged between workers as the rows that a step has touched.

The backward pass makes this gradient last, when no work is left to hide its exchange, and it is a third of 4M-21 B's; a
worker's inputs touch a few percent of its rows. Each worker sends its own; where all of them together are more than an
all-reduce moves, DDP does it as for all else.

Legend: K rows that a step may touch on a worker, W workers, D width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..model.batch import PackedBatch
from ..model.fourm import FourM

TABLE = "encoder_embeddings.tokens"


def pays(rows: int, inputs: int, world: int, device: str) -> bool:
    """Whether workers exchange touched rows of a table of so many.

    Args:
        inputs: of a worker's step.
    """
    # On CPUs losses stay as they were: sums of two are the same in any order.
    return 1 < world <= (2 if device == "cpu" else world) and world * (inputs + 1) < 2 * rows


class Touched:
    """What a worker touches of the encoder's table, and sends.

    Args:
        inputs: of a worker's step, padding included.
    """

    def __init__(self, model: FourM, inputs: int, world: int) -> None:
        self._table, self._most, self._world = model.encoder_embeddings.tokens, inputs + 1, world
        self._has_id = model.input_has_id.cpu().numpy()
        self._offset = model.encoder_embeddings.token_offset.cpu().numpy()

    def rows(self, batch: PackedBatch) -> Tensor:
        """The rows of a NumPy batch: int64 (K,), each once in ascending order, row 0 first, and as often as is left."""
        ids, mod, valid = (np.asarray(x) for x in (batch.input_ids, batch.input_mod, batch.input_valid))
        read = valid & self._has_id[mod]
        rows = np.zeros(self._most, np.int64)
        # Where there is no id row 0 is read.
        found = np.union1d([0], self._offset[mod[read]] + ids[read])
        rows[: len(found)] = found
        return torch.from_numpy(rows)

    @torch.no_grad()
    def exchange(self, rows: Tensor) -> None:
        """Make the table's gradient the mean over all workers, each of which has touched `rows` of its own."""
        grad = self._table.grad
        assert grad is not None
        rows = rows.to(grad.device, non_blocking=True)
        first = torch.arange(len(rows), device=grad.device) == 0
        # Divided before the sum, as DDP does.
        values = torch.where(((rows > 0) | first)[:, None], grad.index_select(0, rows) / self._world, 0)
        all_rows = rows.new_empty(self._world * len(rows))
        all_values = values.new_empty(self._world * len(rows), values.shape[1])
        dist.all_gather_into_tensor(all_rows, rows)
        dist.all_gather_into_tensor(all_values, values)
        grad.zero_()
        # One worker after the other: each has a row once, so that the sum does not depend on a GPU's threads.
        for row, value in zip(all_rows.chunk(self._world), all_values.chunk(self._world), strict=True):
            grad.index_add_(0, row, value)
