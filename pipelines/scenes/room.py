"""A room whose every wall has a known normal: what shows a mirrored axis, which a picture of a street may hide.

The camera looks level along the room. In its frame (x right, y up, z toward the viewer) the floor faces up, the ceiling
down, the wall on the left faces right, the one on the right left, and the one at the end the viewer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from . import kinds
from .render import Rendered, render
from .world import Camera, Light, Scene, Surface, Thing, yaw

_WIDTH, _HEIGHT, _END, _EYE = 4.4, 2.7, -2.2, 1.45  # metres; the wall at the end is at z = _END
_STRAIGHT = 0.99  # cosine with a wall's normal, of its pixels


@dataclass(frozen=True)
class Wall:
    """One side of the room: its name, its unit normal in the camera's frame, and bool (H, W), where it is seen."""

    name: str
    normal: tuple[int, int, int]
    seen: np.ndarray


@dataclass(frozen=True)
class Room:
    """The room as a picture with its truth, and its sides."""

    rendered: Rendered
    walls: tuple[Wall, ...]


# Name: (normal, offset of its plane, colour, pattern).
_SIDES: dict[str, tuple[tuple[int, int, int], float, str, str]] = {
    "floor": ((0, 1, 0), 0.0, "brown", "planks"),
    "ceiling": ((0, -1, 0), -_HEIGHT, "beige", "plain"),
    "left wall": ((1, 0, 0), -_WIDTH / 2, "pale blue", "stripes"),
    "right wall": ((-1, 0, 0), -_WIDTH / 2, "pale blue", "stripes"),
    "facing wall": ((0, 0, 1), _END, "beige", "panels"),
}


@functools.cache
def room(size: int = 448) -> Room:
    """The room at size x size pixels: always the same."""
    surfaces = tuple(_surface(*side) for side in _SIDES.values())
    lights = (
        Light(np.array([-0.5, 2.3, 0.3]), 0.12, np.array([2.4, 2.3, 2.1])),
        Light(np.array([0.9, 2.2, 2.6]), 0.12, np.array([1.2, 1.2, 1.2])),
    )
    camera = Camera(np.array([0.25, _EYE, 3.0]), np.eye(3), float(np.radians(72)))
    scene = Scene("room", 0, "probe", 0, _things(), surfaces, kinds.SKIES[0], lights, 0.5, camera)
    rendered = render(scene, size)
    bare, normals = rendered.instances == 0, rendered.normal.astype(np.float32)
    walls = tuple(
        Wall(name, normal, bare & (normals @ np.array(normal, np.float32) > _STRAIGHT))
        for name, (normal, *_) in _SIDES.items()
    )
    return Room(rendered, walls)


def _surface(normal: tuple[int, int, int], offset: float, colour: str, pattern: str) -> Surface:
    along = np.array([0.0, 0.0, 1.0] if normal[2] == 0 else [1.0, 0.0, 0.0])
    class_id = kinds.FLOOR if normal[1] == 1 else kinds.WALL
    return Surface(class_id, colour, pattern, np.array(normal, float), offset, along, 0.5, 0.35)


def _things() -> tuple[Thing, ...]:
    """Furniture: models that know rooms look for it."""
    box = Thing(1, "box", "red", "", "matte", "large", (0.55, 0.4, 0.4), np.array([-1.1, 0.4, -0.9]), yaw(0.3))
    ball = Thing(2, "ball", "yellow", "", "shiny", "medium", (0.3, 0.3, 0.3), np.array([1.15, 0.3, -0.4]), np.eye(3))
    return box, ball
