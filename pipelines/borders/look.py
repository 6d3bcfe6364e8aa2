"""Whether the images of a shard have bars around them: how many, and a picture of some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..grouping import SourceSample
from ..reject import Reject
from ..settings import Images
from ..source import Shard
from .photo import decode
from .window import Window

EXAMPLES = 12
_COLUMNS, _SIDE = 4, 192  # of the picture; a cell in pixels
_OUTLINE = (255, 0, 96)


@dataclass
class BarsSeen:
    """images: that could be read. barred: of these with bars. cut_away: the sum of their shares of pixels in bars.
    shorter_sides: of all images, in pixels. examples: of those with bars, the photo outlined.
    """

    images: int = 0
    barred: int = 0
    cut_away: float = 0.0
    shorter_sides: list[int] = field(default_factory=list)
    examples: list[np.ndarray] = field(default_factory=list)

    def add(self, image: np.ndarray, window: Window) -> None:
        """One more image, whole, and where the photo is in it."""
        self.images += 1
        self.shorter_sides.append(min(image.shape[:2]))
        if not window.is_whole:
            self.barred += 1
            self.cut_away += window.cut_away
            if len(self.examples) < EXAMPLES:
                self.examples.append(_outlined(image, window))

    @property
    def finding(self) -> str:
        """What was found, in words; "" if no image has bars."""
        if not self.barred:
            return ""
        share = self.cut_away / self.barred
        return f"{self.barred} of {self.images} images have bars of one colour, {share:.0%} of the pixels of each"

    def picture(self) -> np.ndarray:
        """The examples, uint8 (H, W, 3), with a line around what `images.trim_borders` leaves."""
        rows = max(1, -(-len(self.examples) // _COLUMNS))
        sheet = np.full((rows * _SIDE, _COLUMNS * _SIDE, 3), 64, np.uint8)
        for number, example in enumerate(self.examples):
            height, width = example.shape[:2]
            top, left = number // _COLUMNS * _SIDE, number % _COLUMNS * _SIDE
            top, left = top + (_SIDE - height) // 2, left + (_SIDE - width) // 2
            sheet[top : top + height, left : left + width] = example
        return sheet


def look(shard: Shard, samples: Iterable[SourceSample], max_pixels: int) -> BarsSeen:
    """Look at the images of some samples; those that cannot be read are passed over."""
    seen, settings = BarsSeen(), Images(max_pixels=max_pixels)
    for sample in samples:
        try:
            seen.add(*decode(shard.image(sample), shard.info(sample), settings))
        except Reject:
            continue
    return seen


def _outlined(image: np.ndarray, window: Window) -> np.ndarray:
    """A small copy with a line around the window."""
    scale = (_SIDE - 8) / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    low = round(window.left * scale), round(window.top * scale)
    high = round((window.left + window.width) * scale) - 1, round((window.top + window.height) * scale) - 1
    return cv2.rectangle(small, low, high, _OUTLINE, 2)
