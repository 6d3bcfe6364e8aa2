"""Areas, and the tiles that they are cut into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..geo.georeference import Georeference
from .files import Info


@dataclass(frozen=True)
class Area:
    """What is cut into tiles.

    georeference: of the grid's pixels, from its first tile on; None if it has none. first: column and row of the first
    tile among all of the grid. tiles: columns and rows of them. files: by layer.
    """

    name: str
    georeference: Georeference | None
    first: tuple[int, int]
    tiles: tuple[int, int]
    files: Mapping[str, tuple[Info, ...]]


@dataclass(frozen=True)
class Tile:
    """A tile of an area, by its number, and its column and row in it."""

    key: str
    area: int
    col: int
    row: int
