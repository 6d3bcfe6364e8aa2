"""Pictures of labels: what a person would want to see of each modality, as small panels that a page can show.

Decisions:
- A label becomes one of four panels (`Picture`, `TextPanel`, `Swatches`, `TablePanel`). Templates know these, and no
  modality.
- `DRAWERS` is the one table from label names to drawing functions. A new label that is a picture needs no entry:
  `draw_array` shows class maps, depth, normals and RGB by shape and dtype.
- A reconstruction is drawn like its label where colours have no meaning of their own: features share a projection.
- Panels hold plain text; escaping is the page's business (autoescape), so nothing here returns HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...modalities import LABELS, Form, class_names
from ...sensors.declared import SENSORS
from ...tokenize.id_colors import id_colors
from ...tokenize.text.sentences import METADATA_TYPES
from .dense import draw_depth, draw_features, draw_normals, draw_segments, draw_vector
from .instances import draw_instances
from .names import Names
from .panels import Panel, Picture, Swatches, TablePanel, TextPanel, backdrop, fit, picture, scaled
from .records import draw_record
from .sensors import draw_sensor
from .skeleton import draw_skeletons

__all__ = ["DRAWERS", "Panel", "Picture", "Swatches", "TablePanel", "TextPanel", "draw", "fit", "id_colors", "picture"]


@dataclass(frozen=True)
class MetadataField:
    """How a type of `tokenize.sentences.METADATA_TYPES` is written for people."""

    title: str
    unit: str = ""
    digits: int = 0


METADATA_FIELDS: dict[str, MetadataField] = {
    "original_width": MetadataField("Original width", "px"),
    "original_height": MetadataField("Original height", "px"),
    "caption_n_chars": MetadataField("Caption characters"),
    "caption_n_words": MetadataField("Caption words"),
    "caption_n_sentences": MetadataField("Caption sentences"),
    "n_humans": MetadataField("People"),
    "n_sam_instances": MetadataField("SAM instances"),
    "n_coco_instances": MetadataField("COCO instances"),
    "coco_instance_diversity": MetadataField("COCO classes seen"),
    "colorfulness": MetadataField("Colourfulness", "", 1),
    "brightness": MetadataField("Brightness", "of 255", 1),
    "contrast": MetadataField("Contrast", "of 127", 1),
    "saturation": MetadataField("Saturation", "of 255", 1),
    "entropy": MetadataField("Entropy", "bits", 2),
    "walkability": MetadataField("Walkability", "share", 3),
    "objectness": MetadataField("Objectness", "share", 3),
    "semantic_diversity": MetadataField("Semantic classes seen"),
    "geometric_complexity": MetadataField("Geometric complexity", "", 3),
    "occlusion_score": MetadataField("Occlusion", "share", 3),
    "watermark_score": MetadataField("Watermark score", "", 3),
    "aesthetic_score": MetadataField("Aesthetic score", "", 2),
}


def draw_tokens(tokens: np.ndarray) -> Picture:
    """A grid of token ids, integers (length,) of a square grid or (rows, columns), one coloured pixel for each.

    A length that is no square is drawn as one row. The same id has the same colour everywhere.
    """
    grid = np.asarray(tokens)
    if grid.ndim == 1:
        side = math.isqrt(grid.size)
        grid = grid.reshape(side, side) if side * side == grid.size else grid[None]
    alt = f"{grid.shape[0]} x {grid.shape[1]} tokens, {np.unique(grid).size} different ids"
    return picture(id_colors(grid), alt, lossless=True, pixelated=True)


def draw_rgb(image: np.ndarray, *, size: int = 320, alt: str = "image") -> Picture:
    """An RGB image, uint8 (H, W, 3)."""
    return picture(np.asarray(image), alt, size=size)


def draw_edges(edges: np.ndarray, *, size: int = 320) -> Picture:
    """An edge map, uint8 (H, W), white on black."""
    edges = np.asarray(edges)
    edges = edges[..., 0] if edges.ndim == 3 and edges.shape[2] == 1 else edges
    share = float((edges > 127).mean()) if edges.size else 0.0
    return picture(edges, f"edges, {share:.1%} of the pixels", size=size, lossless=True)


def draw_boxes(boxes: Sequence[Mapping[str, Any]], image: np.ndarray | None, *, size: int = 320) -> Panel:
    """Boxes with names and scores, on the image they are relative to (uint8 (H, W, 3)); as a table without one.

    Each box is {"box": [xmin, ymin, xmax, ymax] in [0, 1], "label": str, "score": float (optional)}; parts outside of
    the image are cut. Low scores are drawn first, so that what is surest stays legible.
    """
    if not boxes:
        return TextPanel("nothing found", quiet=True)
    ordered = sorted(boxes, key=lambda box: float(box.get("score", 1.0)))
    names = [_box_name(box) for box in ordered]
    if image is None:
        corners = [" ".join(f"{float(x):.3f}" for x in box["box"]) for box in ordered]
        return TablePanel(tuple((name, corner, "") for name, corner in zip(names, corners, strict=True))[::-1])
    # Scaled first, drawn afterwards: lines and letters keep their size at any size of the source.
    height, width = scaled(image.shape[:2], size)
    canvas = Image.fromarray(backdrop(image, height, width))
    edges, worth = [_edges(box["box"], width, height) for box in ordered], np.zeros((height, width))
    for box, (left, top, right, bottom) in zip(ordered, edges, strict=True):
        _outline(canvas, (left, top, right, bottom), _color(box))
        inside = worth[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
        inside += 1 / inside.size
    written = Names(worth)
    for box, name, (left, top, right, bottom) in reversed(list(zip(ordered, names, edges, strict=True))):
        written.add(name, _color(box), ((left + right) / 2, top), (left, top, right, bottom))
    written.write(canvas)
    count = "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"
    return picture(np.asarray(canvas), f"{count}: " + ", ".join(reversed(names[-12:])), size=size)


def _box_name(box: Mapping[str, Any]) -> str:
    return f"{box['label']} {float(box['score']):.2f}" if "score" in box else str(box["label"])


def _edges(box: Sequence[Any], width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a box in a picture, of which parts outside are cut."""
    xmin, ymin, xmax, ymax = (min(max(float(x), 0.0), 1.0) for x in box)
    left, top = xmin * (width - 1), ymin * (height - 1)
    return left, top, max(left, xmax * (width - 1)), max(top, ymax * (height - 1))


