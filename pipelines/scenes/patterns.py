"""Patterns of two colours on things, and of two shades on floors and walls, as functions of a place on the surface."""

from __future__ import annotations

import numpy as np

from .solids import dot
from .world import Surface, Thing

_INSIDE = np.float32(0.995)  # a face of a box lies on a border of its checks: look a little below it
_FADE = 14.0  # metres; beyond, a pattern is finer than pixels


def second_colour(thing: Thing, place: np.ndarray) -> np.ndarray:
    """Where a thing has its second colour, bool (n,), of places float32 (3, n) in its frame."""
    half = np.array(thing.half, np.float32)[:, None]
    inner = place * _INSIDE
    if thing.look.pattern == "stripes":
        bands = 5 if half[1, 0] > 0.8 * half[0, 0] else 3
        return np.floor((inner[1] / half[1] + 1) / 2 * bands) % 2 == 1
    cells = np.maximum(np.round(half / half.min() * 3 / 2) * 2, 2)  # even, nearly cubes
    checks = np.floor((inner / half + 1) / 2 * cells)
    return (checks[0] + checks[1] + checks[2]) % 2 == 1


def shade(surface: Surface, place: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Factor float32 (n,) on the colour of a floor or wall at places (3, n) of the world, `distance` (n,) away."""
    if surface.pattern == "plain":
        return np.ones(place.shape[1], np.float32)
    along = surface.along.astype(np.float32)[:, None]
    across = np.cross(surface.normal, surface.along).astype(np.float32)[:, None]
    u, v = dot(along, place) / np.float32(surface.cell), dot(across, place) / np.float32(surface.cell)
    dark = _PATTERNS[surface.pattern](u, v)
    near = np.exp(-((distance / np.float32(_FADE)) ** 2))
    return 1 - np.float32(surface.contrast) * near * dark


def _checker(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)


def _tiles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Thin dark joints between light tiles."""
    return ((u % 1 < 0.07) | (v % 1 < 0.07)).astype(np.float32)


def _planks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Long boards, each of a tone of its own, the joints of neighbours in different places."""
    row = np.floor(v * 2)
    board = np.floor(u / 4 + row * np.float32(0.382))
    tone = np.abs(np.sin(row * np.float32(12.9898) + board * np.float32(78.233))) * np.float32(0.6)
    joint = ((v * 2) % 1 < 0.08) | ((u / 4 + row * np.float32(0.382)) % 1 < 0.02)
    return np.where(joint, np.float32(1), tone)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 1 < 0.5).astype(np.float32)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v * 2)
    column = u + row * np.float32(0.5)
    tone = np.abs(np.sin(row * np.float32(12.9898) + np.floor(column) * np.float32(78.233))) * np.float32(0.35)
    joint = ((v * 2) % 1 < 0.14) | (column % 1 < 0.07)
    return np.where(joint, np.float32(1), tone)


def _panels(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((u % 2 < 0.08) | (v % 3 < 0.08)).astype(np.float32)


_PATTERNS = {
    "checker": _checker,
    "tiles": _tiles,
    "planks": _planks,
    "stripes": _stripes,
    "bricks": _bricks,
    "panels": _panels,
}
