"""Writes rendered samples into WebDataset shards, by one process for each core.

Decisions:
- A sample is a pure function of (seed, split, index, size, clutter): the number of workers and the shard size move its
  place in a tar and none of its bytes. Training and validation are different splits, so that no scene is in both.
- A shard that is there is whole (`storage.put`) and is kept. `scenes.json` beside the shards names the options they
  were made with; a folder of other options, or of other files, is refused, never mixed.
- A folder may grow: with a larger count only what is missing is rendered. A last shard that was not full is then made
  again; it is deleted before the record says so, so that a kill between the two leaves no short shard behind.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass

from ...infra import storage
from ...infra.progress import Progress
from ..archive import archive, record_of
from . import draw, kinds
from .sample import Options, files

RECORD = "scenes.json"
_CHUNK = 16  # samples that a worker renders at a time

Members = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Shard:
    """Samples first .. last - 1 of a split, in the file `name`."""

    name: str
    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Written:
    """What is in the folder: shards of each split by name, and which of them are new."""

    shards: dict[str, list[str]]
    made: list[str]


def plan(counts: dict[str, int], shard_size: int) -> list[Shard]:
    """The shards of `counts` samples of each split: train-00000.tar, ..., val-00000.tar, ..."""
    return [
        Shard(f"{split}-{number:05d}.tar", split, first, min(count, first + shard_size))
        for split, count in counts.items()
        for number, first in enumerate(range(0, count, shard_size))
    ]


def write(folder: str, options: Options, counts: dict[str, int], shard_size: int, workers: int) -> Written:
    """Write the shards that are missing below a folder or any fsspec URL.

    Args:
        counts: samples of "train" and "val", at least 1 in all.
        shard_size: samples of a shard; a shard is held in memory until it is whole.
        workers: processes that render; 1 renders in this one.

    Raises:
        ValueError: an option is out of range, or the folder holds something else.
    """
    _check(options, counts, shard_size, workers)
    _claim(folder, options, counts, shard_size)
    shards = plan(counts, shard_size)
    missing = [shard for shard in shards if not storage.exists(storage.join(folder, shard.name))]
    total, todo = sum(counts.values()), sum(shard.last - shard.first for shard in missing)
    with Progress("scenes", total, "images", start=total - todo) as progress:
        rendered = _rendered(options, _chunks(missing), workers)
        for shard in missing:
            members: Members = []
            for _, first, last in _chunks([shard]):
                members += next(rendered)
                progress.update(last - first)
            storage.put(storage.join(folder, shard.name), archive(members))
    names = {split: [shard.name for shard in shards if shard.split == split] for split in counts}
    return Written(names, [shard.name for shard in missing])


def _check(options: Options, counts: dict[str, int], shard_size: int, workers: int) -> None:
    draw.level_of(options.clutter)
    least = {"--count": (counts["train"], 1), "--val": (counts["val"], 0), "--seed": (options.seed, 0)}
    least |= {"--size": (options.size, 16), "--shard-size": (shard_size, 1), "--workers": (workers, 1)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ValueError(f"{name}: got {value}, expected at least {smallest}")


def _claim(folder: str, options: Options, counts: dict[str, int], shard_size: int) -> None:
    """Write the folder's record, or check that it is the same but for its counts, which may grow."""
    asked = {**asdict(options), "shard_size": shard_size, "version": draw.level_of(options.clutter).version}
    before = dict.fromkeys(counts, 0)
    if found := record_of(folder, RECORD):
        before, stated = found["counts"], found["options"]
        differing = [f"{name} {stated.get(name)}" for name in asked if stated.get(name) != asked[name]]
        fewer = [f"{before[split]} {split} images" for split in counts if counts[split] < before[split]]
        if differing or fewer:
            raise ValueError(
                f"--out: {folder} holds scenes of other options ({', '.join(differing + fewer)}); give these again, or "
                "choose another folder"
            )
    kept = set(plan(before, shard_size)) & set(plan(counts, shard_size))
    for short in set(plan(before, shard_size)) - kept:
        storage.delete(storage.join(folder, short.name))
    record = {"options": asked, "counts": counts, "classes": list(kinds.CLASSES)}
    storage.put(storage.join(folder, RECORD), json.dumps(record, indent=1).encode())


def _chunks(shards: Sequence[Shard]) -> list[tuple[str, int, int]]:
    """(split, first, last) of the samples of shards, in parts of at most _CHUNK."""
    return [(s.split, i, min(s.last, i + _CHUNK)) for s in shards for i in range(s.first, s.last, _CHUNK)]


def _rendered(options: Options, chunks: Sequence[tuple[str, int, int]], workers: int) -> Iterator[Members]:
    """The files of every chunk, in order; at most a few chunks are made ahead."""
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield _render_chunk(options, *chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads the caller has
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_ignore_interrupts) as pool:
        waiting: deque[Future[Members]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_render_chunk, options, *chunk))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_chunk(options: Options, split: str, first: int, last: int) -> Members:
    made: Members = []
    for index in range(first, last):
        key, parts = files(options, split, index)
        made += [(f"{key}.{extension}", data) for extension, data in parts.items()]
    return made
