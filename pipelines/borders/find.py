"""Bars of one colour that a download added to a photo: where they end.

img2dataset pads by default: it shrinks a photo into a square, and fills the rest with one colour (`resize_mode=border`,
its img2dataset/resizer.py: the longer side is the square's, the photo in the middle, a row that is left over below or
right). Its sidecar says the photo's own size, and with it all is known. Without a sidecar the pixels must say it.

Decisions:
- A photo whose sidecar gives its own size, and whose image has the same aspect, was not padded: whatever is uniform in
  it is its own, a white sky or a black border.
- Without one, a bar is what is of one colour along a whole side and ends at a straight edge: right behind it more than
  half of the line is of another colour. A white sky ends at roofs and trees, a page at letters.
- Padding is at one pair of sides. Borders of all four sides are the photo's own (a frame, a slide).
- JPEG leaves rings beside an edge, within the block that the edge goes through: the bar ends where they do, at the
  jump, and not where the block begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .window import Window

BARS = "bars"  # in records: how many images of a shard have some
VERSION = 1  # raise it when the same image gives another window

_TOLERANCES = (0, 2)  # of 255, by which pixels of a bar may differ: none, and what lossy formats round
_BLOCK = 8  # pixels of JPEG's blocks; of colours that have half the resolution two of them
_JUMP = 16  # of 255: an edge, beside which rings are a third at most
_RINGS = 3
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_AT_ONCE = 64  # lines
_STRAIGHT = 0.5  # share of the line behind a bar that is of another colour
_LEAST = 0.01  # of a side, and two pixels: a bar that nobody's sidecar vouches for
_MOST = 7 / 8
_ROUNDED = 0.5 + 1e-6  # of a pixel
_LONGEST = 10**7  # pixels; what a sidecar says beyond that is no size
_NOISE = 12  # of 255, mean difference of what a known bar holds, rings included


class Bars(NamedTuple):
    """Rows, or columns, of bars at the two ends of an axis."""

    first: int
    last: int


def find(image: np.ndarray, info: Mapping[str, Any]) -> Window:
    """The part of an image that is the photo.

    Args:
        image: uint8 (H, W, 3).
        info: its sidecar, of which `original_width` and `original_height` are the photo's before it was padded.
    """
    height, width = image.shape[:2]
    whole = Window.whole(width, height)
    size = _original_size(info)
    if size is not None and (_has_aspect((width, height), size) or _has_aspect((height, width), size)):
        return whole
    seen = _by_pixels(image)
    if size is None or (not seen.is_whole and _has_aspect((seen.width, seen.height), size)):
        return seen
    return _by_size(image, size)


def _original_size(info: Mapping[str, Any]) -> tuple[float, float] | None:
    sides = info.get("original_width"), info.get("original_height")
    numbers = [s for s in sides if isinstance(s, int | float) and not isinstance(s, bool) and 1 <= s <= _LONGEST]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _has_aspect(size: tuple[int, int], original: tuple[float, float]) -> bool:
    """Whether an image is the original at another size, one of its sides rounded."""
    (width, height), (across, down) = size, original
    return min(abs(height - width * down / across), abs(width - height * across / down)) <= _ROUNDED


def _by_size(image: np.ndarray, original: tuple[float, float]) -> Window:
    """The largest window of the photo's aspect, where padding puts it, if all around it is of one colour."""
    height, width = image.shape[:2]
    beside = width * original[1] > height * original[0]
    lines = image.swapaxes(0, 1) if beside else image
    length, across = lines.shape[:2]
    share = original[0] / original[1] if beside else original[1] / original[0]
    inner = max(1, round(across * share))
    rest = length - inner
    for first in dict.fromkeys((rest // 2, rest - rest // 2, 0, rest)):
        bars = Bars(first, rest - first)
        if _is_bar(lines[: bars.first]) and _is_bar(lines[::-1][: bars.last]):
            return _window(image, bars if not beside else None, bars if beside else None)
    return Window.whole(width, height)


def _is_bar(lines: np.ndarray) -> bool:
    """Whether lines are of one colour, but for the rings of lossy formats beside the photo."""
    if not len(lines):
        return True
    distance = _distance(lines, _colour(lines))
    pure = distance[: max(1, len(lines) - 2 * _BLOCK)]
    return bool(pure.max() <= _TOLERANCES[-1] and distance.mean() <= _NOISE)


def _by_pixels(image: np.ndarray) -> Window:
    rows, columns = _bars(image), _bars(image.swapaxes(0, 1))
    if any(rows) and any(columns):  # a border of the photo's own
        rows = columns = Bars(0, 0)
    return _window(image, rows, columns)


def _window(image: np.ndarray, rows: Bars | None, columns: Bars | None) -> Window:
    height, width = image.shape[:2]
    (top, below), (left, right) = rows or Bars(0, 0), columns or Bars(0, 0)
    return Window(left, top, width - left - right, height - top - below, width, height)


def _bars(lines: np.ndarray) -> Bars:
    """The bars at both ends of the first axis."""
    count = len(lines)
    first, last = _end(lines, 0), _end(lines[::-1], count)
    ends = [first.straight, last.straight]
    if not any(ends):
        return Bars(0, 0)
    # Where the photo is of the bar's colour its edge cannot be seen; padding is as thick at the other end.
    if np.abs(_colour(lines) - _colour(lines[::-1])).max() <= _TOLERANCES[-1]:
        if first.straight and not last.straight and last.uniform >= first.straight:
            ends[1] = first.straight
        elif last.straight and not first.straight and first.uniform >= last.straight - 1:
            ends[0] = min(first.uniform, last.straight)
    if sum(ends) < max(2, math.ceil(_LEAST * count)) or sum(ends) > _MOST * count:
        return Bars(0, 0)
    return Bars(ends[0], ends[1])


class _End(NamedTuple):
    """At one end: lines of one colour, and how many of them are a bar: those before a straight edge, or none."""

    uniform: int
    straight: int


def _end(lines: np.ndarray, place: int) -> _End:
    """Args:
    place: 0 if the lines are in order, their number if they are in reverse: where blocks of JPEG begin.
    """
    if np.ptp(lines[0], axis=0).max() > 2 * _TOLERANCES[-1]:  # as of nearly all images without bars
        return _End(0, 0)
    colour, uniform = _colour(lines), 0
    for tolerance in _TOLERANCES:
        uniform = _uniform(lines, colour, tolerance, uniform)
        if uniform == len(lines):
            return _End(uniform, 0)
        if uniform and (straight := _straight(lines, colour, tolerance, uniform, abs(place - uniform))):
            return _End(uniform, straight)
    return _End(uniform, 0)


def _uniform(lines: np.ndarray, colour: np.ndarray, tolerance: int, known: int) -> int:
    """How many lines are of one colour; `known` of them are. A few are looked at, at a time: most images have none."""
    step = 1
    while known < len(lines):
        others = np.flatnonzero((_distance(lines[known : known + step], colour) > tolerance).any(1))
        if len(others):
            return known + int(others[0])
        known, step = min(known + step, len(lines)), min(2 * step, _AT_ONCE)
    return known


def _straight(lines: np.ndarray, colour: np.ndarray, tolerance: int, uniform: int, place: int) -> int:
    """Where the bar ends, in lines, if its end is straight; 0 if not."""
    if place % _BLOCK in (0, 1, _BLOCK - 1):
        part = lines[uniform - 1 : uniform + 2 * _BLOCK + 1].astype(np.float32)
        steps = np.abs(np.diff(part @ _GREY, axis=0)).mean(1)  # JPEG halves the resolution of colours, not of grey
        jump = int(steps.argmax())
        if jump and steps[jump] >= max(_JUMP, _RINGS * steps[:jump].max()):
            uniform, tolerance = uniform + jump, max(tolerance, round(steps[jump] / 2))
    behind = _distance(lines[uniform : uniform + 1], colour)
    return uniform if np.mean(behind > tolerance) >= _STRAIGHT else 0


def _distance(lines: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How far pixels are from a colour, int16 (lines, n): the largest difference of a channel."""
    return np.abs(lines.astype(np.int16) - colour).max(2)


def _colour(lines: np.ndarray) -> np.ndarray:
    """The colour of the outermost line, int16 (3,)."""
    return np.median(lines[0], axis=0).astype(np.int16)