def _color(box: Mapping[str, Any]) -> tuple[int, ...]:
    # The colour hangs on the class alone: the same class looks the same in every picture.
    class_id = sum((i + 1) * ord(letter) for i, letter in enumerate(str(box["label"])))
    return tuple(int(x) for x in id_colors(np.array(class_id)))


def _outline(canvas: Image.Image, edges: tuple[float, float, float, float], color: tuple[int, ...]) -> None:
    left, top, right, bottom = edges
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0), width=1)
    draw.rectangle((left, top, right, bottom), outline=color, width=2)


def draw_palettes(palettes: Sequence[Any]) -> Panel:
    """Palettes as swatches: a list of palettes, or one palette (a decoded sentence), each a list of [r, g, b]."""
    if not len(palettes):
        return TextPanel("no colours", quiet=True)
    if np.ndim(palettes[0]) == 1:  # a decoded sentence is one palette
        palettes = [palettes]
    rows = [np.asarray(palette, np.float64).reshape(-1, 3) for palette in palettes]
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError(f"a palette has finite colours [r, g, b], got {palettes}")
    rows = [np.clip(row, 0, 255).astype(np.int64) for row in rows]
    return Swatches(tuple(tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in row) for row in rows))


def draw_metadata(values: Mapping[str, Any]) -> Panel:
    """Metadata as a table of readable names, values with units, and the bin that each value becomes as a token."""
    if not values:
        return TextPanel("no metadata", quiet=True)
    order = {name: i for i, name in enumerate(METADATA_TYPES)}
    rows = []
    for name in sorted(values, key=lambda name: (order.get(name, len(order)), name)):
        value = values[name]
        field = METADATA_FIELDS.get(name, MetadataField(name.replace("_", " ").capitalize(), digits=3))
        is_number = isinstance(value, int | float | np.number)
        number = f"{value:,.{field.digits}f}" if is_number else str(value)
        has_bin = is_number and name in METADATA_TYPES and math.isfinite(value)
        remark = f"bin {METADATA_TYPES[name].bin(float(value))}" if has_bin else ""
        rows.append((field.title, f"{number} {field.unit}".strip(), remark))
    return TablePanel(tuple(rows))


def small_picture(label: np.ndarray) -> np.ndarray:
    """The small picture that duplicates are found by, YCrCb, as uint8 (H, W, 3) RGB."""
    import cv2

    array = np.asarray(label)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {array.dtype} {array.shape}")
    return cv2.cvtColor(array, cv2.COLOR_YCrCb2RGB)


