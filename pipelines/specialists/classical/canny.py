"""Canny edges of the image (4M-21's `canny_edge`), at the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from ...reject import Reject
from ..base import ImageItem, Specialist

_MAX_GRADIENT = 2040.0  # |dx| + |dy| of a 3 x 3 Sobel filter on 8 bits


class Canny(Specialist):
    """OpenCV's Canny on the colour image: at each pixel the channel with the strongest gradient counts.

    The paper names OpenCV's detector and no thresholds; 100 and 200 are those of OpenCV's and ControlNet's examples.
    """

    name: ClassVar[str] = "canny"
    label: ClassVar[str] = "canny_edge"

    low: float = Field(
        100.0, ge=0, le=_MAX_GRADIENT, description="Gradient (|dx| + |dy|) above which a pixel continues an edge."
    )
    high: float = Field(200.0, ge=0, le=_MAX_GRADIENT, description="Gradient above which a pixel starts an edge.")
    blur: float = Field(
        0.0, ge=0, le=32, description="Standard deviation in pixels of a Gaussian blur before; 0 for none."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"canny: got low {self.low} above high {self.high}, expected low <= high; swap them")
        return self

    def __call__(self, items: Sequence[ImageItem]) -> list[np.ndarray | Reject]:
        """uint8 (H, W) of 0 and 255 (edge) for each item."""
        return [self._edges(item.image) for item in items]

    def _edges(self, image: np.ndarray) -> np.ndarray:
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        return cv2.Canny(image, self.low, self.high)
