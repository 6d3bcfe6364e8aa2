"""Instances that a person gives, as labels of SAM: polygons, masks, or a picture with one colour for each.

Sentences of instances name those that hold one of a few random points of the crop (4M-21). A person who draws two
instances wants both to be read, so that each is asked for at a point of its own ("query"); the masks of a specialist
are asked for at random points, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...tokenize import masks
from .given import Given, Mistake, is_path, pixels
from .records import Frame, entries, is_json, numbers_of, shares, short

_SIDE = 1024  # pixels of the longer side of a mask that is drawn where no picture says the size
_MOST = 255  # instances of a picture; more colours than this are a photo
_POLYGON = '{"polygon": [[x, y], [x, y], [x, y], ...]}'
_FRACTION = 4  # bits of a pixel's fraction in which OpenCV takes corners


def read(given: Any, frame: Frame, max_pixels: int) -> Given:
    """Instances: {"box", "mask", and of drawn ones "query"}, see `instance_sentences.own_points`."""
    if isinstance(given, np.ndarray) or (is_path(given) and not is_json(given)) or hasattr(given, "convert"):
        return _of_picture(pixels(given, max_pixels))
    listed, frame, own = entries(given, ("instances", "sam_instance", "polygons"), frame)
    return Given([_instance(one, frame, f"instance {number}") for number, one in enumerate(listed, 1)], own)


def _instance(one: Any, frame: Frame, what: str) -> dict[str, Any]:
    if isinstance(one, Sequence) and not isinstance(one, str):
        one = {"polygon": one}
    if isinstance(one, Mapping) and "mask" in one:
        return _masked(one, what)
    name = next((n for n in ("polygon", "polygons", "segmentation") if isinstance(one, Mapping) and n in one), None)
    if name is None:
        raise Mistake(f"{what}: got {short(one)}; expected {_POLYGON}, or a mask of COCO's run lengths")
    parts = [_corners(part, frame, what) for part in _parts(one[name])]
    mask = _draw(parts, frame)
    if not mask.any():
        raise Mistake(f"{what}: its polygon holds no pixel; give corners that lie further apart")
    query = numbers_of(one["point"], f"{what}, point", (2,)) if "point" in one else None
    return _made(mask, None if query is None else shares(query, frame, f"{what}, point"))


def _masked(one: Mapping[str, Any], what: str) -> dict[str, Any]:
    try:
        mask = masks.decode(one["mask"])
    except ValueError as error:
        raise Mistake(f"{what}: {error}") from None
    if not mask.any():
        raise Mistake(f"{what}: its mask is empty; leave it out")
    # The label's own words: its order and box are what the specialist has made.
    own = {"box": one.get("box", _made(mask, None)["box"]), "mask": dict(one["mask"])}
    return own | ({"query": one["query"]} if "query" in one else {})


def _parts(value: Any) -> list[Any]:
    """The polygons of an instance: one, or several parts; as [[x, y], ...] or, as COCO has it, [x, y, x, y, ...]."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Mistake(f"got {short(value)}; expected corners, {_POLYGON}")
    depth, inner = 0, value
    while isinstance(inner, Sequence) and not isinstance(inner, str) and len(inner):
        depth, inner = depth + 1, inner[0]
    flat = depth == 1 or (depth == 2 and all(isinstance(c, Sequence) and len(c) == 2 for c in value))
    return [value] if flat else list(value)


def _corners(value: Any, frame: Frame, what: str) -> np.ndarray:
    flat = numbers_of(value, f"{what}, polygon")
    if len(flat) < 6 or len(flat) % 2:
        raise Mistake(f"{what}: a polygon has 3 or more corners x, y; got {len(flat)} numbers")
    return np.reshape(shares(flat, frame, f"{what}"), (-1, 2))


def _draw(parts: Sequence[np.ndarray], frame: Frame) -> np.ndarray:
    width, height = frame or (_SIDE, _SIDE)
    mask = np.zeros((height, width), np.uint8)
    for corners in parts:
        # A corner at the picture's edge lies beyond the centre of its last pixel.
        places = (corners * (width, height) - 0.5) * 2**_FRACTION
        cv2.fillPoly(mask, [np.rint(places).astype(np.int32)], 1, shift=_FRACTION)
    return mask


def _made(mask: np.ndarray, query: Sequence[float] | None) -> dict[str, Any]:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return {
        "box": [float(c) for c in box],
        "mask": masks.encode(mask),
        "area": float(mask.mean()),
        "query": None if query is None else list(query),
    }


def _of_picture(values: np.ndarray) -> Given:
    """One instance for each number or colour that is not 0 (black, or transparent)."""
    if values.ndim == 3:
        shown = values[..., 3] >= 128 if values.shape[2] == 4 else np.ones(values.shape[:2], bool)
        codes = values[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]) * shown
    else:
        codes = values.astype(np.int64)
    numbers = [int(code) for code in np.unique(codes) if code]
    if not 1 <= len(numbers) <= _MOST:
        raise Mistake(
            f"the picture has {len(numbers)} colours besides black; expected one for each instance, without smoothing, "
            "saved as PNG"
        )
    made = [_made((codes == number).astype(np.uint8), None) for number in numbers]
    return Given(sorted(made, key=lambda one: -one["area"]), (codes.shape[1], codes.shape[0]))