def draw_array(array: np.ndarray, *, size: int = 320) -> Panel:
    """An image-like array without a drawer of its own, by shape and dtype.

    uint8 (H, W, 3) is RGB; other integers (H, W) are class ids; floats (H, W) are a map between their 2nd and 98th
    percentile; floats (H, W, 3) are vectors in [-1, 1]. A channel axis of one is dropped. Anything else is named by its
    shape.
    """
    array = np.asarray(array)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    about = f"{array.dtype} {' x '.join(map(str, array.shape))}"
    floating = np.issubdtype(array.dtype, np.floating)
    if not array.size or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        return TextPanel(f"array, {about}", quiet=True)
    if array.ndim == 3:
        pixels = np.clip(array, 0, 255).astype(np.uint8)
        return draw_normals(array, size=size) if floating else draw_rgb(pixels, size=size)
    if not floating:
        return picture(id_colors(array), f"{np.unique(array).size} classes", size=size, lossless=True)
    return draw_depth(array, size=size)


# A function gets the label, the image it belongs to (or None), a size, and the label that it is to be drawn like (or
# None). Labels are drawn by their form; records by what each says. Class maps have names as well, see `draw`.
Drawer = Callable[[Any, np.ndarray | None, int, Any], Panel]
FORMS: dict[Form, Drawer] = {
    Form.COLORS: lambda label, image, size, like: draw_rgb(label, size=size),
    Form.EDGES: lambda label, image, size, like: draw_edges(label, size=size),
    Form.DEPTH: lambda label, image, size, like: draw_depth(label, size=size),
    Form.DISTANCE: lambda label, image, size, like: draw_depth(label, size=size),
    Form.NORMALS: lambda label, image, size, like: draw_normals(label, size=size),
    Form.FEATURES: lambda label, image, size, like: draw_features(label, like, size=size),
    Form.VECTOR: lambda label, image, size, like: draw_vector(label, like),
    # Vectors lie along the wider side: T5-XXL's are 4,096 wide, a caption has some ten of them.
    Form.SEQUENCE: lambda label, image, size, like: draw_array(label.T if len(label) > label.shape[1] else label),
}
DRAWERS: dict[str, Drawer] = {
    "caption": lambda label, image, size, like: TextPanel(str(label)),
    "color_palette": lambda label, image, size, like: draw_palettes(label),
    "det": lambda label, image, size, like: draw_boxes(label, image, size=size),
    "open_det": lambda label, image, size, like: draw_boxes(label, image, size=size),
    "signature": lambda label, image, size, like: draw_rgb(small_picture(label), size=size),
    "metadata": lambda label, image, size, like: draw_metadata(label),
    "sam_instance": lambda label, image, size, like: draw_instances(label, image, size=size),
    "human_poses": lambda label, image, size, like: draw_skeletons(label, image, size=size),
}


def _drawer(name: str, classes: Mapping[str, tuple[str, ...]]) -> Drawer | None:
    if name in DRAWERS or name not in LABELS:
        return DRAWERS.get(name)
    if LABELS[name].form is Form.CLASSES:
        names = class_names(name, classes)
        return lambda label, image, size, like: draw_segments(label, image, size=size, names=names)
    if (sensor := SENSORS.get(name)) is not None:
        drawn = draw_record if sensor.form.is_record else draw_sensor
        return lambda label, image, size, like: drawn(sensor, label, like, size=size)
    return FORMS.get(LABELS[name].form)


def draw(
    name: str,
    label: Any,
    image: np.ndarray | None = None,
    *,
    size: int = 320,
    like: Any = None,
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> Panel:
    """A panel for one label.

    Args:
        name: the label's name, a key of `modalities.LABELS`; others are drawn by what they are.
        label: the label, in its form in memory; None means that there is none.
        image: uint8 (H, W, 3), the frame the label is relative to; boxes are drawn on it.
        size: pixels along the longer side of a picture.
        like: the label that this one is a reconstruction of; both then have the same colours for the same values.
        classes: the recipe's own lists of classes, by label.

    A label that cannot be drawn becomes a `TextPanel` that says why: a viewer is most needed where data are wrong.
    """
    if label is None:
        return TextPanel("none", quiet=True)
    if isinstance(label, str):  # said in words by the caller, or words from the start
        return TextPanel(label)
    # Labels come from models and files: whatever is wrong with one must not cost the page.
    try:
        drawer = _drawer(name, classes or {})
        if drawer is not None:
            return drawer(label, image, size, like)
        return draw_array(label, size=size) if isinstance(label, np.ndarray) else TextPanel(str(label)[:2000])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        return TextPanel(f"cannot be drawn as {name}: {type(error).__name__}: {error}", quiet=True)
