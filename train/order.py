"""The order of training: which sample stands at which position of the endless global sequence.

A pure function of (seed, position), with random access: resuming anywhere replays nothing, and how many processes
share the sequence does not change it. This format is called ORDER 2; changing it changes what a seed means.

- An epoch is every row `repeat` times. Its row groups come in a random order, different in each epoch.
- The epoch is cut into `lanes` of equal length; position p belongs to lane p % lanes, and rank r of w takes the
  positions with p % w == r. While the number of ranks divides the number of lanes, a rank's positions lie in lanes of
  its own, and it reads only its share of the data.
- Within a lane, blocks of `buffer_rows // lanes` neighbouring rows are shuffled: the shuffle buffer. A row appears all
  of its `repeat` times in one block, so that it is read once for all (4M repeats 4 times).
- Masks are drawn for `MASK_BLOCK` neighbouring positions of a lane at a time, from (seed, lane, block): many enough
  for NumPy to be fast, and the same whatever the batch size and the number of ranks. The blocks of the lanes begin one
  after the other, so that not all are due at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

# Streams of randomness below one seed; adding a stream changes no other.
_EPOCH_STREAM, _BLOCK_STREAM, _MASK_STREAM, _CROP_STREAM = range(4)

MASK_BLOCK = 256


@dataclass(frozen=True, eq=False)  # caches go by identity: hashing a million row groups takes milliseconds
class Order:
    """The sequence over row groups of the given sizes.

    group_rows: rows of each row group, in the order of the dataset; empty groups are allowed.
    seed: >= 0.
    lanes: how many processes can share the reading without reading anything twice.
    buffer_rows: rows that are shuffled at a time, over all lanes.
    repeat: how often a row comes in an epoch.
    """

    group_rows: tuple[int, ...]
    seed: int
    lanes: int = 8
    buffer_rows: int = 16_384
    repeat: int = 1

    def __post_init__(self) -> None:
        for name in ("lanes", "buffer_rows", "repeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"loader.{name}: got {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"loader.seed: got {self.seed}, expected at least 0")
        if sum(self.group_rows) < 1:
            raise ValueError("loader: the shards hold no samples; tokenize some first")

    @cached_property
    def epoch_size(self) -> int:
        """Positions of one epoch."""
        return sum(self.group_rows) * self.repeat

    @property
    def block_rows(self) -> int:
        """Rows of one lane that are shuffled at a time."""
        return max(1, self.buffer_rows // self.lanes)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row group and row within it, for positions int64 (n,) >= 0: int64 (n,) each."""
        epochs, rest = np.divmod(positions, self.epoch_size)
        lanes, within_lane = rest % self.lanes, rest // self.lanes
        blocks, within = np.divmod(within_lane, self.block_rows * self.repeat)
        groups, rows = np.empty_like(rest), np.empty_like(rest)
        # Positions of a batch lie in few blocks: one or two of each lane.
        names, member = np.unique(np.stack([epochs, lanes, blocks]), axis=1, return_inverse=True)
        for i, (epoch, lane, block) in enumerate(names.T.tolist()):
            here = np.flatnonzero(member.reshape(-1) == i)
            block_groups, block_rows = _block(self, epoch, lane, block)
            groups[here], rows[here] = block_groups[within[here]], block_rows[within[here]]
        return groups, rows


@lru_cache(maxsize=256)
def _block(order: Order, epoch: int, lane: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups and rows of one shuffled block."""
    share, more = divmod(order.epoch_size, order.lanes)
    begin = lane * share + min(lane, more)
    end = begin + share + (lane < more)
    size = order.block_rows * order.repeat
    first = begin + block * size
    rng = np.random.default_rng([order.seed, _BLOCK_STREAM, epoch, lane, block])
    rows = (first + rng.permutation(min(size, end - first))) // order.repeat
    permutation, ends = _epoch(order, epoch)
    which = np.searchsorted(ends, rows, side="right")
    return permutation[which], rows - np.concatenate([[0], ends])[which]


@lru_cache(maxsize=4)
def _epoch(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Row groups in their order of this epoch, and the number of rows up to and with each."""
    permutation = np.random.default_rng([order.seed, _EPOCH_STREAM, epoch]).permutation(len(order.group_rows))
    return permutation, np.cumsum(np.array(order.group_rows, np.int64)[permutation])


def deal(first: int, batch_size: int, rank: int, world: int) -> np.ndarray:
    """A rank's positions among first..first + batch_size - 1: int64 (batch_size / world,), ascending."""
    if batch_size < 1 or batch_size % world:
        raise ValueError(f"batch size {batch_size} cannot be dealt to {world} ranks; use a multiple of {world}")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not among 0..{world - 1}")
    return np.arange(first + (rank - first) % world, first + batch_size, world, dtype=np.int64)


def mask_blocks(positions: np.ndarray, lanes: int) -> list[tuple[int, int, np.ndarray]]:
    """(lane, block, which of `positions`, int64 (n,), are in it), ascending by lane and block."""
    of = positions % lanes
    numbers = (positions // lanes + _mask_offset(of, lanes)) // MASK_BLOCK
    names, member = np.unique(np.stack([of, numbers]), axis=1, return_inverse=True)
    return [(*name, np.flatnonzero(member.reshape(-1) == i)) for i, name in enumerate(names.T.tolist())]


def mask_block_positions(lane: int, block: int, lanes: int) -> np.ndarray:
    """All positions of a block, int64 (MASK_BLOCK,), fewer in a lane's first; every `lanes`-th, ascending."""
    begin = block * MASK_BLOCK - _mask_offset(lane, lanes)
    return np.arange(max(begin, 0), begin + MASK_BLOCK, dtype=np.int64) * lanes + lane


def mask_generator(seed: int, lane: int, block: int) -> np.random.Generator:
    """The randomness of the masks of a block."""
    return np.random.default_rng([seed, _MASK_STREAM, lane, block])


def _mask_offset(lane: Any, lanes: int) -> Any:
    return lane * MASK_BLOCK // lanes


def draw_crops(seed: int, positions: np.ndarray) -> np.ndarray:
    """A random number for each position, of which the crop is the remainder: uint64 (n,).

    SplitMix64 (Steele et al., 2014) of the position: a generator for each position would cost 20 microseconds.
    """
    start = np.random.default_rng([seed, _CROP_STREAM]).integers(0, 2**64, dtype=np.uint64)
    x = start + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
