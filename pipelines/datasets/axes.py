"""Which way the axes of a data set's normals point: found by its depth, since data sets seldom say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

_FOCAL = 0.85  # of the width: between Kinect's and DIODE's. The signs of normals do not depend on it
_AGREED = 0.5  # least mean cosine between normals and those that follow from depth


@dataclass(frozen=True)
class Axes:
    """Where x right, y up and z toward the viewer are in a file's vectors, with their signs.

    agreement: mean cosine with the normals that follow from depth.
    """

    places: tuple[int, int, int]
    signs: tuple[int, int, int]
    agreement: float

    def turned(self, normals: np.ndarray) -> np.ndarray:
        """Vectors (..., 3) of the file, with axes as fourmill has them."""
        return normals[..., list(self.places)] * np.array(self.signs, normals.dtype)

    def __str__(self) -> str:
        names = ("x", "y", "z")
        there = (("-" if sign < 0 else "") + names[place] for place, sign in zip(self.places, self.signs, strict=True))
        return f"right, up, toward the viewer are {', '.join(there)} of the files"


def of_depth(depth: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3) of distances along the optical axis (H, W): x right, y up, z toward the viewer.

    NaN at borders, and where a neighbour has no distance.
    """
    height, width = depth.shape
    focal = _FOCAL * width
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (height / 2 - np.arange(height) - 0.5) / focal
    places = np.stack([x[None] * depth, y[:, None] * depth, -depth], -1).astype(np.float64)
    across = np.full_like(places, np.nan)
    down = across.copy()
    across[:, 1:-1], down[1:-1] = places[:, 2:] - places[:, :-2], places[2:] - places[:-2]
    normal = np.cross(down, across)
    with np.errstate(invalid="ignore", divide="ignore"):
        return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def find(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> Axes:
    """The order and signs of axes by which normals agree best with depth.

    Args:
        samples: depth (H, W), NaN where unknown, and unit vectors (H, W, 3), (0, 0, 0) where unknown.

    Raises:
        ValueError: they agree by none, or no sample has both.
    """
    products, count = np.zeros((3, 3)), 0
    for depth, given in samples:
        expected = of_depth(depth)
        known = np.isfinite(expected).all(-1) & given.any(-1)
        products += expected[known].T @ given[known].astype(np.float64)
        count += int(known.sum())
    if not count:
        raise ValueError("normals: no pixel has both a normal and a depth, by which their axes would be found")
    best = max(permutations(range(3)), key=lambda places: sum(abs(products[i, j]) for i, j in enumerate(places)))
    signs = tuple(-1 if products[i, j] < 0 else 1 for i, j in enumerate(best))
    agreement = sum(abs(products[i, j]) for i, j in enumerate(best)) / count
    if agreement < _AGREED:
        raise ValueError(
            f"normals: they agree with the depth by no order of axes (mean cosine {agreement:.2f}); are both of the "
            "same images, and in the frame of the camera?"
        )
    return Axes((best[0], best[1], best[2]), (signs[0], signs[1], signs[2]), agreement)
