"""Pictures of dense labels and of features: depth, normals, segments, feature maps, vectors."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from ...modalities import COCO_PANOPTIC_CLASSES, NO_CLASS
from ...tokenize.id_colors import id_colors
from .colormaps import blue_to_red, colored, inferno
from .names import Names
from .panels import Panel, Picture, TextPanel, backdrop, picture, scaled

_NAMED_SHARE = 0.02  # of the picture that a segment must take to be named
_COLUMNS = 48  # of the picture of a vector


def draw_depth(depth: np.ndarray, *, size: int = 320) -> Panel:
    """A map of floats (H, W) in perceptually even colours, near (small) bright, far dark.

    Colours span the 2nd to the 98th percentile: a tokenizer gives depth back up to scale and shift.
    """
    values = np.asarray(depth, np.float32)
    finite = values[np.isfinite(values)]
    if values.ndim != 2 or not finite.size:
        return TextPanel(f"no depth to be drawn, {depth.dtype} {np.shape(depth)}", quiet=True)
    # One far pixel (sky, a hole) would take all contrast from the rest.
    low, high = np.percentile(finite, (2, 98))
    scaled_depth = np.clip((np.nan_to_num(values, nan=high) - low) / max(high - low, 1e-9), 0, 1)
    return picture(colored(1 - scaled_depth, inferno()), f"map from {low:.3g} (bright) to {high:.3g}", size=size)


def draw_normals(normals: np.ndarray, *, size: int = 320) -> Picture:
    """Surface normals, floats (H, W, 3) in [-1, 1], as the colours (n + 1) / 2."""
    colors = (np.clip(np.nan_to_num(np.asarray(normals, np.float32)), -1, 1) + 1) * 127.5
    return picture(np.rint(colors).astype(np.uint8), "normals, x right, y up, z toward the viewer", size=size)


def draw_segments(
    classes: np.ndarray,
    image: np.ndarray | None = None,
    *,
    size: int = 320,
    names: Sequence[str] = COCO_PANOPTIC_CLASSES,
) -> Picture:
    """Classes, integers (H, W), in one colour for each class over the grey image, large ones named.

    Pixels without a class (255) show the image alone. A name stands where its segment is widest, or beside it where it
    would cover much of it; small segments have none.
    """
    if classes.ndim != 2 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"segments are class ids (H, W), got {classes.dtype} {classes.shape}")
    height, width = scaled(classes.shape, size)
    # Nearest: the mean of two class ids is a third class.
    ids = cv2.resize(classes.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    colors = id_colors(ids)
    none = ids == NO_CLASS
    if image is not None:
        grey = backdrop(image, height, width).mean(axis=2, keepdims=True).repeat(3, axis=2)
        colors = np.rint(0.6 * colors + 0.4 * grey).astype(np.uint8)
        colors[none] = grey[none]
    else:
        colors[none] = 0
    areas = sorted(((int(np.sum(ids == c)), int(c)) for c in np.unique(ids) if c != NO_CLASS), reverse=True)
    canvas, worth = Image.fromarray(colors), np.zeros(ids.shape)
    for area, class_id in areas:
        worth[ids == class_id] = 1 / area
    names_of = Names(worth)
    for _, class_id in reversed(areas):  # small ones have fewer places
        _name_segment(names_of, ids == class_id, class_id, _class_name(class_id, names))
    names_of.write(canvas)
    largest = ", ".join(f"{_class_name(c, names)} {area / ids.size:.0%}" for area, c in areas[:8])
    alt = f"{len(areas)} classes: {largest}" if areas else "no classes"
    return picture(np.asarray(canvas), alt, size=size, lossless=image is None)


def _class_name(class_id: int, names: Sequence[str]) -> str:
    """A class for people: "floor-other-merged" is floor."""
    if class_id >= len(names):
        return f"class {class_id}"
    name = names[class_id]
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.removesuffix(suffix)
    return name


def _name_segment(names: Names, mask: np.ndarray, class_id: int, name: str) -> None:
    """The class's name on its largest connected part, or beside it, if that is large enough."""
    _, parts, statistics, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    part = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    left, top, width, height, area = statistics[part].tolist()
    if area < _NAMED_SHARE * mask.size:
        return
    inside = np.pad((parts == part).astype(np.uint8), 1)  # the picture's border ends a segment, too
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    # Of the points that are nearly as deep as the deepest, the one next to the centre: names do not jump.
    widest = np.argwhere(depth >= 0.98 * depth.max())[:, ::-1]
    x, y = widest[np.argmin(np.abs(widest - centres[part]).sum(axis=1))].tolist()
    color = tuple(int(c) for c in id_colors(np.array(class_id)))
    names.add(name, color, (x, y), (left, top, left + width, top + height))


def draw_features(features: np.ndarray, like: np.ndarray | None = None, *, size: int = 320) -> Picture:
    """A feature map, floats (h, w, C), by its three principal components as red, green and blue.

    Args:
        like: the map whose components and ranges are used, so that equal features have equal colours; itself if None.
    """
    grid = np.asarray(features, np.float32)
    if grid.ndim != 3 or not np.isfinite(grid).all():
        raise ValueError(f"features are finite (h, w, C), got {grid.dtype} {grid.shape}")
    reference = grid if like is None or np.shape(like)[-1] != grid.shape[2] else np.asarray(like, np.float32)
    rows = reference.reshape(-1, reference.shape[2])
    mean = rows.mean(axis=0)
    components = np.linalg.svd(rows - mean, full_matrices=False)[2][:3]
    # A component has no sign of its own: its largest weight is positive.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.where(largest < 0, -1, 1)
    low, high = np.percentile((rows - mean) @ components.T, (1, 99), axis=0)
    shares = ((grid - mean) @ components.T - low) / np.maximum(high - low, 1e-9)
    colors = np.zeros((*grid.shape[:2], 3), np.uint8)
    colors[..., : len(components)] = np.rint(np.clip(shares, 0, 1) * 255)
    alt = f"{grid.shape[0]} x {grid.shape[1]} features of {grid.shape[2]}, three principal components"
    return picture(colors, alt, size=size, lossless=True, pixelated=True)


def draw_vector(vector: np.ndarray, like: np.ndarray | None = None) -> Picture:
    """A vector, floats (D,), as a strip: blue below 0, red above, white at 0; read row by row.

    Args:
        like: the vector whose range the colours span; itself if None.
    """
    values = np.asarray(vector, np.float32)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a vector is finite (D,), got {values.dtype} {values.shape}")
    reach = float(np.percentile(np.abs(values if like is None else np.asarray(like, np.float32)), 99)) or 1.0
    padded = np.zeros(-(-values.size // _COLUMNS) * _COLUMNS, np.float32)
    padded[: values.size] = values
    colors = colored(np.clip(padded.reshape(-1, _COLUMNS) / reach, -1, 1) / 2 + 0.5, blue_to_red())
    alt = f"vector of {values.size}, length {np.linalg.norm(values):.3g}"
    return picture(colors, alt, lossless=True, pixelated=True)
