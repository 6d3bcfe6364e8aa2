"""Sentences of SAM instances: masks as text and back, in the form of 4M-21 as released.

For each of 7 random points of the crop: `point v0=y v1=x` (in this order), and for each instance that holds the point
`polygon v0=xmin v1=ymin v2=xmax v3=ymax` and the 16 ids of its mask's tokenizer; `none` if there is no such instance.
Coordinates count cells of a grid of 224 x 224 over the crop, whatever its size in pixels.

Decisions:
- A mask is tokenized within its box: the box is rounded to cells first, and the mask then read from the source's pixels
  over exactly that box, so that pasting it back puts it where it was.
- Instances whose box takes less than 0.05 % of the crop are left out, as in the released code.
- A point is inside of an instance if its cell's centre is; holes are outside. (The released code fills them.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import masks as run_lengths
from ..crops import Crop, hashed_uniforms
from .sentences import NUMBER, id_rows, split_id

GRID = 224
MASK_SIZE = 64
MASK_TOKENS = 16
CODES = 1024
POINTS = 7
MIN_BOX_SHARE = 0.0005

_POINT_WORDS, _INSTANCE_WORDS = 3, 5 + MASK_TOKENS
_PART = re.compile(
    rf"(?<!\w)point\s+v0={NUMBER}\s+v1={NUMBER}(?!\S)"
    rf"|(?<!\w)polygon\s+v0={NUMBER}\s+v1={NUMBER}\s+v2={NUMBER}\s+v3={NUMBER}"
    rf"((?:\s+v[01]=\d{{1,3}}){{{MASK_TOKENS}}})(?!\S)",
    re.ASCII,
)
_ID = re.compile(r"v([01])=(\d+)")


@dataclass(frozen=True)
class Queried:
    """What the sentence of a crop describes.

    boxes: int64 (n, 4), xmin, ymin, xmax, ymax in cells of the grid; the last two are exclusive.
    masks: uint8 (n, 64, 64), 0 or 1 within the box.
    points: for each point (x, y) on the grid the instances that hold it, in the order in which they are written.
    """

    boxes: np.ndarray
    masks: np.ndarray
    points: tuple[tuple[tuple[int, int], tuple[int, ...]], ...]


class _Seen(NamedTuple):
    """An instance in a crop: its mask in the source's frame, and the crop's window in pixels of that mask."""

    box: tuple[int, int, int, int]
    mask: np.ndarray
    window: tuple[float, float, float, float]
    flip: bool

    def holds(self, x: int, y: int) -> bool:
        """Whether the centre of cell (x, y) of the grid lies in the mask."""
        left, top, right, bottom = self.window
        # Masks are kept unmirrored: mirror the point instead.
        across = (GRID - 1 - x if self.flip else x) + 0.5
        column = int(left + across / GRID * (right - left))
        row = int(top + (y + 0.5) / GRID * (bottom - top))
        return bool(self.mask[min(row, self.mask.shape[0] - 1), min(column, self.mask.shape[1] - 1)])

    def cells(self) -> np.ndarray:
        """Which cells of the grid it `holds`, bool (GRID, GRID)."""
        left, top, right, bottom = self.window
        centres = (np.arange(GRID) + 0.5) / GRID
        columns = (left + centres * (right - left)).astype(np.int64).clip(max=self.mask.shape[1] - 1)
        rows = (top + centres * (bottom - top)).astype(np.int64).clip(max=self.mask.shape[0] - 1)
        inside: np.ndarray = self.mask[rows[:, None], columns[::-1] if self.flip else columns] > 0
        return inside

    def within_box(self, size: int) -> np.ndarray:
        """The mask over its box, uint8 (size, size), never empty: at least its fullest cells are set."""
        left, top, right, bottom = self.window
        xmin, ymin, xmax, ymax = self.box
        if self.flip:
            xmin, xmax = GRID - xmax, GRID - xmin
        across, down = (right - left) / GRID, (bottom - top) / GRID
        box = (left + xmin * across, top + ymin * down, left + xmax * across, top + ymax * down)
        # Half a cell is inside; a line thinner than half of every cell would leave nothing, so take its fullest cells.
        share = run_lengths.resample(self.mask, box, size)
        mask = (share >= min(0.5, float(share.max()))).astype(np.uint8)
        return mask[:, ::-1] if self.flip else mask


def _see(instance: Mapping[str, Any], width: int, height: int, crop: Crop) -> _Seen | None:
    """An instance as a crop shows it; None if the crop shows nothing of it, or too little."""
    mask = run_lengths.decode(instance["mask"])
    across, down = mask.shape[1] / width, mask.shape[0] / height  # 1 where masks are as large as the image
    left, right = crop.left * across, (crop.left + crop.width) * across
    top, bottom = crop.top * down, (crop.top + crop.height) * down
    # Pixels that the crop only touches count, so that the box holds every part of the mask that is shown.
    first_row, first_column = math.floor(top), math.floor(left)
    inside = mask[first_row : math.ceil(bottom), first_column : math.ceil(right)]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return None
    xmin, xmax = _cells(columns[0] + first_column, columns[-1] + 1 + first_column, left, right)
    ymin, ymax = _cells(rows[0] + first_row, rows[-1] + 1 + first_row, top, bottom)
    if (xmax - xmin) * (ymax - ymin) < MIN_BOX_SHARE * GRID * GRID:
        return None
    if crop.flip:
        xmin, xmax = GRID - xmax, GRID - xmin
    return _Seen((xmin, ymin, xmax, ymax), mask, (left, top, right, bottom), crop.flip)


def _cells(first: float, stop: float, start: float, end: float) -> tuple[int, int]:
    """Pixels [first, stop) as cells of the grid over [start, end), rounded, at least one."""
    scale = GRID / (end - start)
    low = min(max(round((first - start) * scale), 0), GRID - 1)
    return low, min(max(round((stop - start) * scale), low + 1), GRID)


def _seen(label: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop) -> list[_Seen]:
    shown = []
    for instance in label:
        xmin, _, xmax, _ = (c * width for c in instance["box"])
        _, ymin, _, ymax = (c * height for c in instance["box"])
        # Most masks miss a small crop: decode only those whose box is within a pixel of it (boxes are rounded).
        near_x = xmin < crop.left + crop.width + 1 and xmax > crop.left - 1
        if near_x and ymin < crop.top + crop.height + 1 and ymax > crop.top - 1:
            shown.append(_see(instance, width, height, crop))
    return [one for one in shown if one is not None]


def instance_masks(
    label: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop, size: int = MASK_SIZE
) -> np.ndarray:
    """The masks of all instances that a crop shows, each within its box: uint8 (n, size, size), 0 or 1.

    Args:
        label: {"box": [xmin, ymin, xmax, ymax] in [0, 1] of the image, "mask": run lengths of the whole image, ...}.
        width, height: of the source image, in pixels.
        crop: the window of the source image.
    """
    masks = [one.within_box(size) for one in _seen(label, width, height, crop)]
    return np.array(masks, np.uint8).reshape(-1, size, size)


def query(
    label: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop, seed: int, key: str, index: int,
    points: int = POINTS, max_words: int = 289, at: Sequence[tuple[int, int]] | None = None,
) -> Queried:  # fmt: skip
    """Random points of a crop and the instances that hold them, as many as a sentence has room for.

    Points and the order of the instances of a point are a pure function of (seed, key, index).

    Args:
        label, width, height, crop: see `instance_masks`.
        seed, key, index: of the dataset, the sample and the crop.
        points: how many; of points that fall on one cell one is kept.
        max_words: length of the sentence without EOS. The first instance that does not fit ends it.
        at: points (x, y) on the grid in the place of random ones, see `own_points`.
    """
    seen = _seen(label, width, height, crop)
    kept: dict[int, None] = {}  # instances, in the order in which they are first written
    queried: dict[tuple[int, int], tuple[int, ...]] = {}  # the instances that are written for a point
    left = max_words
    if at is None:
        at = [_random_point(seed, key, index, i) for i in range(points)]
    for i, (x, y) in enumerate(at):
        if (x, y) in queried:
            continue
        holders = [n for n, one in enumerate(seen) if one.holds(x, y)]
        # Hashed rather than by size or score: the model must not learn an order that means nothing.
        holders.sort(key=lambda n, i=i: hashed_uniforms(1, "instance", seed, key, index, i, n))  # type: ignore[misc]
        # `none` is one word; a point with instances needs room for at least the first.
        room = (left - _POINT_WORDS) // _INSTANCE_WORDS if holders else left - _POINT_WORDS
        if room < 1:
            break
        written = tuple(holders[:room])
        left -= _POINT_WORDS + (_INSTANCE_WORDS * len(written) or 1)
        kept |= dict.fromkeys(written)
        queried[x, y] = written
        if len(written) < len(holders):
            break
    # An instance that holds several points is tokenized once, and its ids are written for each of them.
    number = {n: position for position, n in enumerate(kept)}
    return Queried(
        np.array([seen[n].box for n in kept], np.int64).reshape(-1, 4),
        np.array([seen[n].within_box(MASK_SIZE) for n in kept], np.uint8).reshape(-1, MASK_SIZE, MASK_SIZE),
        tuple((point, tuple(number[n] for n in written)) for point, written in queried.items()),
    )


def _random_point(seed: int, key: str, index: int, i: int) -> tuple[int, int]:
    x, y = (int(draw * GRID) for draw in hashed_uniforms(2, "point", seed, key, index, i))
    return x, y


def own_points(label: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop) -> list[tuple[int, int]] | None:
    """Where on the grid of a crop to ask for instances that a person drew, one point for each; None if there are none.

    An instance is drawn if it has a "query": the point to ask at, [x, y] in [0, 1] of the image, or None. The point of
    one that says none, or whose point the crop does not show, is the one deepest inside of what the crop shows.
    """
    drawn = [one for one in label if "query" in one]
    if not drawn:
        return None
    points = [_own_point(one, width, height, crop) for one in drawn]
    return [point for point in points if point is not None]


def _own_point(instance: Mapping[str, Any], width: int, height: int, crop: Crop) -> tuple[int, int] | None:
    import cv2

    seen = _see(instance, width, height, crop)
    if seen is None:
        return None
    inside = seen.cells().astype(np.uint8)
    if instance["query"] is not None:
        x, y = instance["query"]
        across, down = (x * width - crop.left) / crop.width, (y * height - crop.top) / crop.height
        column, row = int((1 - across if crop.flip else across) * GRID), int(down * GRID)
        if 0 <= column < GRID and 0 <= row < GRID and inside[row, column]:
            return column, row
    if not inside.any():  # thinner than a cell
        return None
    # The crop's edge ends an instance, too.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), GRID)
    return column, row


def instances_to_chunks(queried: Queried, ids: np.ndarray) -> list[str]:
    """The sentence in chunks that are kept whole: a point with its first instance (or `none`), then each further one.

    Args:
        ids: integers (n, 16), the tokens of `queried.masks`, below 1024.
    """
    tokens = id_rows("sam_instance", ids, len(queried.boxes), MASK_TOKENS)
    polygons = [
        " ".join(["polygon", *(f"v{axis}={c}" for axis, c in enumerate(box)), *map(split_id, mask)])
        for box, mask in zip(queried.boxes.tolist(), tokens, strict=True)
    ]
    chunks = []
    for (x, y), instances in queried.points:
        first, *others = [polygons[i] for i in instances] or ["none"]
        chunks += [f"point v0={y} v1={x} {first}", *others]
    return chunks


def text_to_instances(text: str, codes: int = CODES) -> list[dict[str, Any]]:
    """The whole instances of a sentence, in the frame of the crop, each as often as it is said.

    Args:
        codes: size of the tokenizer's codebook; instances with a larger id are left out.

    Returns:
        {"box": [xmin, ymin, xmax, ymax] in [0, 1], "point": [x, y] in [0, 1] or None if no point came before, "tokens":
        16 ids}. Instances whose corners are swapped or outside of the crop are left out.
    """
    instances: list[dict[str, Any]] = []
    point: list[float] | None = None
    for match in _PART.finditer(text):
        if match[1]:  # a point: it stands for all instances until the next one
            y, x = int(match[1]), int(match[2])
            point = [(x + 0.5) / GRID, (y + 0.5) / GRID] if max(x, y) < GRID else None
            continue
        xmin, ymin, xmax, ymax = (int(match[i]) for i in range(3, 7))
        ids = [512 * int(axis) + int(number) for axis, number in _ID.findall(match[7])]
        if xmin < xmax <= GRID and ymin < ymax <= GRID and max(ids) < codes:
            box = [xmin / GRID, ymin / GRID, xmax / GRID, ymax / GRID]
            instances.append({"box": box, "point": point, "tokens": ids})
    return instances


def paste_masks(instances: Sequence[Mapping[str, Any]], masks: np.ndarray) -> list[dict[str, Any]]:
    """Instances with the masks that their tokens decode to, as a label of the crop, largest first.

    Args:
        instances: from `text_to_instances`; one that is said for several points is pasted once.
        masks: (n, size, size), 0 and 1 or shares, within the boxes.

    Returns:
        {"box", "point", "mask": run lengths at 224 x 224, "area": share of the crop}.
    """
    pasted: dict[tuple[float, ...], dict[str, Any]] = {}
    for instance, mask in zip(instances, np.asarray(masks, np.float32), strict=True):
        # Without tokens (labels that were not tokenized) every instance is another one.
        identity = (*instance["box"], *instance.get("tokens", (len(pasted),)))
        if identity in pasted:
            continue
        xmin, ymin, xmax, ymax = (round(c * GRID) for c in instance["box"])
        canvas = np.zeros((GRID, GRID), np.uint8)
        canvas[ymin:ymax, xmin:xmax] = _resize(mask, xmax - xmin, ymax - ymin) >= 0.5
        pasted[identity] = {
            "box": list(instance["box"]), "point": instance["point"],
            "mask": run_lengths.encode(canvas), "area": float(canvas.mean()),
        }  # fmt: skip
    return sorted(pasted.values(), key=lambda instance: -instance["area"])


def _resize(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    # INTER_AREA averages only where it shrinks; where it grows it takes the nearest pixel.
    shrinks = width <= mask.shape[1] and height <= mask.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(mask, (width, height), interpolation=method)


def queried_to_label(queried: Queried) -> list[dict[str, Any]]:
    """What a sentence says if its masks were not tokenized, in the form of `paste_masks`."""
    first: dict[int, list[float]] = {}
    for (x, y), holders in queried.points:
        for i in holders:
            first.setdefault(i, [(x + 0.5) / GRID, (y + 0.5) / GRID])
    instances = [{"box": (box / GRID).tolist(), "point": first[i]} for i, box in enumerate(queried.boxes)]
    return paste_masks(instances, queried.masks)
