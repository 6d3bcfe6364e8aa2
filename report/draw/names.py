"""Names on pictures: where they stand, and how they are written.

A name covers as little as can be of what is shown, stands inside the picture and next to what it names, and on no other
name. One that finds no such place is left out; colours and the text of the picture say it as well.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pages show pictures at about half of their pixels, where letters of this size can be read.
_LETTERS = 18
_LEAST = 10  # below, letters run together: a longer name is cut
_MARGIN = 3
_FAR = 2.0  # what a name that stands a picture's side away from its place costs; covering a whole thing costs 1


class Names:
    """Places of names on a picture, each chosen when those before it have theirs.

    Args:
        worth: float (H, W), what it costs to cover each pixel: all pixels of a thing together cost 1.
    """

    def __init__(self, worth: np.ndarray) -> None:
        self._covered = _sums(worth)
        self._taken: np.ndarray = np.zeros(worth.shape, bool)
        self._found: list[tuple[int, int, int, str, tuple[int, ...]]] = []

    def add(
        self, name: str, color: tuple[int, ...], where: tuple[float, float], within: tuple[float, float, float, float]
    ) -> None:
        """Find a place for a name, if there is one.

        Args:
            where: x and y of the centre that it has if it covers nothing there.
            within: left, top, right, bottom of what it names: it touches this.
        """
        height, width = self._taken.shape
        name, letters = _fitting(name, width)
        wide, high = _extent(name, letters)
        if not name or wide > width or high > height:
            return
        left, top = np.arange(width - wide + 1)[None], np.arange(height - high + 1)[:, None]
        costs = _inside(self._covered, wide, high)
        away = np.hypot(left + wide / 2 - where[0], top + high / 2 - where[1])
        costs = costs + _FAR * away / max(height, width)
        touches = (left <= within[2] + 1) & (left + wide >= within[0] - 1)
        touches = touches & (top <= within[3] + 1) & (top + high >= within[1] - 1)
        costs = np.where(touches & (_inside(_sums(self._taken), wide, high) == 0), costs, np.inf)
        y, x = divmod(int(np.argmin(costs)), costs.shape[1])
        if np.isfinite(costs[y, x]):
            self._taken[y : y + high, x : x + wide] = True
            self._found.append((x, y, letters, name, color))

    def write(self, canvas: Image.Image) -> None:
        """Write all names, each in black or white on a ground of its colour."""
        draw = ImageDraw.Draw(canvas)
        for x, y, letters, name, color in self._found:
            wide, high = _extent(name, letters)
            draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=color)
            dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 128
            ink = (255, 255, 255) if dark else (0, 0, 0)
            draw.text((x + _MARGIN, y + high - _below(letters)), name, fill=ink, font=_font(letters), anchor="ls")


@cache
def _font(letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=letters)


def _extent(name: str, letters: int) -> tuple[int, int]:
    """Width and height of a name on its ground, pixels."""
    return int(np.ceil(_font(letters).getlength(name))) + 2 * _MARGIN, letters + _below(letters)


def _below(letters: int) -> int:
    """What a ground has below the line that letters stand on: room for those that go deeper."""
    return letters // 4 + 1


def _fitting(name: str, width: int) -> tuple[str, int]:
    """A name and its size of letters, such that it is not wider than a picture; cut if nothing else helps."""
    letters = _LETTERS
    while letters > _LEAST and _extent(name, letters)[0] > width:
        letters -= 1
    if _extent(name, letters)[0] > width:
        name = name[: max(0, int(len(name) * width / _extent(name, letters)[0]) - 2)] + ".."
    return name, letters


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums over the rectangle above and left of each pixel (H + 1, W + 1)."""
    return np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _inside(sums: np.ndarray, wide: int, high: int) -> np.ndarray:
    """The sums of all rectangles of a size, by their top left corners."""
    found: np.ndarray = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return found
