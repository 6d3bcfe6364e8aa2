"""Draws scenes: a pure function of (seed, split, index, clutter), whatever process draws them and in whatever order.

Things are placed one after the other where they touch nothing, a few on top of others; then the camera is set so that
it sees them all; then the backdrop behind them, and lights on the camera's side of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import kinds
from .world import Camera, Light, Scene, Surface, Thing, look_at, yaw

SPLITS = ("train", "val")  # what `fourmill scenes` writes
LABELLERS = "labellers"  # scenes that the demo's labelling models learn from: no shard holds one, whatever its seed
_GAP = 0.06  # metres between things
_STACKED = 0.15  # share of the things that stand on another, where they can
_SPREAD = 0.10  # of a thing's size around that of its word
_TWO_LIGHTS, _WALLED, _CORNERED = 0.4, 0.6, 0.35
_LYING = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the axis y becomes -x


def key(seed: int, split: str, index: int) -> str:
    return f"{split}-{seed}-{index:07d}"


def generator(seed: int, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The random numbers of one scene; `purpose` keeps those of the caption apart from those of the scene."""
    return np.random.default_rng([seed, (*SPLITS, LABELLERS).index(split), index, purpose])


def level_of(clutter: str | int) -> kinds.Level:
    """The level of a name, or for a number of things. ValueError for what is neither."""
    if clutter in kinds.LEVELS:
        return kinds.LEVELS[str(clutter)]
    levels = ", ".join(kinds.LEVELS)
    try:
        count = int(clutter)
    except ValueError:
        raise ValueError(f"clutter: got {clutter!r}, expected {levels}, or a number of things") from None
    if not 1 <= count <= kinds.MOST_THINGS:
        raise ValueError(f"clutter: got {count}, expected {levels}, or a number from 1 to {kinds.MOST_THINGS}")
    return kinds.Level((count, count))


def draw(seed: int, split: str, index: int, clutter: str | int = "medium") -> Scene:
    """The scene of (seed, split, index). ValueError for an unknown clutter."""
    rng, level = generator(seed, split, index), level_of(clutter)
    fewest, most = level.things
    things = _things(rng, int(rng.integers(fewest, most + 1)), level)
    middle, spread = _extent(things)
    camera, azimuth = _camera(rng, middle, spread, len(things), level)
    sky = kinds.SKIES[rng.integers(len(kinds.SKIES))]
    surfaces = _surfaces(rng, middle, spread, azimuth)
    if level.bare:
        surfaces = (replace(surfaces[0], pattern="plain"),)
    lights = _lights(rng, middle, spread, azimuth, surfaces)
    ambient = float(rng.uniform(0.45, 0.7))
    return Scene(key(seed, split, index), seed, split, index, things, surfaces, sky, lights, ambient, camera)


def _pick(rng: np.random.Generator, names: list[str], shares: list[float] | None = None) -> str:
    p = None if shares is None else np.array(shares) / sum(shares)
    return names[int(rng.choice(len(names), p=p))]


def _things(rng: np.random.Generator, count: int, level: kinds.Level) -> tuple[Thing, ...]:
    placed: list[Thing] = []
    for number in range(1, count + 1):
        thing = _thing(rng, number, level)
        placed.append(_on_top(rng, thing, placed) or _on_floor(rng, thing, placed))
    return tuple(placed)


def _thing(rng: np.random.Generator, number: int, level: kinds.Level) -> Thing:
    """One without its place."""
    shape, size = _pick(rng, list(level.shapes)), _pick(rng, list(kinds.SIZES))
    material = _pick(rng, list(kinds.MATERIALS), [one.share for one in kinds.MATERIALS.values()])
    colour = _pick(rng, list(kinds.COLOURS))
    second = ""
    if kinds.MATERIALS[material].pattern:
        # The two must look different at 96 px.
        second = "white" if colour in ("red", "green", "blue", "purple", "grey") else "black"
    row = kinds.SHAPES[shape]
    scale = kinds.SIZES[size] * (1 + _SPREAD * rng.uniform(-1, 1))
    x, y, z = (scale * part for part in row.half)
    y *= rng.uniform(*row.tall)
    upright = not rng.random() < row.lying
    turn = yaw(rng.uniform(0, 2 * np.pi))
    if shape == "ball":  # a pattern shows how it lies
        turn = turn @ _LYING @ yaw(rng.uniform(0, 2 * np.pi)) @ _LYING.T @ yaw(rng.uniform(0, 2 * np.pi))
    rotation = turn if upright else turn @ _LYING
    thing = Thing(number, shape, colour, second, material, size, (x, y, z), np.zeros(3), rotation, upright)
    return _bare(thing) if level.bare else thing


def _bare(thing: Thing) -> Thing:
    """The same without a second colour, and no mirror."""
    material = kinds.MATERIALS[thing.material]
    bare = "matte" if material.pattern or material.mirror else thing.material
    return replace(thing, material=bare, second="")


def _footprint(thing: Thing) -> float:
    """Radius of a circle on the floor that holds it."""
    x, y, z = thing.half
    if thing.shape in ("ball", "cone", "dome"):
        return x
    if thing.shape in ("cylinder", "capsule"):
        return x if thing.upright else float(np.hypot(y, x if thing.shape == "cylinder" else 0.0))
    return float(np.hypot(x, z))


def _rest(thing: Thing) -> float:
    """Height of its centre above what it lies on."""
    return thing.half[1] if thing.upright else thing.half[0]


