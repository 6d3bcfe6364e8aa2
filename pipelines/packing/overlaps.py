"""Which files of a layer belong to an area: looked up by name and by place, so that thousands of files and areas are no
million of comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..geo import georeference
from ..geo.georeference import Georeference
from .files import Info


class Listed:
    """The files of a layer. named: by the area that their name says. others: without one, in order."""

    def __init__(self, listed: Sequence[tuple[str, Info]]) -> None:
        self.named: dict[str, list[Info]] = {}
        self.others: list[Info] = []
        for area, info in listed:
            if area:
                self.named.setdefault(plain(area), []).append(info)
            else:
                self.others.append(info)
        self._systems: list[_System] | None = None

    def there(self, place: Georeference, width: int, height: int) -> list[Info]:
        """Those of `others` that show a raster of this size, in order. All of them have a georeference."""
        if self._systems is None:
            self._systems = list(_systems(self.others))
        found = [number for system in self._systems for number in system.there(place, width, height)]
        return [self.others[number] for number in sorted(found)]


def plain(name: str) -> str:
    """The name of an area, as keys have it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


@dataclass
class _System:
    """The files of one coordinate system: their numbers, and their bounds in it, (files, 4): least and largest x, least
    and largest y. Those of a turned raster are infinite, since its pixels may begin outside of them."""

    crs: str
    numbers: list[int]
    infos: list[Info]
    bounds: np.ndarray

    def there(self, place: Georeference, width: int, height: int) -> Iterator[int]:
        outline = georeference.outline(place, width, height, self.crs)
        x, y = outline
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return
        left, right, below, above = self.bounds.T
        near = (left <= x.max()) & (right >= x.min()) & (below <= y.max()) & (above >= y.min())
        for one in np.flatnonzero(near):
            info = self.infos[one]
            assert info.georeference is not None
            if georeference.window_of(info.georeference, info.shape[1:], outline, 0) is not None:
                yield self.numbers[one]


def _systems(infos: Sequence[Info]) -> Iterator[_System]:
    by_crs: dict[str, list[int]] = {}
    for number, info in enumerate(infos):
        assert info.georeference is not None
        by_crs.setdefault(info.georeference.crs, []).append(number)
    for crs, numbers in by_crs.items():
        of = [infos[number] for number in numbers]
        yield _System(crs, numbers, of, np.array([_bounds(one) for one in of]))


def _bounds(info: Info) -> tuple[float, float, float, float]:
    assert info.georeference is not None
    _, b, _, d, _, _ = info.georeference.transform
    if b or d:
        return -np.inf, np.inf, -np.inf, np.inf
    x, y = info.georeference.points(np.array([0.0, info.shape[2]]), np.array([0.0, info.shape[1]]))
    return float(x.min()), float(x.max()), float(y.min()), float(y.max())
