"""Records that come with the data: boxes, instances, text, and whatever JSON says. What is wrong is a ValueError."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import cv2
import numpy as np

from ....tokenize import masks


def boxes(value: Any, names: Mapping[str, str | None], known: Collection[str] | None) -> list[dict[str, Any]]:
    """{"box", "label", "score"} of each box, best first; a score that is missing is 1, and other fields are dropped.

    Args:
        value: a list of {"box": [xmin, ymin, xmax, ymax] in 0..1 of the image, "label", "score"}.
        names: the label's name of a class of the file, None for boxes that are left out; others are as they are.
        known: the label's classes; None if it takes any words.
    """
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("expected a list of boxes, each with box, label and perhaps score")
    found = [_box(one, names, known) for one in value]
    return sorted((box for box in found if box is not None), key=lambda box: -box["score"])


def _box(
    one: Mapping[str, Any], names: Mapping[str, str | None], known: Collection[str] | None
) -> dict[str, Any] | None:
    box, name, score = one.get("box"), one.get("label"), one.get("score", 1.0)
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_share, box))):
        raise ValueError(f"a box of {box!r:.60}, expected [xmin, ymin, xmax, ymax] in 0 to 1")
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"a box of {box!r:.60}, which is empty")
    if not _is_share(score):
        raise ValueError(f"a score of {score!r:.60}, expected 0 to 1")
    if not isinstance(name, str):
        raise ValueError(f"a label of {name!r:.60}, expected the name of a class")
    name = names.get(name, name)
    if name is None:
        return None
    if known is not None and name not in known:
        raise ValueError(f"a box of {name!r:.60}, which is none of the label's classes; see classes")
    return {"box": [float(side) for side in box], "label": name, "score": float(score)}


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def instances(ids: np.ndarray) -> list[dict[str, Any]]:
    """A map of instances, integers (H, W), 0 where none is, as the records of SAM's, largest first.

    "point" is the pixel of a mask that is farthest from its border; "iou" and "stability" are 1.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "biu":
        raise ValueError(f"{ids.dtype} {ids.shape}, expected integers (H, W), 0 for no instance")
    numbers = [number for number in np.unique(ids) if number]
    return sorted((_instance(ids == number) for number in numbers), key=lambda one: -one["area"])


def _instance(mask: np.ndarray) -> dict[str, Any]:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    within = np.pad(mask[top:bottom, left:right].astype(np.uint8), 1)  # what is outside is the border
    inside = cv2.distanceTransform(within, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return {
        "box": [float(left / width), float(top / height), float(right / width), float(bottom / height)],
        "mask": masks.encode(mask),
        "point": [float((left + x + 0.5) / width), float((top + y + 0.5) / height)],
        "area": float(np.count_nonzero(mask) / mask.size),
        "iou": 1.0,
        "stability": 1.0,
    }


def text(value: Any) -> str:
    """Text that is more than white space."""
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__}, expected text")
    if not value.strip():
        raise ValueError("there is no text in it")
    return value


def numbers(value: Any) -> dict[str, int | float]:
    """A mapping from names to numbers."""
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__}, expected a mapping from names to numbers")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name!r:.60} is {number!r:.60}, expected a number")
    return value


def anything(value: Any) -> Any:
    """What JSON can say."""
    if isinstance(value, np.ndarray | bytes):
        raise ValueError("an array, expected JSON, text or a class")
    return value
