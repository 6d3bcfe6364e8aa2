"""Surface normals from the depth label, by geometry: no weights, no download.

A plane a X + b Y + c Z = 1 seen by a pinhole camera has inverse depth w = 1 / Z = a x + b y + c, where (x, y) are image
coordinates in units of the focal length: inverse depth is affine on planes. So its gradient in the image is (a, b), and
c = w - a x - b y. This is the cross product of the surface's two tangent vectors, without its cancellations, and
smoothing inverse depth moves no plane.

What a relative depth leaves open is assumed, by options: how the label runs between the nearest and the farthest point
(linear in inverse depth, as DepthAnything and MiDaS say, or linear in depth), how much farther the farthest is, and the
focal length. Wrong values tilt surfaces, the more the steeper they are; flat ones facing the camera stay right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from ...reject import Reject
from .. import conventions
from ..base import Item, Specialist
from ..conventions import DEPTH, INVERSE
from .framed import unit_vectors

_SMALLEST = 3  # pixels along a side, for a gradient


class NormalsFromDepth(Specialist):
    """Unit normals of the surface that the depth label describes: x right, y up, z toward the viewer.

    Across an edge between near and far the "surface" is a steep wall some pixels wide: a picture of normals shows
    objects with outlines.
    """

    name: ClassVar[str] = "normals_from_depth"
    label: ClassVar[str] = "normal"
    needs: ClassVar[tuple[str, ...]] = ("depth",)
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False

    depth_is: Literal["inverse", "linear"] = Field(
        "inverse",
        description="What the depth label is linear in: inverse depth (DepthAnything relative, MiDaS) or depth (metric "
        "models).",
    )
    far_ratio: float = Field(
        8.0, gt=1, le=1000, description="Distance of the farthest point over that of the nearest, which no label tells."
    )
    focal: float = Field(
        1.0, gt=0.1, le=20, description="Focal length over the longer side of the image; 1 is 53 degrees across."
    )
    smoothing: float = Field(
        0.006,
        ge=0,
        le=0.1,
        description="Standard deviation of the Gaussian before the gradient, over the longer side of the image. Labels "
        "are float16, whose steps would show as stripes.",
    )

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        linear = conventions.linear(others.get("depth"))
        right = {DEPTH: "linear", INVERSE: "inverse"}.get(linear, self.depth_is)
        if self.depth_is == right:
            return ""
        return (
            f"normal: depth_is is {self.depth_is}, and the depth of this recipe is linear in "
            f"{linear.replace('_', ' ')}; say labels.specialists.normal.depth_is: {right}"
        )

    def __call__(self, items: Sequence[Item]) -> list[np.ndarray | Reject]:
        """float16 (H, W, 3), unit vectors, for each item; a Reject where there is no depth, or too little of it."""
        return [self._normals(item.labels.get("depth")) for item in items]

    def _normals(self, depth: np.ndarray | None) -> np.ndarray | Reject:
        if depth is None:
            return Reject("normal: there is no depth to take it from")
        if min(depth.shape) < _SMALLEST:
            return Reject(f"normal: a depth map of {depth.shape} has no gradient")
        near = 1 - np.asarray(depth, np.float32)  # 1 nearest, 0 farthest
        if self.depth_is == "inverse":
            inverse = (1 + near * (self.far_ratio - 1)) / self.far_ratio
        else:
            inverse = 1 / (self.far_ratio - near * (self.far_ratio - 1))
        longer = max(depth.shape)
        unit = unit_vectors(normals_of(smoothed(inverse, self.smoothing * longer), self.focal * longer))
        return Reject("normal: no direction anywhere") if unit is None else unit


def normals_of(inverse_depth: np.ndarray, focal: float) -> np.ndarray:
    """Normals (H, W, 3), of any length, of a surface of this inverse depth (H, W), of any scale.

    Args:
        focal: focal length in pixels; the optical axis goes through the middle of the image.

    Returns:
        x right, y up, z toward the viewer.
    """
    height, width = inverse_depth.shape
    along_y, along_x = np.gradient(inverse_depth)
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / focal
    y = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) / focal
    a, b = focal * along_x, focal * along_y
    c = inverse_depth - a * x - b * y
    # (a, b, c) points away from the viewer, with y down and z forward.
    return np.stack([-a, b, c], axis=2)


def smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur that leaves slopes alone up to the border: the image goes on there, mirrored in both senses."""
    if sigma <= 0:
        return image
    reach = min(max(1, round(3 * sigma)), min(image.shape) - 1)
    wide = np.pad(image, reach, mode="reflect", reflect_type="odd")
    blurred = cv2.GaussianBlur(wide, (2 * reach + 1, 2 * reach + 1), sigma)
    return blurred[reach:-reach, reach:-reach]
