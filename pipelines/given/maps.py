"""Maps over the picture that a person gives: photos, drawings, depth, normals, classes, features.

Decisions:
- Drawings of edges are white on black, as labels are; one that is mostly white is ink on paper, and is inverted.
- Depth in a picture is darker where it is nearer, as labels are (0 nearest). Arrays of any range are scaled to 0..1:
  the tokenizer standardizes each crop, so that scale and unit do not matter.
- What is transparent in a picture of colours, depth or normals is not known.
- Classes are grey or indexed pictures of ids, or pictures in the colours of the report (`tokenize/id_colors.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from ...modalities import NO_CLASS, Form
from ...tokenize.id_colors import classes_of_colors
from ...tokenize.inputs import unit
from .given import Given, Mistake, array, is_array, opaque, photo, pixels

CELL = 16  # pixels that a cell of a feature map stands for where no picture says its size: only their ratio counts
_WHITE = 0.5  # share of white pixels above which a drawing of edges is ink on paper
_LENGTHS = (0.5, 1.5)  # of normals that are taken for unit vectors


def read(form: Form, given: Any, max_pixels: int, classes: Sequence[str]) -> Given:
    """A map, as of `labels.read`."""
    return _classes(given, max_pixels, classes) if form is Form.CLASSES else _READERS[form](given, max_pixels)


def read_vectors(form: Form, given: Any) -> Given:
    """A vector (D,), or those of a sequence (n, D)."""
    values = array(given)
    axes, shape = (1, "(D,)") if form is Form.VECTOR else (2, "(n, D)")
    if values.ndim != axes or not values.size:
        raise Mistake(f"got an array of shape {values.shape}; expected a .npy of shape {shape}")
    return Given(_half(values))


def _colors(given: Any, max_pixels: int) -> Given:
    return replace(_framed(photo(given, max_pixels)), known=opaque(given, max_pixels))


def _edges(given: Any, max_pixels: int) -> Given:
    values = array(given) if is_array(given) else pixels(given, max_pixels)
    white = _grey(values) > (127 if values.dtype == np.uint8 else values.max(initial=0) / 2)
    if white.mean() > _WHITE:
        if white.all():
            raise Mistake("the drawing is white all over; draw white lines on black")
        note = "the drawing is mostly white, and was inverted: edges are white on black"
        return _framed(np.where(white, 0, 255).astype(np.uint8), note)
    return _framed(np.where(white, 255, 0).astype(np.uint8))


def _grey(values: np.ndarray) -> np.ndarray:
    """One channel; what is transparent is white paper."""
    if values.ndim == 2:
        return values.astype(np.uint8) * 255 if values.dtype == bool else values
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint8:
        raise Mistake(f"got {values.dtype} {values.shape}; expected a black and white picture (H, W)")
    grey = cv2.cvtColor(np.ascontiguousarray(values[..., :3]), cv2.COLOR_RGB2GRAY)
    return grey if values.shape[2] == 3 else np.where(values[..., 3] < 128, 255, grey).astype(np.uint8)


def _classes(given: Any, max_pixels: int, classes: Sequence[str]) -> Given:
    values = array(given) if is_array(given) else pixels(given, max_pixels)
    known = len(classes) or NO_CLASS  # a label of one's own may have ids without names
    if values.ndim == 2:
        ids = values.astype(np.int64)
        wrong = np.unique(ids[(ids < 0) | ((ids >= known) & (ids != NO_CLASS))])
        if len(wrong) or values.dtype.kind == "f":
            got = ", ".join(map(str, wrong[:5])) or f"numbers of {values.dtype}"
            raise Mistake(
                f"got the classes {got}; expected 0 to {known - 1}, ids of the model's classes, or {NO_CLASS} for none"
            )
        return _framed(ids.astype(np.uint8))
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint8:
        raise Mistake(f"got {values.dtype} {values.shape}; expected a picture of class ids (H, W)")
    ids, unknown = classes_of_colors(np.ascontiguousarray(values[..., :3]), known)
    if values.shape[2] == 4:
        ids, unknown = np.where(values[..., 3] < 128, NO_CLASS, ids), unknown & (values[..., 3] >= 128)
    if unknown.any():
        red, green, blue = values[..., :3][unknown][0].tolist()
        raise Mistake(
            f"{unknown.mean():.0%} of the pixels have colours of no class (#{red:02x}{green:02x}{blue:02x}); "
            "use those of docs/classes.md, without smoothing and saved as PNG, or give a grey picture of ids"
        )
    return _framed(ids.astype(np.uint8))


def _depth(given: Any, max_pixels: int) -> Given:
    if is_array(given):
        values = array(given)
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if values.ndim != 2 or not values.size:
            raise Mistake(f"got an array of shape {values.shape}; expected (H, W), 0 nearest")
        if values.dtype == np.uint8:
            return _framed(_half(values / 255.0))
        if values.dtype == np.uint16:
            return _framed(_half(values / 65_535.0))
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            return _framed(_half(values))
        scaled = (values.astype(np.float64) - low) / max(high - low, 1e-9)
        return _framed(_half(scaled), f"depths from {low:.4g} (near) to {high:.4g} (far) were scaled to 0..1")
    values = pixels(given, max_pixels)
    if values.ndim == 3:
        colors = values[..., :3].astype(np.int16)
        if np.ptp(colors, axis=2).max(initial=0) > 8:
            raise Mistake("the picture has colours; give a grey one, dark where it is near, or a .npy of numbers")
        values = values[..., 0]
    depth = _framed(_half(values / (65_535.0 if values.dtype == np.uint16 else 255.0)))
    return replace(depth, known=opaque(given, max_pixels))


def _normals(given: Any, max_pixels: int) -> Given:
    if not is_array(given):
        values = pixels(given, max_pixels)
        if values.ndim != 3:
            raise Mistake("the picture is grey; expected the colours (n + 1) / 2 of normals, x right, y up, z to you")
        normals = _framed(_half(unit(values[..., :3].astype(np.float32) / 127.5 - 1)))
        return replace(normals, known=opaque(given, max_pixels))
    values = array(given)
    if values.ndim != 3 or values.shape[2] != 3 or not values.size:
        raise Mistake(f"got an array of shape {values.shape}; expected (H, W, 3) unit vectors, x right, y up, z to you")
    if values.dtype == np.uint8:
        return _framed(_half(unit(values.astype(np.float32) / 127.5 - 1)))
    length = float(np.median(np.linalg.norm(values.astype(np.float32), axis=2)))
    if not _LENGTHS[0] < length < _LENGTHS[1]:
        raise Mistake(f"got vectors of length {length:.3g}; expected unit vectors in -1..1, x right, y up, z to you")
    return _framed(_half(values))


def _features(given: Any, max_pixels: int) -> Given:
    if not is_array(given):
        raise Mistake("features are no picture; give a .npy of shape (h, w, C)")
    values = array(given)
    if values.ndim != 3 or not values.size:
        raise Mistake(f"got an array of shape {values.shape}; expected (h, w, C)")
    return Given(_half(values), (values.shape[1] * CELL, values.shape[0] * CELL))


_READERS: dict[Form, Callable[[Any, int], Given]] = {
    Form.COLORS: _colors,
    Form.EDGES: _edges,
    Form.DEPTH: _depth,
    Form.NORMALS: _normals,
    Form.FEATURES: _features,
}


def _framed(values: np.ndarray, *notes: str) -> Given:
    return Given(values, (values.shape[1], values.shape[0]), notes)


def _half(values: np.ndarray) -> np.ndarray:
    """As labels are stored. Mistake for numbers that float16 cannot hold."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise Mistake("the array holds numbers beyond 65504; scale them as the model that makes this label does")
    return half
