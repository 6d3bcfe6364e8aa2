"""Colour palettes of 1 to 7 colours (4M-21's `color_palette`): k-means, most frequent colour first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from pydantic import Field

from ...reject import Reject
from ..base import ImageItem, Specialist

SIZES = range(1, 8)  # 4M-21 draws the number of colours from 1..7

_SEED = 0


class Palette(Specialist):
    """k-means in RGB over a regular grid of pixels, for each number of colours by itself (the paper uses PyPalette).

    A grid rather than a shrunk image, which would mix colours that the image does not have. The seed is fixed for each
    image, so that a palette is a function of the pixels alone; OpenCV keeps its generator for each thread, so threads
    do not disturb each other. An image of fewer colours than asked for has exactly these, repeated from the first.
    """

    name: ClassVar[str] = "palette"
    label: ClassVar[str] = "color_palette"

    side: int = Field(48, ge=8, le=512, description="Pixels that are looked at along the longer side.")
    attempts: int = Field(2, ge=1, le=16, description="k-means runs from other starts, of which the best counts.")

    def __call__(self, items: Sequence[ImageItem]) -> list[list[list[list[int]]] | Reject]:
        """Seven palettes for each item; palettes[n - 1] is a list of n colours [r, g, b], 0..255."""
        return [self._palettes(item.image) for item in items]

    def _palettes(self, image: np.ndarray) -> list[list[list[int]]]:
        stride = -(-max(image.shape[:2]) // self.side)
        pixels = image[_middles(image.shape[0], stride), _middles(image.shape[1], stride)].reshape(-1, 3)
        codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        distinct, counts = np.unique(codes, return_counts=True)
        colours = np.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], axis=1)
        palettes = []
        for size in SIZES:
            if len(colours) > size:
                palettes.append(_most_frequent_first(*self._cluster(pixels, size)))
            else:
                ranked = _most_frequent_first(colours, counts)
                palettes.append([ranked[i % len(ranked)] for i in range(size)])
        return palettes

    def _cluster(self, pixels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Centres, int (size, 3), and how many pixels each has."""
        cv2.setRNGSeed(_SEED)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 30, 0.5)
        points, room = pixels.astype(np.float32), np.empty((len(pixels), 1), np.int32)
        _, labels, centres = cv2.kmeans(points, size, room, stop, self.attempts, cv2.KMEANS_PP_CENTERS)
        return np.rint(centres).astype(np.int64), np.bincount(labels[:, 0], minlength=size)


def _middles(length: int, stride: int) -> slice:
    """The middle of each run of `stride` pixels; one pixel at least."""
    return slice(min(stride, length) // 2, None, stride)


def _most_frequent_first(colours: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    """As plain lists; equally frequent colours in the order of their values."""
    order = np.lexsort((colours[:, 2], colours[:, 1], colours[:, 0], -counts))
    return [[int(value) for value in colour] for colour in colours[order]]
