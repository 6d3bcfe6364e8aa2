"""The order of training: which sample stands at which position of the endless global sequence.

A pure function of (seed, position), with random access: resuming anywhere replays nothing, and how many processes
share the sequence does not change it. Its format is numbered (`FORMAT`): changing it changes what a seed means.

- An epoch is every row `repeat` times. Its row groups come in a random order, different in each epoch.
- The epoch is cut into `lanes` of equal length; position p belongs to lane p % lanes, and rank r of w takes the
  positions with p % w == r.
- Within a lane, blocks of `buffer_rows // lanes` neighbouring rows are shuffled: the shuffle buffer.
- Masks follow from (seed, position) alone; crops from (seed, epoch, row group, turn), where a turn is one of the
  `repeat` times that a row comes in an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from .draws import GOLDEN, mix64

# Streams of randomness below one seed; adding a stream changes no other.
_EPOCH_STREAM, _BLOCK_STREAM, _MASK_STREAM, _CROP_STREAM = range(4)

FORMAT = 4  # in a run's fingerprint: a run that resumed under another order would see samples twice or never


class Places(NamedTuple):
    """Where samples are, int64 (n,) each: row group, row within it, epoch, turn (which of the `repeat` times it is)."""

    groups: np.ndarray
    rows: np.ndarray
    epochs: np.ndarray
    turns: np.ndarray


Visit = tuple[int, int]  # (row group, epoch): what is read at once, with the crops of that epoch


@dataclass(frozen=True)
class Block:
    """A shuffled block of a lane: its number, which only grows within the lane, and the row groups that it reads."""

    lane: int
    number: tuple[int, int]
    visits: frozenset[Visit]


@dataclass(frozen=True, eq=False)  # caches compare by identity: hashing a million row groups takes milliseconds
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

    def blocks(self, positions: np.ndarray) -> list[Block]:
        """The shuffled blocks that hold some positions, int64 (n,), and the row groups that these read from."""
        epochs, rest = np.divmod(positions, self.epoch_size)
        blocks = rest // self.lanes // (self.block_rows * self.repeat)
        # A lane of the sequence runs through the parts of the epochs in turn, if the lanes do not divide their size.
        names = np.unique(np.stack([positions % self.lanes, epochs, rest % self.lanes, blocks]), axis=1).T.tolist()
        return [Block(lane, (epoch, block), _visits(self, epoch, part, block)) for lane, epoch, part, block in names]

    def crops(self, visit: Visit) -> np.ndarray:
        """A random number for each turn of a row group in an epoch, of which the crop is the remainder: uint64
        (repeat,)."""
        group, epoch = visit
        # One number for a whole row group: all its samples show the same crops, so that only these are read from disk.
        return np.random.default_rng([self.seed, _CROP_STREAM, epoch, group]).integers(
            0, 2**63, self.repeat, dtype=np.uint64
        )

    def locate(self, positions: np.ndarray) -> Places:
        """Where the samples at some positions stand, int64 (n,) >= 0."""
        epochs, rest = np.divmod(positions, self.epoch_size)
        lanes, within_lane = rest % self.lanes, rest // self.lanes
        blocks, within = np.divmod(within_lane, self.block_rows * self.repeat)
        groups, rows, turns = (np.empty_like(rest) for _ in range(3))
        # Positions of a batch lie in few blocks: one or two of each lane.
        names, member = np.unique(np.stack([epochs, lanes, blocks]), axis=1, return_inverse=True)
        for i, (epoch, lane, block) in enumerate(names.T.tolist()):
            here = np.flatnonzero(member.reshape(-1) == i)
            groups[here], rows[here], turns[here] = (part[within[here]] for part in _block(self, epoch, lane, block))
        return Places(groups, rows, epochs, turns)


@lru_cache(maxsize=256)
def _block(order: Order, epoch: int, lane: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, rows and turns of one shuffled block."""
    # A lane is the positions of one remainder, and a contiguous part of the epoch: while the number of ranks divides
    # the number of lanes, a rank's positions lie in lanes of its own, and it reads only its share of the row groups.
    share, more = divmod(order.epoch_size, order.lanes)
    begin = lane * share + min(lane, more)
    end = begin + share + (lane < more)
    # All turns of a row are in one block, so that it is read once for all (4M repeats 4 times).
    size = order.block_rows * order.repeat
    first = begin + block * size
    rng = np.random.default_rng([order.seed, _BLOCK_STREAM, epoch, lane, block])
    rows, turns = np.divmod(first + rng.permutation(min(size, end - first)), order.repeat)
    permutation, ends = _epoch(order, epoch)
    which = np.searchsorted(ends, rows, side="right")
    return permutation[which], rows - np.concatenate([[0], ends])[which], turns


@lru_cache(maxsize=256)
def _visits(order: Order, epoch: int, lane: int, block: int) -> frozenset[Visit]:
    return frozenset((group, epoch) for group in np.unique(_block(order, epoch, lane, block)[0]).tolist())


@lru_cache(maxsize=4)
def _epoch(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Row groups in their order of this epoch, and the number of rows up to and with each."""
    permutation = np.random.default_rng([order.seed, _EPOCH_STREAM, epoch]).permutation(len(order.group_rows))
    return permutation, np.cumsum(np.array(order.group_rows, np.int64)[permutation])


def rank_positions(first: int, batch_size: int, rank: int, world: int) -> np.ndarray:
    """A rank's positions among first..first + batch_size - 1: int64 (batch_size / world,), ascending."""
    if batch_size < 1 or batch_size % world:
        raise ValueError(f"batch size {batch_size} does not divide among {world} ranks; use a multiple of {world}")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not among 0..{world - 1}")
    return np.arange(first + (rank - first) % world, first + batch_size, world, dtype=np.int64)


def mask_keys(seed: int, positions: np.ndarray) -> np.ndarray:
    """What the masks of the samples at some positions follow from: uint64 (n,), see draws.py."""
    start = np.random.default_rng([seed, _MASK_STREAM]).integers(0, 2**64, dtype=np.uint64)
    return mix64(start + positions.astype(np.uint64) * GOLDEN)
