"""A scene as plain values: things on a floor, a backdrop, lights, a camera. draw.py makes one, render.py shows it.

The world's frame: metres, x right, y up, the floor at y = 0; a camera without turn looks along -z. The camera's own
frame has x right, y up, z toward the viewer (OpenGL's), as labels of normals have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import kinds
from .solids import Half, Solid, solid

LIGHT_POINTS = 8  # of an area light; a penumbra has so many steps


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    id: its instance, from 1. size: a word of kinds.SIZES.
    second: the other colour of a pattern, "" for none.
    half: half extents in its own frame, metres. centre: (3,). rotation: (3, 3), from its frame to the world's.
    upright: whether its axis is vertical. support: the instance that it stands on, 0 for the floor.
    """

    id: int
    shape: str
    colour: str
    second: str
    material: str
    size: str
    half: Half
    centre: np.ndarray
    rotation: np.ndarray
    upright: bool = True
    support: int = 0

    @cached_property
    def solid(self) -> Solid:
        return solid(self.shape, self.half)

    @property
    def class_id(self) -> int:
        return kinds.CLASSES.index(self.shape)

    @property
    def look(self) -> kinds.Material:
        return kinds.MATERIALS[self.material]

    @property
    def colours(self) -> tuple[kinds.Colour, kinds.Colour]:
        """Linear RGB of both colours; twice the same without a pattern."""
        first = kinds.COLOURS[self.colour]
        return first, {"": first, "black": kinds.BLACK}.get(self.second) or kinds.COLOURS[self.second]

    def corners(self) -> np.ndarray:
        """The corners (3, 8) of its box, in the world."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]).T
        return self.centre[:, None] + self.rotation @ (signs * np.array(self.half)[:, None])


@dataclass(frozen=True)
class Surface:
    """The floor or a wall: the plane normal . x = offset, seen from the side to which `normal` points.

    `along` is a unit vector in the plane, the direction of its pattern; `cell` the pattern's size in metres.
    """

    class_id: int
    colour: str
    pattern: str
    normal: np.ndarray
    offset: float
    along: np.ndarray
    cell: float
    contrast: float


@dataclass(frozen=True)
class Light:
    """A ball of light: position (3,), radius in metres, linear RGB."""

    position: np.ndarray
    radius: float
    colour: np.ndarray

    @cached_property
    def points(self) -> np.ndarray:
        """float32 (3, LIGHT_POINTS), evenly over the ball's surface (a Fibonacci lattice)."""
        steps = np.arange(LIGHT_POINTS) + 0.5
        height, turn = 1 - 2 * steps / LIGHT_POINTS, steps * np.pi * (1 + 5**0.5)
        ring = np.sqrt(1 - height**2)
        ball = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)])
        return (self.position[:, None] + self.radius * ball).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole: position (3,), rotation (3, 3) from its frame to the world's, vertical field of view in radians."""

    position: np.ndarray
    rotation: np.ndarray
    field_of_view: float

    def focal(self, size: int) -> float:
        """Pixels, of an image of size x size."""
        return float(size / 2 / np.tan(self.field_of_view / 2))

    def project(self, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (2, n), x right and y down, (0, 0) the corner of the image, and depths (n,) of points (3, n)."""
        x, y, z = self.rotation.T @ (points - self.position[:, None])
        focal = self.focal(size)
        depth = np.where(np.abs(z) < 1e-9, 1e-9, -z)
        return np.stack([size / 2 + focal * x / depth, size / 2 - focal * y / depth]), -z

    def directions(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """float32 (3, n): rays through pixel positions (2, n), in the world, 1 long along the optical axis.

        So position + t direction has depth t.
        """
        focal = self.focal(size)
        x, y = (pixels[0] - size / 2) / focal, (size / 2 - pixels[1]) / focal
        rays = [row[0] * x + row[1] * y - row[2] for row in self.rotation]
        return np.stack(rays).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn. `key` is its name: a pure function of (seed, split, index)."""

    key: str
    seed: int
    split: str
    index: int
    things: tuple[Thing, ...]
    surfaces: tuple[Surface, ...]  # the floor first
    sky: kinds.Sky
    lights: tuple[Light, ...]
    ambient: float  # strength of the light of the sky
    camera: Camera

    @property
    def floor(self) -> Surface:
        return self.surfaces[0]

    @property
    def walls(self) -> tuple[Surface, ...]:
        return self.surfaces[1:]


def yaw(angle: float) -> np.ndarray:
    """Rotation (3, 3) about the vertical axis, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (3, 3), camera to world, of a level camera at `position` that looks at `target`."""
    back = position - target
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)
