"""Several datasets as one: which of them each position of the global sequence comes from, and their row groups.

Like the order of one dataset (order.py) this is a pure function of (seed, position) with random access, so that a
blend resumes anywhere and is shared by any number of ranks. A dataset may lack modalities that others have (captions
alone, as C4 in 4M-21): its samples have none of their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...modalities import ModalitySpec
from ...tokenize.column_chunks import Cache
from .groups import RowGroup, ShardRows, TokenStore
from .order import Block, Order, Places, Visit

_BLEND_STREAM = 4  # after the streams 0 to 3 of order.py
BLOCK = 1_000  # positions of one lane in which each dataset has its exact share: the smallest share is 1 in 1,000


@dataclass(frozen=True)
class Dataset:
    """Columns of one root, and how often they are drawn.

    url: the folder of the columns, url/MODALITY/SHARD.parquet.
    modalities: names of those it has; of all others its samples have no tokens. Empty for all.
    weight: its share of the samples, in proportion.
    repeat: how often each of its samples comes in an epoch.
    mixtures: which mixtures of the masking are for its samples; None for all.
    """

    url: str
    shards: tuple[ShardRows, ...]
    weight: float = 1.0
    modalities: tuple[str, ...] = ()
    repeat: int = 1
    mixtures: range | None = None


class Stores:
    """The row groups of several datasets, numbered through: those of the first one come first. See `TokenStore`."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        specs: Sequence[ModalitySpec],
        tokenizers: dict[str, str] | None = None,
        cache_of: Callable[[str], Cache | None] = lambda url: None,
    ) -> None:
        pins = {} if tokenizers is None else tokenizers
        self.stores = [
            TokenStore(one.url, one.shards, specs, one.modalities, pins, cache_of(one.url)) for one in datasets
        ]
        # The first row group of each store in the common numbers, and the number of all at the end.
        self._first = np.cumsum([0, *(len(store.group_rows) for store in self.stores)])
        self.group_rows = tuple(rows for store in self.stores for rows in store.group_rows)

    def read(self, group: int, draws: np.ndarray) -> RowGroup:
        """See `TokenStore.read`."""
        which = int(np.searchsorted(self._first, group, side="right")) - 1
        return self.stores[which].read(group - int(self._first[which]), draws)


class Blend:
    """The sequence over several datasets; the same interface as `Order`.

    Args:
        orders: of each dataset, with the same number of lanes.
        weights: their shares, in proportion.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], seed: int) -> None:
        self.orders, self.seed, self.lanes = tuple(orders), seed, orders[0].lanes
        self.counts = _share_out(BLOCK, weights)
        if 0 in self.counts:
            low = [w for w, count in zip(weights, self.counts, strict=True) if not count]
            raise ValueError(f"train.datasets: the weights {low} are less than 1 sample in {BLOCK}; leave them out")
        self._first_group = np.cumsum([0, *(len(order.group_rows) for order in orders)])

    @property
    def epoch_size(self) -> int:
        """Positions of one epoch of all datasets together."""
        return sum(order.epoch_size for order in self.orders)

    def blocks(self, positions: np.ndarray) -> list[Block]:
        """See `Order.blocks`; every dataset has lanes of its own."""
        which, own = self.assign(positions)
        # Lane i * lanes + lane: blocks of different datasets are read and dropped independently of each other.
        return [
            Block(i * self.lanes + b.lane, b.number, frozenset((g + int(self._first_group[i]), e) for g, e in b.visits))
            for i in np.unique(which).tolist()
            for b in self.orders[i].blocks(own[which == i])
        ]

    def crops(self, visit: Visit) -> np.ndarray:
        """See `Order.crops`."""
        group, epoch = visit
        which = int(np.searchsorted(self._first_group, group, side="right")) - 1
        return self.orders[which].crops((group - int(self._first_group[which]), epoch))

    def locate(self, positions: np.ndarray) -> Places:
        """See `Order.locate`; row groups are numbered as in `Stores`, and each dataset has epochs of its own."""
        which, own = self.assign(positions)
        places = Places(*(np.empty_like(own) for _ in range(4)))
        for i in np.unique(which).tolist():
            here = which == i
            for whole, part in zip(places, self.orders[i].locate(own[here]), strict=True):
                whole[here] = part
        return places._replace(groups=places.groups + self._first_group[which])

    def assign(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The dataset of each position and its position in that dataset's own sequence: int64 (n,) each."""
        # Each lane has blocks of its own: a rank that reads a lane alone finds each dataset's share in it.
        lanes = positions % self.lanes
        blocks, places = np.divmod(positions // self.lanes, BLOCK)
        which, own = np.empty_like(positions), np.empty_like(positions)
        names, member = np.unique(np.stack([lanes, blocks]), axis=1, return_inverse=True)
        for i, (lane, block) in enumerate(names.T.tolist()):
            here = np.flatnonzero(member.reshape(-1) == i)
            of, nth = _block(self.counts, self.seed, lane, block)
            which[here] = of[places[here]]
            # The k-th position of a dataset in this lane is the k-th position of the same lane of its own sequence.
            # Every dataset has its own epochs, so that a small one with a large weight starts over more often.
            own[here] = (block * np.array(self.counts)[which[here]] + nth[places[here]]) * self.lanes + lane
        return which, own


@lru_cache(maxsize=256)
def _block(counts: tuple[int, ...], seed: int, lane: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place of a block its dataset, and how many places of the same one come before: int64 (BLOCK,) each."""
    rng = np.random.default_rng([seed, _BLEND_STREAM, lane, block])
    of = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    nth = np.empty(len(of), np.int64)
    # A stable sort lists the places of dataset 0 in their order, then those of dataset 1, ...
    nth[np.argsort(of, kind="stable")] = np.concatenate([np.arange(count) for count in counts])
    return of, nth


def _share_out(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """`total` in whole parts, in proportion to the weights (largest remainders)."""
    exact = np.array(weights, np.float64) * total / sum(weights)
    counts = np.floor(exact).astype(np.int64)
    # What rounding down left over goes to the largest fractional parts, on ties to the first.
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return tuple(counts.tolist())
