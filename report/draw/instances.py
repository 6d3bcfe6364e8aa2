"""Pictures of instance masks: coloured overlays with outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...tokenize import masks
from ...tokenize.id_colors import id_colors
from .panels import Panel, TextPanel, backdrop, picture, scaled

_OPACITY = 0.5
_MOST = 200  # instances that are drawn, the largest


def draw_instances(instances: Sequence[Mapping[str, Any]], image: np.ndarray | None, *, size: int = 320) -> Panel:
    """Masks over the image, large ones below, each with an outline and its query point.

    Each is {"mask": run lengths over the whole frame, "box": [xmin, ymin, xmax, ymax] in [0, 1], "point": [x, y] or
    None}. The colour hangs on the box, so that an instance and its reconstruction look alike.
    """
    if not instances:
        return TextPanel("no instances", quiet=True)
    frame = image.shape[:2] if image is not None else instances[0]["mask"]["size"]
    height, width = scaled(frame, size)
    canvas = backdrop(image, height, width)
    resized = [
        cv2.resize(masks.decode(one["mask"]), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        for one in instances
    ]
    # Large ones first, so that small ones stay visible on top of them.
    order = sorted(range(len(resized)), key=lambda i: -int(resized[i].sum()))[:_MOST]
    for i in order:
        color = id_colors(_number(instances[i]["box"]))
        inside = resized[i] > 0
        canvas[inside] = np.rint((1 - _OPACITY) * canvas[inside] + _OPACITY * color).astype(np.uint8)
        outline, _ = cv2.findContours(resized[i], cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outline, -1, [int(c) for c in color], 1)
        if instances[i].get("point"):
            x, y = (int(c * edge) for c, edge in zip(instances[i]["point"], (width, height), strict=True))
            cv2.circle(canvas, (x, y), 2, (255, 255, 255), -1)
            cv2.circle(canvas, (x, y), 3, (0, 0, 0), 1)
    count = "1 instance" if len(instances) == 1 else f"{len(instances)} instances"
    return picture(canvas, f"{count}, {np.mean(np.any(resized, axis=0)):.0%} of the pixels", size=size)


def _number(box: Sequence[float]) -> np.ndarray:
    """An id of a box, the same for boxes that differ by less than a cell of the grid of sentences."""
    cells = np.rint(np.asarray(box, np.float64) * 112).astype(np.int64)
    return np.array(int(cells @ [1, 113, 113 * 113, 113**3]) % 65_521)