def _on_floor(rng: np.random.Generator, thing: Thing, placed: list[Thing]) -> Thing:
    """At a free place near the middle; the disc of places grows until there is one."""
    radius, own = 0.5, _footprint(thing)
    taken = [(one.centre, _footprint(one)) for one in placed if not one.support]
    while True:
        turn, share = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        centre = np.array([radius * share * np.cos(turn), _rest(thing), radius * share * np.sin(turn)])
        if all(np.hypot(*(centre - other)[[0, 2]]) > own + size + _GAP for other, size in taken):
            return replace(thing, centre=centre)
        radius *= 1.04


def _on_top(rng: np.random.Generator, thing: Thing, placed: list[Thing]) -> Thing | None:
    """On a thing that is wide, flat and free, or None."""
    if rng.random() > _STACKED:
        return None
    occupied = {one.support for one in placed}
    wide = [
        one
        for one in placed
        if kinds.SHAPES[one.shape].flat
        and one.upright
        and not one.support
        and one.id not in occupied
        and _footprint(thing) < 0.9 * min(one.half[0], one.half[2])
    ]
    if not wide:
        return None
    below = wide[int(rng.integers(len(wide)))]
    return replace(thing, centre=below.centre + np.array([0.0, below.half[1] + _rest(thing), 0.0]), support=below.id)


def _extent(things: tuple[Thing, ...]) -> tuple[np.ndarray, float]:
    """The middle (3,) of all things, and the radius of a ball around it that holds them."""
    corners = np.concatenate([thing.corners() for thing in things], axis=1)
    middle = (corners.min(axis=1) + corners.max(axis=1)) / 2
    return middle, float(np.linalg.norm(corners - middle[:, None], axis=0).max())


def _camera(
    rng: np.random.Generator, middle: np.ndarray, spread: float, count: int, level: kinds.Level
) -> tuple[Camera, float]:
    """A camera that sees a ball of radius `spread` with so many things, and its turn about the vertical axis."""
    azimuth, pitch = rng.uniform(-level.azimuth, level.azimuth), np.radians(rng.uniform(*level.pitch))
    field = np.radians(rng.uniform(*level.field))
    distance = spread / np.sin(field / 2) * (rng.uniform(0.76, 1.08) + 0.3 / count)  # one thing fills its ball
    distance = max(distance, spread + 0.5)
    behind = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
    position = middle + distance * (np.cos(pitch) * behind + np.array([0.0, np.sin(pitch), 0.0]))
    position[1] = max(position[1], 0.25)
    target = middle + rng.uniform(-0.12, 0.12, 3) * spread
    return Camera(position, look_at(position, target), float(field)), float(azimuth)


def _surfaces(rng: np.random.Generator, middle: np.ndarray, spread: float, azimuth: float) -> tuple[Surface, ...]:
    """The floor; for some scenes a wall behind the things; for some of these a second one, away from the camera."""
    up, front, right = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    turn = rng.uniform(0, np.pi)
    floor_along = np.array([np.cos(turn), 0.0, np.sin(turn)])
    surfaces = [_surface(rng, kinds.FLOOR, up, 0.0, floor_along, list(kinds.FLOOR_PATTERNS), [4.0, 2.0, 2.0, 1.0])]
    walled, cornered = rng.random(2)
    behind, beside = rng.uniform(0.3, 3.0, 2)
    wall = _surface(rng, kinds.WALL, front, middle[2] - spread - behind, right, list(kinds.WALL_PATTERNS), [5, 2, 2, 2])
    if wall.colour == surfaces[0].colour:
        wall = replace(wall, colour="pale blue" if wall.colour == "beige" else "beige")
    if walled < _WALLED:
        surfaces.append(wall)
        if cornered < _CORNERED:
            side = -1.0 if azimuth > 0 else 1.0  # where the wall is
            offset = -(side * middle[0] + spread + beside)
            surfaces.append(replace(wall, normal=-side * right, offset=float(offset), along=front))
    return tuple(surfaces)


def _surface(
    rng: np.random.Generator,
    class_id: int,
    normal: np.ndarray,
    offset: float,
    along: np.ndarray,
    patterns: list[str],
    shares: list[float],
) -> Surface:
    colour, pattern = _pick(rng, list(kinds.GROUNDS)), _pick(rng, patterns, shares)
    cell, contrast = rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.5)
    return Surface(class_id, colour, pattern, normal, float(offset), along, float(cell), float(contrast))


def _lights(
    rng: np.random.Generator, middle: np.ndarray, spread: float, azimuth: float, surfaces: tuple[Surface, ...]
) -> tuple[Light, ...]:
    """A key light to the left or right of the camera, and for some scenes a weaker one on its other side."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    key_light = _light(rng, middle, spread, azimuth + side * rng.uniform(0.35, 1.5), 3.0, surfaces)
    second = _light(rng, middle, spread, azimuth - side * rng.uniform(0.5, 1.4), 1.0, surfaces)
    return (key_light, second) if rng.random() < _TWO_LIGHTS else (key_light,)


def _light(
    rng: np.random.Generator,
    middle: np.ndarray,
    spread: float,
    azimuth: float,
    strength: float,
    surfaces: tuple[Surface, ...],
) -> Light:
    elevation, distance = np.radians(rng.uniform(30, 65)), spread + rng.uniform(3.5, 7.0)
    direction = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    position, radius = middle + distance * direction, distance * rng.uniform(0.03, 0.12)
    for wall in surfaces[1:]:
        position = position + wall.normal * max(0.0, wall.offset + radius + 0.5 - float(wall.normal @ position))
    warmth = rng.uniform(-0.12, 0.12)
    return Light(position, float(radius), strength * np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.85, 1.15))
