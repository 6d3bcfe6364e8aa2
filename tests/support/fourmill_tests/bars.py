"""Photos with bars around them, as downloads pad them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

WHITE = (255, 255, 255)


def shrunk(photo: np.ndarray, side: int) -> np.ndarray:
    """The photo with its longer side at `side` pixels, as img2dataset resizes before it pads."""
    scale = side / max(photo.shape[:2])
    height, width = (round(edge * scale) for edge in photo.shape[:2])
    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)


def padded(photo: np.ndarray, colour: Sequence[int] = WHITE, middle: bool = True) -> np.ndarray:
    """A square with the photo in its middle, as img2dataset's `border`; or with all of the bar below, or right."""
    height, width = photo.shape[:2]
    side = max(height, width)
    top, left = ((side - height) // 2, (side - width) // 2) if middle else (0, 0)
    square = np.full((side, side, 3), colour, np.uint8)
    square[top : top + height, left : left + width] = photo
    return square
