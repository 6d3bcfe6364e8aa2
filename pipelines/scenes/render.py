"""A scene as an image and its exact truth.

Truth is of the ray through the centre of each pixel: never smoothed, never rounded to a neighbour. The image is
smoothed: pixels that differ from a neighbour are averaged over PLACES, each of which looks at another point of each
light, so that borders, textures and soft shadows are smooth at the price of few rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import shade
from .rays import View
from .solids import rotate
from .world import LIGHT_POINTS, Scene

# Places in a pixel: every row and every column of an 8 x 8 grid holds one (a solution of the eight queens).
PLACES = (np.array([[i, (5, 3, 6, 0, 7, 1, 4, 2)[i]] for i in range(LIGHT_POINTS)]).T + 0.5) / LIGHT_POINTS
EXPOSURE = 0.68
_CONTRAST = 0.05  # of the square root of linear RGB, from which neighbours differ


@dataclass(frozen=True)
class Rendered:
    """An image of H x W pixels and its truth, each pixel's at its centre.

    rgb: uint8 (H, W, 3), sRGB.
    depth: float32 (H, W), metres along the optical axis; NaN where there is no surface (the sky).
    normal: float16 (H, W, 3), unit vectors in camera coordinates, x right, y up, z toward the viewer; 0 for the sky.
    semseg: uint8 (H, W), places in kinds.CLASSES.
    instances: uint8 (H, W), ids of things, 0 for none.
    visible: of each thing, the share of its pixels in the frame that nothing stands before; 0 if it has none.
    """

    rgb: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    semseg: np.ndarray
    instances: np.ndarray
    visible: dict[int, float]


def render(scene: Scene, size: int) -> Rendered:
    """The scene at size x size pixels."""
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="xy")).reshape(2, -1)
    view = View(scene, size, pixels + 0.5)
    origin, direction, hits = view.trace()
    seen = hits.what != 0
    place = origin + np.where(seen, hits.t, 0) * direction
    normal = rotate(scene.camera.rotation.T, shade.normals(scene, hits, place))
    turn = np.zeros(size * size, np.int64)
    linear = shade.colours(scene, origin, direction, hits, turn, samples=4)
    rough = _rough(linear.reshape(3, size, size), hits.what.reshape(size, size))
    linear[:, rough] = _averaged(scene, size, pixels[:, rough])
    classes = np.array([0, *(t.class_id for t in scene.things), *(s.class_id for s in scene.surfaces[::-1])], np.uint8)
    instances = np.maximum(hits.what, 0).astype(np.uint8)
    shown = np.bincount(instances, minlength=len(scene.things) + 1)
    return Rendered(
        rgb=srgb(linear).T.reshape(size, size, 3),
        depth=np.where(seen, hits.t, np.float32(np.nan)).reshape(size, size),
        normal=normal.T.reshape(size, size, 3).astype(np.float16),
        semseg=classes[hits.what].reshape(size, size),  # floor and walls count from the end
        instances=instances.reshape(size, size),
        visible={t.id: float(shown[t.id] / max(1, hits.covered[t.id])) for t in scene.things},
    )


def srgb(linear: np.ndarray) -> np.ndarray:
    """uint8 of linear RGB: exposed, its highlights rolled off, encoded."""
    x = np.maximum(linear, 0) * np.float32(EXPOSURE)
    x = np.clip(x * (1 + x / np.float32(6.0)) / (1 + x * np.float32(0.75)), 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** np.float32(1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def _averaged(scene: Scene, size: int, pixels: np.ndarray) -> np.ndarray:
    """Linear RGB (3, n) of pixels (2, n), averaged over PLACES."""
    count = pixels.shape[1]
    places = (pixels[:, None, :] + PLACES[:, :, None]).reshape(2, -1)
    origin, direction, hits = View(scene, size, places).trace()
    turn = np.repeat(np.arange(LIGHT_POINTS), count)
    fine = shade.colours(scene, origin, direction, hits, turn, samples=1)
    # A highlight must not outshine its seven neighbours: what is shown is at most white.
    return np.minimum(fine, np.float32(4.0)).reshape(3, LIGHT_POINTS, count).mean(axis=1, dtype=np.float32)


def _rough(linear: np.ndarray, what: np.ndarray) -> np.ndarray:
    """Indices of the pixels that differ from a neighbour, in colour (3, H, W) or in what (H, W) they show."""
    tone = np.sqrt(np.maximum(linear, 0))
    rough = np.zeros(what.shape, bool)
    for axis in (0, 1):
        one, other = [slice(None), slice(None)], [slice(None), slice(None)]
        one[axis], other[axis] = slice(None, -1), slice(1, None)
        contrast = np.abs(tone[:, *one] - tone[:, *other]).max(axis=0)
        differs = (what[*one] != what[*other]) | (contrast > _CONTRAST)
        rough[*one] |= differs
        rough[*other] |= differs
    return np.flatnonzero(rough)
