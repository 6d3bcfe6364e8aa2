"""SAM edges (4M-21's `sam_edge`): Canny edges of the map of SAM's instances, at the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from ....tokenize import masks
from ...reject import Reject
from ..base import ImageItem, Specialist

_STEP = 255  # between the two sides of every border


class SamEdges(Specialist):
    """Canny on the instances drawn over each other, the small ones on top.

    The paper colours the instances and names no colours. Here the map has one 0-or-255 plane for each binary digit of
    an instance's number, and at each pixel the plane with the strongest gradient counts: any two neighbours differ by
    255 in some plane, so that every border is an edge, and just as strong, whatever the numbers are.
    """

    name: ClassVar[str] = "sam_edges"
    label: ClassVar[str] = "sam_edge"
    needs: ClassVar[tuple[str, ...]] = ("sam_instance",)

    def __call__(self, items: Sequence[ImageItem]) -> list[np.ndarray | Reject]:
        """uint8 (H, W) of 0 and 255 (edge) for each item; all 0 without instances."""
        return [self._edges(item) for item in items]

    def _edges(self, item: ImageItem) -> np.ndarray | Reject:
        if "sam_instance" not in item.labels:
            return Reject("sam_edge: there are no instances")
        instances, size = item.labels["sam_instance"], item.image.shape[:2]
        wrong = next((i["mask"]["size"] for i in instances if tuple(i["mask"]["size"]) != size), None)
        if wrong is not None:
            return Reject(f"sam_edge: a mask of {wrong[0]} x {wrong[1]} pixels, expected {size[0]} x {size[1]}")
        return border_edges(instance_map(instances, *size))


def instance_map(instances: Sequence[dict[str, Any]], height: int, width: int) -> np.ndarray:
    """Instances drawn over each other, the smallest last: int32 (height, width), 0 where none is, else 1 + its rank."""
    drawn = np.zeros((height, width), np.int32)
    ranks = sorted(range(len(instances)), key=lambda i: (-instances[i]["area"], i))
    for number, i in enumerate(ranks, 1):
        drawn[masks.decode(instances[i]["mask"]) > 0] = number
    return drawn


def border_edges(numbers: np.ndarray) -> np.ndarray:
    """Canny edges of a map of numbers, which mean nothing but same or other: uint8 (H, W), 0 or 255."""
    digits = max(1, int(numbers.max(initial=0)).bit_length())
    planes = ((numbers[..., None] >> np.arange(digits)) & 1).astype(np.uint8) * np.uint8(_STEP)
    return cv2.Canny(planes, _STEP, 2 * _STEP)
