"""The split by place: squares of tiles, called blocks, are of training, validation or test by a hash of their place.

A tile is of validation if it lies in blocks of validation alone, and of training if it does so together with the guard
around it; others are left out. Blocks are of the ground, not of files: of two files that overlap, the same place is in
one split.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...tokenize.crops import hashed_uniforms
from ..geo import georeference
from ..geo.georeference import Georeference
from .settings import Pack, Split
from .tiles import Area, Tile

EQUAL_AREA = "EPSG:6933"  # metres, in which blocks of areas of several systems lie
_EDGE = 1e-6  # of a block, by which neighbours may touch
SPLITS = ("train", "val", "test")


class Block(NamedTuple):
    """So many tiles in both directions; `of` is the area where areas have no place, "" where all lie in one system."""

    of: str
    col: int
    row: int


class Extent(NamedTuple):
    """Where a tile lies, in sides of a block."""

    of: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def block(self) -> Block:
        """The one that its middle is in."""
        return Block(self.of, math.floor((self.left + self.right) / 2), math.floor((self.top + self.bottom) / 2))

    def touched(self, guard: float) -> Iterator[Block]:
        """All that it reaches into, with a guard around it."""
        for row in range(math.floor(self.top - guard + _EDGE), math.ceil(self.bottom + guard - _EDGE)):
            for col in range(math.floor(self.left - guard + _EDGE), math.ceil(self.right + guard - _EDGE)):
                yield Block(self.of, col, row)


@dataclass(frozen=True)
class Splits:
    """shards: names -> tiles. left_out: tiles in no shard, by reason."""

    shards: Mapping[str, tuple[Tile, ...]]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def split(pack: Pack, areas: Sequence[Area], tiles: Sequence[Tile]) -> Splits:
    """The shards of all tiles. ValueError if none would be of training, or of a split that is asked for."""
    extents = _extents(pack, areas, tiles)
    blocks = _assigned(pack.split, pack.seed, sorted({extent.block for extent in extents}))
    guard = pack.split.guard / pack.split.block
    chosen: dict[str, list[tuple[Block, Tile]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for tile, extent in zip(tiles, extents, strict=True):
        # Blocks without any tile are of no split.
        found = {blocks[one] for one in extent.touched(0.0) if one in blocks}
        if found == {"train"}:
            found |= {blocks[one] for one in extent.touched(guard) if one in blocks}
        if len(found) == 1:
            chosen[found.pop()].append((extent.block, tile))
        else:
            left_out["at the edge between splits"] += 1
    asked = [name for name in SPLITS if name == "train" or getattr(pack.split, name)]
    for name in asked:
        if not chosen[name]:
            raise ValueError(
                f"split: of {len(tiles)} tiles in {len(blocks)} blocks none is left for {name}; give a smaller "
                "split.block or split.guard, or other shares"
            )
    shards = {name: some for one in asked for name, some in _shards(pack, one, chosen[one])}
    count = Counter(blocks.values())
    return Splits(shards, left_out, tuple(f"{count[one]} of {len(blocks)} blocks are of {one}" for one in asked[1:]))


def _shards(pack: Pack, name: str, tiles: Sequence[tuple[Block, Tile]]) -> Iterator[tuple[str, tuple[Tile, ...]]]:
    """Blocks are mixed over shards, and tiles within a shard: neither is in the order of the ground."""
    order = {block: hashed_uniforms(1, "order", pack.seed, *block)[0] for block, _ in tiles}
    listed = [tile for _, tile in sorted(tiles, key=lambda one: (order[one[0]], one[0], one[1].key))]
    for number, first in enumerate(range(0, len(listed), pack.shard_size)):
        some = listed[first : first + pack.shard_size]
        mixed = sorted(some, key=lambda tile: (hashed_uniforms(1, "tile", pack.seed, tile.key)[0], tile.key))
        yield f"{name}-{number:05d}", tuple(mixed)


def _assigned(shares: Split, seed: int, blocks: Sequence[Block]) -> dict[Block, str]:
    """The split of each block, by its hash alone; but a split that none falls into has one that is near."""
    drawn = {block: hashed_uniforms(1, "split", seed, *block)[0] for block in blocks}
    assigned = {
        block: "val" if one < shares.val else "test" if one < shares.val + shares.test else "train"
        for block, one in drawn.items()
    }
    if "train" not in assigned.values():
        assigned[max(blocks, key=lambda block: (drawn[block], block))] = "train"
    for name in ("val", "test"):
        if getattr(shares, name) and name not in assigned.values():
            free = [block for block in blocks if assigned[block] == "train"]
            if len(free) > 1:
                assigned[min(free, key=lambda block: (drawn[block], block))] = name
    return assigned


def _extents(pack: Pack, areas: Sequence[Area], tiles: Sequence[Tile]) -> list[Extent]:
    """Where each tile lies: on the grid of the first area if all have its system, else on one of equal area; of areas
    without a georeference in themselves."""
    placed = [area.georeference for area in areas if area.georeference is not None]
    height, width = pack.tile
    tall, wide = (float(side * pack.split.block) for side in pack.tile)
    common: Georeference | None = None
    if placed and len(placed) == len(areas):
        common = placed[0]
        if any(one.crs != common.crs for one in placed):
            common = _equal_area(common, max(pack.tile))
    found = []
    for tile in tiles:
        area = areas[tile.area]
        cols = (tile.col + np.array([0.0, 1.0, 1.0, 0.0])) * width
        rows = (tile.row + np.array([0.0, 0.0, 1.0, 1.0])) * height
        if common is not None:
            assert area.georeference is not None
            points = area.georeference.points(cols, rows)
            cols, rows = common.pixels(*georeference.transformed(*points, area.georeference.crs, common.crs))
        of = "" if common is not None else area.name
        ends = (cols.min() / wide, rows.min() / tall, cols.max() / wide, rows.max() / tall)
        found.append(Extent(of, *map(float, ends)))
    return found


def _equal_area(first: Georeference, size: int) -> Georeference:
    """A grid of metres whose pixels are about as large as those of an area."""
    x, y = georeference.transformed(*first.points(np.array([0.0, 1.0, 0.0]) * size, np.array([0.0, 0.0, 1.0]) * size),
                                    first.crs, EQUAL_AREA)  # fmt: skip
    step = float(np.hypot(x[1] - x[0], y[1] - y[0]) + np.hypot(x[2] - x[0], y[2] - y[0])) / 2 / size
    return Georeference(EQUAL_AREA, (step, 0.0, 0.0, 0.0, -step, 0.0))
