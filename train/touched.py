"""Rows of the encoder's table of tokens, exchanged between workers that have all of it (DDP): each row has one owner.

The backward pass makes this table's gradient last, when no work is left to hide its exchange, and it is a third of
4M-21 B's; a worker's inputs touch a few percent of its rows. So before a step each worker asks the owners for the rows
that its inputs touch, and after the backward pass it sends them these rows' gradients, which they sum. Only the rows of
its own are then right on a worker, and those it has asked for: `make_whole` has all of them sent to all.

Legend: R rows, W workers, C rows that a step may touch of one owner's, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..model.batch import PackedBatch
from ..model.fourm import FourM

TABLE = "encoder_embeddings.tokens"
_PART = 1 << 16  # rows that `make_whole` gathers at a time


def most_of_an_owner(rows: int, inputs: int, world: int) -> int:
    """C: how many rows of one owner's a step may touch on a worker.

    Messages are of one size, so that nobody waits for the sizes of others. Owners are drawn: what falls to one of them
    is more than this once in 10^18 draws (Bernstein's inequality, which holds for draws without replacement).

    Args:
        rows: of the table. inputs: of a worker's step.
    """
    touched = min(inputs + 1, rows)
    mean, log = touched / world, 18 * math.log(10)
    return min(touched, -(-rows // world), math.ceil(mean + log / 3 + math.sqrt(log * log / 9 + 2 * mean * log)))


def pays(rows: int, inputs: int, world: int) -> bool:
    """Whether rows of a table are exchanged; see `most_of_an_owner`.

    An all-reduce moves each row twice; of rows both values and gradients are sent.
    """
    return 1 < world <= rows and world * most_of_an_owner(rows, inputs, world) < rows


class Touched:
    """What a worker touches of the encoder's table, and what it owns.

    Args:
        model: the same on every worker.
        inputs: of a worker's step, padding included.
        rank: of the worker, of `world`.
    """

    def __init__(self, model: FourM, inputs: int, rank: int, world: int) -> None:
        self._table, self._world = model.encoder_embeddings.tokens, world
        self._most = most_of_an_owner(len(self._table), inputs, world)
        self._has_id = model.input_has_id.cpu().numpy()
        self._offset = model.encoder_embeddings.token_offset.cpu().numpy()
        # Drawn: neighbours, such as a modality's ids, are not of one owner.
        owned = np.array_split(np.random.default_rng(world).permutation(len(self._table)), world)
        self._first = np.array([rows[0] for rows in owned])
        self._owner = np.empty(len(self._table), np.int64)
        for worker, rows in enumerate(owned):
            self._owner[rows] = worker
        # As many of each, for one gather: an owner of fewer has its first once more.
        equal = np.stack([np.resize(rows, len(owned[0])) for rows in owned])
        self._owned, self._rank = torch.from_numpy(equal).to(self._table.device), rank
        self._sent: Tensor | None = None
        self._asked: Tensor | None = None
        self._whole = True

    def rows(self, batch: PackedBatch) -> Tensor:
        """The rows of a NumPy batch by their owners: int64 (W, C), each once, then the first of the owner's again.

        RuntimeError if they are more than C of one owner.
        """
        ids, mod, valid = (np.asarray(x) for x in (batch.input_ids, batch.input_mod, batch.input_valid))
        read = valid & self._has_id[mod]
        # Where there is no id row 0 is read.
        found = np.union1d([0], self._offset[mod[read]] + ids[read])
        owner = self._owner[found]
        order, counts = np.argsort(owner, kind="stable"), np.bincount(owner, minlength=self._world)
        if counts.max() > self._most:
            raise RuntimeError(
                f"the inputs of a step touch {counts.max()} rows of the encoder's table that are one worker's, "
                f"expected at most {self._most}; which rows are whose depends on the number of workers: train on "
                "another number of them"
            )
        place = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(self._first[:, None], self._most, axis=1)
        rows[owner[order], place] = found[order]
        rows = np.where(np.arange(self._most) < counts[:, None], rows, rows[:, :1])
        return torch.from_numpy(rows)

    @torch.no_grad()
    def pull(self, rows: Tensor) -> None:
        """Before a step: have the rows that it touches as their owners have them."""
        self._sent = rows.to(self._table.device, non_blocking=True)
        self._asked = torch.empty_like(self._sent)
        dist.all_to_all_single(self._asked, self._sent)
        if not self._whole:
            values = self._table.index_select(0, self._asked.flatten())
            got = torch.empty_like(values)
            dist.all_to_all_single(got, values)
            self._table.index_copy_(0, self._sent.flatten(), got)

    @torch.no_grad()
    def push(self) -> None:
        """After the backward pass: make the table's gradient, of this worker's rows, the mean over all workers; that
        of all other rows is 0."""
        grad, sent, asked = self._table.grad, self._sent, self._asked
        assert grad is not None and sent is not None and asked is not None
        again = sent == sent[:, :1]
        again[:, 0] = False
        # Divided before the sum, as DDP does.
        values = (grad.index_select(0, sent.flatten()) / self._world).masked_fill_(again.view(-1, 1), 0)
        got = torch.empty_like(values)
        dist.all_to_all_single(got, values)
        grad.zero_()
        # One worker after the other: each has a row once, so that the sum does not depend on a GPU's threads.
        for row, value in zip(asked, got.view(*asked.shape, -1), strict=True):
            grad.index_add_(0, row, value)
        self._whole = False

    @torch.no_grad()
    def norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """The norm of all gradients, of which the table's is shared among the workers."""
        mine = self._table.grad
        assert mine is not None
        squares = torch.linalg.vector_norm(mine).square()
        dist.all_reduce(squares)
        rest = torch.nn.utils.get_total_norm([grad for grad in gradients if grad is not mine])
        return (rest.square() + squares).sqrt()

    @torch.no_grad()
    def make_whole(self, tables: Iterable[Tensor]) -> None:
        """Have all rows on all workers as their owners have them, of the table and what belongs to its rows (R, D).

        All workers must call it.
        """
        if self._whole:
            return
        for table in tables:
            for rows in torch.split(self._owned, max(1, _PART // self._world), dim=1):
                mine = table.index_select(0, rows[self._rank])
                got = mine.new_empty(rows.numel(), mine.shape[1])
                dist.all_gather_into_tensor(got, mine)
                table.index_copy_(0, rows.flatten(), got)
        self._whole = True
