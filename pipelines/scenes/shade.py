"""The light that rays bring back: lights with soft shadows, the sky's light with contact shadows, one reflection.

Nothing here is truth; it is to be pleasant and readable. Key lights and highlights follow Blinn and Phong; the light of
the sky is a hemisphere's, darkened near floors, walls and things in the manner of ambient occlusion; what is far fades
into the colour of the horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kinds, patterns
from .rays import Hits, light_share, trace
from .solids import dot, rotate, unit
from .world import Scene

_LIFT = np.float32(2e-3)  # metres above a surface, where rays from it start
_CONTACT = np.float32(0.25)  # metres from a plane, where its shade ends
_HAZE = np.float32(30.0)  # metres


@dataclass
class Points:
    """What n rays see: place, normal (3, n), the albedo (3, n), and the row of `_looks` of each, int (n,)."""

    place: np.ndarray
    normal: np.ndarray
    albedo: np.ndarray
    look: np.ndarray


def normals(scene: Scene, hits: Hits, place: np.ndarray) -> np.ndarray:
    """Unit normals float32 (3, n) in the world of the surfaces that rays meet at places (3, n); 0 for the sky."""
    result = np.zeros_like(place)
    for number, surface in enumerate(scene.surfaces, 1):
        result[:, hits.what == -number] = surface.normal.astype(np.float32)[:, None]
    for thing in scene.things:
        rows = np.flatnonzero(hits.what == thing.id)
        if len(rows):
            local = rotate(thing.rotation.T, place[:, rows] - thing.centre.astype(np.float32)[:, None])
            result[:, rows] = rotate(thing.rotation, thing.solid.normals(local, hits.face[rows]))
    return result


def colours(
    scene: Scene,
    origin: np.ndarray,
    direction: np.ndarray,
    hits: Hits,
    turn: np.ndarray,
    samples: int,
    mirrored: bool = False,
) -> np.ndarray:
    """Linear RGB float32 (3, n) that rays bring back.

    Args:
        origin, direction: float32 (3, 1) or (3, n), and (3, n) of any length.
        turn, samples: which points of each light are looked at, see rays.light_share.
        mirrored: of reflected rays: mirrors in them show the sky alone.
    """
    result = sky(scene, unit(direction))
    seen = np.flatnonzero(hits.what != 0)
    if not len(seen):
        return result
    hits = Hits(hits.t[seen], hits.what[seen], hits.face[seen], hits.covered)
    ray, turn = direction[:, seen], turn[seen]
    start = origin if origin.shape[1] == 1 else origin[:, seen]
    place = start + hits.t * ray
    view = -unit(ray)
    distance = np.sqrt(dot(place - start, place - start))
    points = _points(scene, hits, place, distance)
    colour = _lit(scene, points, hits, view, turn, samples)
    colour = _reflecting(scene, points, view, colour, turn, mirrored)
    haze = 1 - np.exp(-((distance / _HAZE) ** 2))
    horizon = np.array(scene.sky.horizon, np.float32)[:, None]
    result[:, seen] = colour + (horizon - colour) * haze
    return result


def sky(scene: Scene, direction: np.ndarray) -> np.ndarray:
    """Linear RGB (3, n) of the sky in unit directions (3, n): from horizon to zenith; below, the floor far away."""
    horizon, zenith = (np.array(c, np.float32)[:, None] for c in (scene.sky.horizon, scene.sky.zenith))
    height = np.clip(direction[1], 0, 1) ** np.float32(0.6)
    return horizon + (zenith - horizon) * height


def _points(scene: Scene, hits: Hits, place: np.ndarray, distance: np.ndarray) -> Points:
    albedo, look = np.zeros_like(place), np.zeros(place.shape[1], np.int64)
    names = list(kinds.MATERIALS)
    for number, surface in enumerate(scene.surfaces, 1):
        rows = np.flatnonzero(hits.what == -number)
        colour = np.array(kinds.GROUNDS[surface.colour], np.float32)[:, None]
        albedo[:, rows] = colour * patterns.shade(surface, place[:, rows], distance[rows])
    for thing in scene.things:
        rows = np.flatnonzero(hits.what == thing.id)
        if not len(rows):
            continue
        first, second = (np.array(c, np.float32)[:, None] for c in thing.colours)
        albedo[:, rows] = first
        if thing.look.pattern:
            local = rotate(thing.rotation.T, place[:, rows] - thing.centre.astype(np.float32)[:, None])
            albedo[:, rows] = np.where(patterns.second_colour(thing, local), second, first)
        look[rows] = names.index(thing.material) + 1
    return Points(place, normals(scene, hits, place), albedo, look)


# Rows: floors and walls, then kinds.MATERIALS. Columns: gloss, sharpness, mirror, coat.
_LOOKS = np.array(
    [(0.02, 6.0, 0.0, 0.0), *((m.gloss, m.sharpness, m.mirror, float(m.coat)) for m in kinds.MATERIALS.values())],
    np.float32,
).T


def _lit(scene: Scene, points: Points, hits: Hits, view: np.ndarray, turn: np.ndarray, samples: int) -> np.ndarray:
    """Light of lamps and sky, without reflections."""
    gloss, sharpness, mirror, _ = _LOOKS[:, points.look]
    normal, above = points.normal, points.place + _LIFT * points.normal
    body = points.albedo * (1 - mirror)
    # A metal's highlight has its colour.
    shine = gloss * np.where(mirror > 0, points.albedo, np.float32(1))
    result = body * _from_sky(scene, points, hits)
    for light in scene.lights:
        toward = unit(light.position.astype(np.float32)[:, None] - points.place)
        facing = np.maximum(dot(normal, toward), 0)
        rows = np.flatnonzero(facing > 0)
        share = np.zeros_like(facing)
        share[rows] = light_share(scene, light, above[:, rows], turn[rows], samples)
        halfway = np.maximum(dot(normal, unit(toward + view)), 0)
        highlight = shine * halfway**sharpness * np.sqrt(facing)
        result += light.colour.astype(np.float32)[:, None] * share * (body * facing + highlight)
    return result


def _from_sky(scene: Scene, points: Points, hits: Hits) -> np.ndarray:
    """(3, n): the sky from above, the floor's reflection from below, less of both near other surfaces."""
    up = (1 + points.normal[1]) / 2
    mean = (np.array(scene.sky.horizon, np.float32) + np.array(scene.sky.zenith, np.float32)) / 2
    above = (np.float32(0.5) * mean + np.float32(0.5) * mean.mean())[:, None]  # half its colour
    below = np.array(kinds.GROUNDS[scene.floor.colour], np.float32)[:, None] * np.float32(0.9)
    open_ = np.ones_like(up)
    for number, surface in enumerate(scene.surfaces, 1):
        normal = surface.normal.astype(np.float32)[:, None]
        distance = np.maximum(dot(normal, points.place) - np.float32(surface.offset), 0)
        against = np.where(hits.what == -number, 0, (1 - dot(normal, points.normal)) / 2)
        open_ *= 1 - np.float32(0.75) * against * np.exp(-distance / _CONTACT)
    for thing in scene.things:
        open_ *= 1 - np.float32(0.85) * np.where(hits.what == thing.id, 0, _hidden(thing.centre, thing.half, points))
    return np.float32(scene.ambient) * open_ * (above * up + below * (1 - up))


