"""Writes rendered samples into WebDataset shards, by one process for each core.

Decisions:
- A sample is a pure function of (seed, split, index, size, clutter): the number of workers and the shard size move its
  place in a tar and none of its bytes. Training and validation are different splits, so that no scene is in both.
- A shard that is there is whole (`storage.put`) and is kept. `scenes.json` beside the shards names the options they
  were made with; a folder of other options, or of other files, is refused, never mixed.
- A folder may grow: with a larger count only what is missing is rendered. A last shard that was not full is then made
  again; it is deleted before the record says so, so that a kill between the two leaves no short shard behind.
- What is made is a `Maker`'s: scenes with photos (sample.py), or places that instruments see (landscape/tile.py).
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ...infra import storage
from ...infra.progress import Progress
from ..archive import archive, record_of

_CHUNK = 16  # samples that a worker renders at a time

Rendered = tuple[str, dict[str, bytes]]  # the key of a sample, and its files by extension


class Maker(Protocol):
    """Makes the samples of a folder: each a pure function of its split and index. It is sent to processes.

    record: name of the file beside the shards that says what they were made with. unit: what the samples are, for
        people. sets: where each kind of file has tars of its own, the extensions of each set of tars, a folder each.
    seed, size: as every maker has them.
    """

    @property
    def record(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def sets(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def seed(self) -> int: ...

    @property
    def size(self) -> int: ...

    def check(self) -> None:
        """ValueError for an option of its own that is out of range."""

    def stated(self) -> dict[str, Any]:
        """Its options, as JSON has them: they may not differ within a folder."""

    def about(self) -> dict[str, Any]:
        """What else the record says."""

    def files(self, split: str, index: int) -> Rendered:
        """One sample."""

    def sums(self, samples: Sequence[dict[str, bytes]]) -> dict[str, Any]:
        """What is to be known of a shard's samples together, kept in the record; {} if nothing is."""


@dataclass(frozen=True)
class Shard:
    """Samples first .. last - 1 of a split, in the file `name`."""

    name: str
    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Written:
    """What is in the folder: shards of each split by name, which of them are new, and the maker's sums of each."""

    shards: dict[str, list[str]]
    made: list[str]
    sums: dict[str, dict[str, Any]]


def plan(counts: dict[str, int], shard_size: int) -> list[Shard]:
    """The shards of `counts` samples of each split: train-00000.tar, ..., val-00000.tar, ..."""
    return [
        Shard(f"{split}-{number:05d}.tar", split, first, min(count, first + shard_size))
        for split, count in counts.items()
        for number, first in enumerate(range(0, count, shard_size))
    ]


def write(folder: str, maker: Maker, counts: dict[str, int], shard_size: int, workers: int) -> Written:
    """Write the shards that are missing below a folder or any fsspec URL.

    Args:
        counts: samples of "train" and "val", at least 1 in all.
        shard_size: samples of a shard; a shard is held in memory until it is whole.
        workers: processes that render; 1 renders in this one.

    Raises:
        ValueError: an option is out of range, or the folder holds something else.
    """
    _check(maker, counts, shard_size, workers)
    record = _claim(folder, maker, counts, shard_size)
    shards = plan(counts, shard_size)
    missing = [shard for shard in shards if not _is_there(folder, maker, shard, record)]
    total, todo = sum(counts.values()), sum(shard.last - shard.first for shard in missing)
    with Progress("scenes", total, maker.unit, start=total - todo) as progress:
        rendered = _rendered(maker, _chunks(missing), workers)
        for shard in missing:
            samples: list[Rendered] = []
            for _, first, last in _chunks([shard]):
                samples += next(rendered)
                progress.update(last - first)
            # A shard without sums is made again: they are known before the last of its tars is there.
            if sums := maker.sums([parts for _, parts in samples]):
                record.setdefault("shards", {})[shard.name] = sums
                _put(folder, maker, record)
            for url, names in _tars(folder, maker, shard).items():
                storage.put(url, archive(_members(samples, names)))
    of_splits = {split: [shard.name for shard in shards if shard.split == split] for split in counts}
    return Written(of_splits, [shard.name for shard in missing], record.get("shards", {}))


def _tars(folder: str, maker: Maker, shard: Shard) -> dict[str, Sequence[str]]:
    """The tars of a shard, and the extensions that each holds; () for all."""
    if not maker.sets:
        return {storage.join(folder, shard.name): ()}
    return {storage.join(folder, of, shard.name): names for of, names in maker.sets.items()}


def _members(samples: Sequence[Rendered], names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.{name}", data) for key, parts in samples for name, data in parts.items() if not names or name in names
    ]


def _is_there(folder: str, maker: Maker, shard: Shard, record: Mapping[str, Any]) -> bool:
    known = not maker.sums([]) or shard.name in record.get("shards", {})
    return known and all(map(storage.exists, _tars(folder, maker, shard)))


def _check(maker: Maker, counts: dict[str, int], shard_size: int, workers: int) -> None:
    maker.check()
    least = {"--count": (counts["train"], 1), "--val": (counts["val"], 0), "--seed": (maker.seed, 0)}
    least |= {"--size": (maker.size, 16), "--shard-size": (shard_size, 1), "--workers": (workers, 1)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ValueError(f"{name}: got {value}, expected at least {smallest}")


def _claim(folder: str, maker: Maker, counts: dict[str, int], shard_size: int) -> dict[str, Any]:
    """Write the folder's record, or check that it is the same but for its counts, which may grow. Returns it."""
    asked = {**maker.stated(), "shard_size": shard_size}
    before, sums = dict.fromkeys(counts, 0), {}
    if found := record_of(folder, maker.record):
        before, stated, sums = found["counts"], found["options"], found.get("shards", {})
        differing = [f"{name} {stated.get(name)}" for name in asked if stated.get(name) != asked[name]]
        fewer = [f"{before[split]} {split} {maker.unit}" for split in counts if counts[split] < before[split]]
        if differing or fewer:
            raise ValueError(
                f"--out: {folder} holds scenes of other options ({', '.join(differing + fewer)}); give these again, or "
                "choose another folder"
            )
    kept = set(plan(before, shard_size)) & set(plan(counts, shard_size))
    for short in set(plan(before, shard_size)) - kept:
        for url in _tars(folder, maker, short):
            storage.delete(url)
        sums.pop(short.name, None)
    record = {"options": asked, "counts": counts, **maker.about(), **({"shards": sums} if sums else {})}
    _put(folder, maker, record)
    return record


def _put(folder: str, maker: Maker, record: Mapping[str, Any]) -> None:
    storage.put(storage.join(folder, maker.record), json.dumps(record, indent=1).encode())


def _chunks(shards: Sequence[Shard]) -> list[tuple[str, int, int]]:
    """(split, first, last) of the samples of shards, in parts of at most _CHUNK."""
    return [(s.split, i, min(s.last, i + _CHUNK)) for s in shards for i in range(s.first, s.last, _CHUNK)]


def _rendered(maker: Maker, chunks: Sequence[tuple[str, int, int]], workers: int) -> Iterator[list[Rendered]]:
    """The samples of every chunk, in order; at most a few chunks are made ahead."""
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield _render_chunk(maker, *chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads the caller has
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_ignore_interrupts) as pool:
        waiting: deque[Future[list[Rendered]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_render_chunk, maker, *chunk))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_chunk(maker: Maker, split: str, first: int, last: int) -> list[Rendered]:
    return [maker.files(split, index) for index in range(first, last)]
