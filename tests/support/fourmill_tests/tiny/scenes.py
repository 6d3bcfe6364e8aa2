"""Scenes that are set up by hand, so that their truth can be computed by other means."""

from __future__ import annotations

import numpy as np

from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.scenes.draw import draw
from fourmill.pipelines.scenes.world import Camera, Light, Scene, Surface, Thing, look_at, yaw

SIZE = 64


def thing(shape: str, centre: tuple[float, float, float], half: tuple[float, float, float], **more) -> Thing:
    values = {"colour": "red", "second": "", "material": "matte", "size": "large", "id": 1, "turn": 0.0} | more
    rotation = yaw(values.pop("turn"))
    return Thing(shape=shape, half=half, centre=np.array(centre), rotation=rotation, **values)


def floor() -> Surface:
    return Surface(kinds.FLOOR, "grey", "plain", np.array([0.0, 1, 0]), 0.0, np.array([1.0, 0, 0]), 0.5, 0.3)


def wall(normal: tuple[float, float, float], offset: float) -> Surface:
    along = np.cross([0.0, 1.0, 0.0], normal)
    return Surface(kinds.WALL, "beige", "plain", np.array(normal), offset, along, 0.5, 0.3)


def scene(
    *things: Thing,
    walls: tuple[Surface, ...] = (),
    position: tuple[float, float, float] = (0.0, 1.0, 4.0),
    target: tuple[float, float, float] = (0.0, 0.5, 0.0),
    light: tuple[float, float, float] = (2.0, 5.0, 4.0),
) -> Scene:
    camera = Camera(np.array(position), look_at(np.array(position), np.array(target)), float(np.radians(45)))
    lights = (Light(np.array(light), 0.3, np.array([3.0, 3.0, 3.0])),)
    return Scene("train-0-0000000", 0, "train", 0, things, (floor(), *walls), kinds.SKIES[0], lights, 0.5, camera)


def drawn(count: int, clutter: str = "medium", seed: int = 0) -> list[Scene]:
    return [draw(seed, "train", index, clutter) for index in range(count)]


def rays(one: Scene, size: int = SIZE) -> np.ndarray:
    """float64 (H, W, 3): the ray through the centre of each pixel in camera coordinates, 1 long along the axis."""
    focal = size / 2 / np.tan(one.camera.field_of_view / 2)
    centres = np.arange(size) + 0.5
    x, y = np.meshgrid((centres - size / 2) / focal, (size / 2 - centres) / focal)
    return np.stack([x, y, -np.ones_like(x)], axis=-1)


def in_world(one: Scene, vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of the camera's frame in the world's."""
    return vectors @ one.camera.rotation.T