def _hidden(centre: np.ndarray, half: tuple[float, float, float], points: Points) -> np.ndarray:
    """Share (n,) of the hemisphere over each point that a ball of a thing's volume fills."""
    x, y, z = half
    radius = np.float32(1.05 * (x * y * z) ** (1 / 3))
    toward = centre.astype(np.float32)[:, None] - points.place
    square = np.maximum(dot(toward, toward), radius * radius)
    return np.maximum(dot(points.normal, toward), 0) / np.sqrt(square) * (radius * radius / square)


def _reflecting(
    scene: Scene, points: Points, view: np.ndarray, colour: np.ndarray, turn: np.ndarray, mirrored: bool
) -> np.ndarray:
    """`colour` with what mirrors and coats reflect."""
    _, _, mirror, coat = _LOOKS[:, points.look]
    rows = np.flatnonzero((mirror > 0) | (coat > 0))
    if not len(rows):
        return colour
    normal, look = points.normal[:, rows], view[:, rows]
    facing = np.clip(dot(normal, look), 0, 1)
    away = 2 * facing * normal - look
    grazing = (1 - facing) ** 5
    image = _around(scene, away)
    real = np.flatnonzero(mirror[rows] > 0)
    if len(real) and not mirrored:
        start = (points.place[:, rows] + _LIFT * normal)[:, real]
        hits = trace(scene, start, away[:, real])
        image[:, real] = colours(scene, start, away[:, real], hits, turn[rows][real], samples=1, mirrored=True)
    tint = points.albedo[:, rows]
    metal = mirror[rows] * (tint + (1 - tint) * grazing) * np.float32(1.25)
    lacquer = coat[rows] * (np.float32(0.05) + np.float32(0.6) * grazing)
    result = colour.copy()
    result[:, rows] += image * np.where(mirror[rows] > 0, metal, lacquer)
    return result


def _around(scene: Scene, direction: np.ndarray) -> np.ndarray:
    """What a reflection shows where no ray is cast: the sky above, the floor's colour below."""
    floor = np.array(kinds.GROUNDS[scene.floor.colour], np.float32)[:, None] * np.float32(0.8)
    return np.where(direction[1] > 0, sky(scene, direction), floor)
