"""Casts rays at a scene: what each of them meets first, and which points a light does not reach.

Each thing is tried only with the rays that may meet it: those within its projected box for rays of the camera, those
that pass its bounding ball for all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .solids import dot, rotate
from .world import LIGHT_POINTS, Light, Scene, Thing

FAR = 60.0  # metres along the optical axis, where the floor ends
NEAR = 0.02
_CLOSEST = np.float32(1e-4)  # of a ray from a surface


@dataclass
class Hits:
    """What n rays meet first.

    t: float32 (n,), of origin + t direction; inf for the sky.
    what: int16 (n,): the instance of a thing from 1, 0 the sky, -1 the floor, -2 and -3 walls.
    face: int8 (n,), of a thing.
    covered: int (things + 1,): rays that meet a thing, whether or not something stands before it, by instance.
    """

    t: np.ndarray
    what: np.ndarray
    face: np.ndarray
    covered: np.ndarray


@dataclass(frozen=True)
class View:
    """The camera's rays through pixel positions float64 (2, n) of an image of size x size."""

    scene: Scene
    size: int
    pixels: np.ndarray

    def window(self, thing: Thing) -> np.ndarray:
        """Indices of the rays that may meet a thing: those within the projection of its box."""
        corners, depth = self.scene.camera.project(thing.corners(), self.size)
        if depth.min() < NEAR:  # beside the camera or behind it
            return np.arange(self.pixels.shape[1])
        (left, top), (right, bottom) = corners.min(axis=1) - 0.01, corners.max(axis=1) + 0.01
        x, y = self.pixels
        return np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))

    def trace(self) -> tuple[np.ndarray, np.ndarray, Hits]:
        """Origins (3, 1) and directions (3, n) of the rays, float32, and what they meet: t is the depth in metres."""
        camera = self.scene.camera
        origin = camera.position.astype(np.float32)[:, None]
        direction = camera.directions(self.pixels, self.size)
        windows = [self.window(thing) for thing in self.scene.things]
        return origin, direction, _trace(self.scene, origin, direction, windows, FAR)


def trace(scene: Scene, origin: np.ndarray, direction: np.ndarray) -> Hits:
    """What rays meet that start anywhere, float32 (3, n) both; directions have length 1."""
    windows = [np.flatnonzero(_passes(thing, origin, direction)) for thing in scene.things]
    return _trace(scene, origin, direction, windows, FAR)


def _trace(scene: Scene, origin: np.ndarray, direction: np.ndarray, windows: list[np.ndarray], far: float) -> Hits:
    count = direction.shape[1]
    t, what = np.full(count, np.float32(far)), np.zeros(count, np.int16)
    face, covered = np.zeros(count, np.int8), np.zeros(len(scene.things) + 1, np.int64)
    for number, surface in enumerate(scene.surfaces, 1):
        normal = surface.normal.astype(np.float32)[:, None]
        slope = dot(normal, direction)
        distance = (np.float32(surface.offset) - dot(normal, origin)) / np.where(slope < 0, slope, np.float32(-1e-12))
        nearer = (slope < 0) & (distance > 0) & (distance < t)  # seen from its front only
        t, what = np.where(nearer, distance, t), np.where(nearer, np.int16(-number), what)
    for thing, rows in zip(scene.things, windows, strict=True):
        if not len(rows):
            continue
        local_t, local_face = thing.solid.intersect(*_local(thing, origin, direction, rows))
        covered[thing.id] = np.count_nonzero(np.isfinite(local_t))
        nearer = local_t < t[rows]
        rows = rows[nearer]
        t[rows], what[rows], face[rows] = local_t[nearer], thing.id, local_face[nearer]
    t[what == 0] = np.inf
    return Hits(t, what, face, covered)


def _local(thing: Thing, origin: np.ndarray, direction: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays in the frame of a thing, (3, len(rows)) both."""
    offset = thing.centre.astype(np.float32)[:, None]
    start = rotate(thing.rotation.T, (origin if origin.shape[1] == 1 else origin[:, rows]) - offset)
    along = rotate(thing.rotation.T, direction[:, rows])
    return np.broadcast_to(start, along.shape), along


def _passes(thing: Thing, origin: np.ndarray, direction: np.ndarray, widening: np.ndarray | float = 0.0) -> np.ndarray:
    """Whether each cone of rays, of unit direction, meets the ball around a thing.

    widening: by how much a cone's radius grows on a metre; 0 for a ray.
    """
    to_centre = thing.centre.astype(np.float32)[:, None] - origin
    along = dot(to_centre, direction)
    radius = np.float32(thing.solid.radius)
    reach = radius + widening * (np.maximum(along, 0) + radius)
    return (along > -radius) & (dot(to_centre, to_centre) - along * along < reach * reach)


def light_share(scene: Scene, light: Light, points: np.ndarray, turn: np.ndarray, samples: int) -> np.ndarray:
    """How much of a light each point sees, float32 (n,) in [0, 1].

    Args:
        points: float32 (3, n), just above the surfaces that they are of.
        turn: int (n,), the first point of the light that each looks at; others follow at equal steps.
        samples: how many of its LIGHT_POINTS points are looked at, a divisor of them.
    """
    toward = light.position.astype(np.float32)[:, None] - points
    distance = np.sqrt(dot(toward, toward))
    direction, widening = toward / distance, np.float32(light.radius) / distance
    blocked = np.zeros((samples, points.shape[1]), bool)
    steps = np.arange(samples) * (LIGHT_POINTS // samples)
    for thing in scene.things:
        rows = np.flatnonzero(_passes(thing, points, direction, widening))
        if not len(rows):
            continue
        centre = thing.centre.astype(np.float32)[:, None]
        start = np.tile(rotate(thing.rotation.T, points[:, rows] - centre), samples)
        targets = rotate(thing.rotation.T, light.points - centre)
        chosen = (turn[rows] + steps[:, None]) % LIGHT_POINTS  # (samples, rows)
        t, _ = thing.solid.intersect(start, targets[:, chosen.ravel()] - start)
        blocked[:, rows] |= ((t > _CLOSEST) & (t < 1)).reshape(samples, -1)
    return np.float32(1) - blocked.mean(axis=0, dtype=np.float32)
