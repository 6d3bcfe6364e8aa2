"""Scenes and their truth as arrays, for `labellers.py`: rendered once, kept in a folder, read by mapping."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fourmill.pipelines.scenes import draw, kinds
from fourmill.pipelines.scenes.render import render
from fourmill.pipelines.scenes.seen import seen

MOST_BOXES = max(level.things[1] for level in kinds.LEVELS.values())
SHAPES = tuple(kinds.SHAPES)
CHUNK = 20

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """Which scenes of the split `draw.LABELLERS`: those of a seed, `counts` of them at each clutter."""

    seed: int
    counts: dict[str, int]
    size: int


def scenes(asked: Asked, cache: Path, processes: int) -> Arrays:
    """The truth of scenes, rendered if the cache has them not.

    Returns:
        rgb uint8 (n, H, W, 3); depth float16 (n, H, W), metres, NaN for the sky; normal float16 (n, H, W, 3), 0 for the
        sky; semseg uint8 (n, H, W); boxes float32 (n, MOST_BOXES, 6): xmin, ymin, xmax, ymax in 0..1, the shape's place
        in SHAPES (-1: there is none), the pixels of it that show.
    """
    words = json.dumps([asdict(asked), *(draw.level_of(clutter).version for clutter in asked.counts)])
    folder = cache / "-".join([str(asked.seed), str(asked.size), *(f"{k}{n}" for k, n in asked.counts.items())])
    note = folder / "made.json"
    if not (note.exists() and note.read_text() == words):
        folder.mkdir(parents=True, exist_ok=True)
        made = _rendered(asked, processes)
        for name, array in made.items():
            np.save(folder / f"{name}.npy", array)
        note.write_text(words)
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def _rendered(asked: Asked, processes: int) -> Arrays:
    chunks, first = [], 0
    for clutter, count in asked.counts.items():  # indices go on: no two scenes are alike
        last = first + count
        chunks += [(asked, clutter, i, min(i + CHUNK, last)) for i in range(first, last, CHUNK)]
        first = last
    if processes == 1:  # another one would import all that this one has
        parts = [_chunk(chunk) for chunk in chunks]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            parts = list(pool.map(_chunk, chunks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunk(work: tuple[Asked, str, int, int]) -> Arrays:
    asked, clutter, first, last = work
    rows = [_one(asked, clutter, index) for index in range(first, last)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _one(asked: Asked, clutter: str, index: int) -> Arrays:
    scene = draw.draw(asked.seed, draw.LABELLERS, index, clutter)
    shown = render(scene, asked.size)
    boxes = np.full((MOST_BOXES, 6), -1, np.float32)
    for row, one in zip(boxes, seen(scene, shown), strict=False):
        row[:] = (*one.box, SHAPES.index(one.thing.shape), one.pixels)
    depth = shown.depth.astype(np.float16)
    return {"rgb": shown.rgb, "depth": depth, "normal": shown.normal, "semseg": shown.semseg, "boxes": boxes}


def rows(arrays: Arrays, indices: Sequence[int] | np.ndarray) -> Arrays:
    """Some scenes, copied into memory."""
    order = np.sort(np.asarray(indices))
    return {name: np.asarray(array[order]) for name, array in arrays.items()}
