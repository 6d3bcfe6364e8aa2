"""Pairs of near vectors among many, in bounded memory: each image enters some vectors and asks by some.

Vectors lie on disk, in buckets around centres that are drawn from a part of them: a vector is entered in the bucket of
its nearest centre, and asks in those of its nearest few. Within a bucket all are compared. With few vectors there is
one bucket, and nothing can be missed.

Images are numbered in the order of the set. Of each pair the later image is the one that asks what it is like: of its
nearest earlier images the first `MOST` are kept, whichever of the two has asked. Each bucket is read once; what is
found in it waits on disk, by the later image, so that work and disk grow with the set and memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ALL_WITH_ALL = 1_000_000  # entered vectors up to which there is one bucket
IN_BUCKET = 100_000  # entered vectors, on average, of more
LATER = 200_000  # images whose pairs are in memory at a time
PROBED = 4  # buckets that a vector asks in
MOST = 8  # earlier images of each later one
_TILE = 1 << 22  # products at a time
_ROWS = 1_000_000  # of a bucket in memory
_BUFFERED = 1 << 26  # bytes that wait to be written
_ROUNDS = 8  # of k-means
_PER_CENTRE = 64  # vectors that a centre is drawn from
_CENTRES = 1 << 15  # at most: to find the nearest of more would take longer than to compare
_PAIR = np.dtype([("entered", "<i8"), ("window", "<i2"), ("asked", "<i8"), ("question", "<i2"), ("near", "<f4")])


class Pairs(NamedTuple):
    """Images that may be alike, arrays of one length.

    entered: by its vector `window`. asked: by its vector `question`. near: the cosine, float32.
    """

    entered: np.ndarray
    window: np.ndarray
    asked: np.ndarray
    question: np.ndarray
    near: np.ndarray

    @property
    def later(self) -> np.ndarray:
        return np.maximum(self.entered, self.asked)

    @property
    def earlier(self) -> np.ndarray:
        return np.minimum(self.entered, self.asked)

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(*(part[index] for part in self))


def sampled(entered: int) -> int:
    """How many of the entered vectors the centres should be drawn from; 0 if there is one bucket."""
    return _PER_CENTRE * _count(entered) if _count(entered) > 1 else 0


def _count(entered: int) -> int:
    return 1 if entered <= ALL_WITH_ALL else min(-(-entered // IN_BUCKET), _CENTRES)


def joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, none, none, np.zeros(0, np.float32))
    return Pairs(*(np.concatenate(of) for of in zip(*parts, strict=True)))


def nearest(pairs: Pairs) -> Pairs:
    """Of each later image its `MOST` nearest earlier ones, each once: by the cosine, and among equals the first."""
    order = np.lexsort((pairs.earlier, -pairs.near, pairs.later))
    pairs = pairs.take(order)
    both = pairs.later * np.int64(1 << 32) + pairs.earlier
    _, first = np.unique(both, return_index=True)
    pairs = pairs.take(np.sort(first))
    rank = np.arange(len(pairs.near)) - np.searchsorted(pairs.later, pairs.later, side="left")
    return pairs.take(np.flatnonzero(rank < MOST))


class Neighbours:
    """Vectors of a set on disk.

    Args:
        folder: of this machine, empty.
        sample: float32 (n, D) of entered vectors, evenly from the set, that centres are drawn from.
        entered: how many vectors will be entered.
        least: cosine of near vectors.
    """

    def __init__(self, folder: Path, sample: np.ndarray, entered: int, least: float) -> None:
        self._folder, self._least, self._dim = folder, least, sample.shape[1]
        count = min(_count(entered), max(1, len(sample) // _PER_CENTRE))
        self.centres = _centres(sample, count) if count > 1 else np.zeros((1, self._dim), np.float32)
        self._row = np.dtype([("image", "<i8"), ("which", "<i4"), ("vector", "<f2", (self._dim,))])
        self._waiting: dict[tuple[str, int], list[np.ndarray]] = {}
        self._bytes = 0

    def add(self, images: np.ndarray, entries: np.ndarray, questions: np.ndarray) -> None:
        """Vectors of images, which come in their order.

        Args:
            images: int64 (n,), their numbers. entries: (n, W, D), of length 1. questions: (n, Q, D).
        """
        for name, vectors, most in (("entries", entries, 1), ("questions", questions, PROBED)):
            count = vectors.shape[1]
            flat = vectors.reshape(-1, self._dim)
            rows = np.empty(len(flat), self._row)
            rows["image"], rows["which"] = np.repeat(images, count), np.tile(np.arange(count), len(images))
            rows["vector"] = flat
            buckets = self._buckets(flat, most)
            # One sort: a look at all rows for each bucket would take longer the more there are.
            order = np.argsort(buckets, axis=None, kind="stable")
            found, starts = np.unique(buckets.ravel()[order], return_index=True)
            for bucket, at in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
                self._keep(name, bucket, rows[at // buckets.shape[1]])

    def _buckets(self, vectors: np.ndarray, most: int) -> np.ndarray:
        """The nearest buckets of each vector, (n, most)."""
        most = min(most, len(self.centres))
        if len(self.centres) == 1:
            return np.zeros((len(vectors), 1), np.int32)
        found = np.empty((len(vectors), most), np.int32)
        for part in _parts(len(vectors), len(self.centres)):
            near = np.asarray(vectors[part], np.float32) @ self.centres.T
            found[part] = near.argmax(1)[:, None] if most == 1 else np.argpartition(near, -most, axis=1)[:, -most:]
        return found

    def _keep(self, name: str, place: int, rows: np.ndarray) -> None:
        self._waiting.setdefault((name, place), []).append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _BUFFERED:
            self._write()

    def _write(self) -> None:
        for (name, place), parts in self._waiting.items():
            with open(self._folder / f"{name}-{place}", "ab") as file:
                for rows in parts:
                    file.write(rows.tobytes())
        self._waiting, self._bytes = {}, 0

    def _read(self, name: str, place: int, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
        """What was kept, some rows at a time."""
        path = self._folder / f"{name}-{place}"
        size = path.stat().st_size if path.exists() else 0
        for offset in range(0, size, _ROWS * dtype.itemsize):
            yield np.fromfile(path, dtype, _ROWS, offset=offset)

    def pairs(self, first: int = 0, tick: Callable[[float], None] = lambda part: None) -> Iterator[Pairs]:
        """For each image from `first` on its nearest earlier ones, `LATER` images at a time, in their order.

        Args:
            tick: called with the part of the comparisons that was done since the last call.
        """
        self._write()
        windows: set[int] = set()
        for bucket in range(len(self.centres)):
            waiting, count = list[Pairs](), 0
            for entries in self._read("entries", bucket, self._row):
                for questions in self._read("questions", bucket, self._row):
                    for found in self._tiles(entries, questions, first):
                        waiting.append(found)
                        count += len(found.near)
                        if count > _ROWS:
                            windows |= self._spill(nearest(joined(waiting)))
                            waiting, count = [], 0
            windows |= self._spill(nearest(joined(waiting)))
            tick(1 / len(self.centres))
        self._write()
        for window in sorted(windows):
            yield self._merged(window)

    def _spill(self, pairs: Pairs) -> set[int]:
        """Keep pairs by their later images; returns of which windows there are some."""
        rows = np.empty(len(pairs.near), _PAIR)
        for name in Pairs._fields:
            rows[name] = getattr(pairs, name)
        of = pairs.later // LATER
        windows = set(np.unique(of).tolist())
        for window in windows:
            self._keep("pairs", window, rows[of == window])
        return windows

    def _merged(self, window: int) -> Pairs:
        """The nearest of the pairs of a window, which are deleted."""
        kept = joined([])
        for rows in self._read("pairs", window, _PAIR):
            kept = nearest(joined([kept, Pairs(*(rows[name] for name in Pairs._fields))]))
        (self._folder / f"pairs-{window}").unlink()
        return kept

    def _tiles(self, entries: np.ndarray, questions: np.ndarray, first: int) -> Iterator[Pairs]:
        if not len(entries) or not len(questions):
            return
        # What is not new has been compared with all that is not new.
        old = int(np.searchsorted(entries["image"], first))
        is_new = questions["image"] >= first
        yield from self._compared(entries, questions[is_new])
        yield from self._compared(entries[old:], questions[~is_new])

    def _compared(self, entries: np.ndarray, questions: np.ndarray) -> Iterator[Pairs]:
        if not len(entries) or not len(questions):
            return
        vectors = entries["vector"].astype(np.float32).T
        starts = np.flatnonzero(np.r_[True, np.diff(entries["image"]) != 0])  # of the vectors of each image
        ends, images = np.r_[starts[1:], len(entries)], entries["image"][starts]
        rows = max(1, _TILE // len(entries))
        for begin in range(0, len(questions), rows):
            asked = questions[begin : begin + rows]
            near = asked["vector"].astype(np.float32) @ vectors
            best = np.maximum.reduceat(near, starts, axis=1)
            row, column = np.nonzero((best >= self._least) & (images[None] != asked["image"][:, None]))
            # With places in the tile for the vectors, which are looked up of those that are kept alone.
            kept = nearest(Pairs(images[column], column, asked["image"][row], row, best[row, column]))
            cells = zip(kept.question.tolist(), kept.window.tolist(), strict=True)
            at = [int(starts[c] + near[r, starts[c] : ends[c]].argmax()) for r, c in cells]
            which, question = entries["which"][np.array(at, np.int64)], asked["which"][kept.question]
            yield kept._replace(window=which.astype(np.int64), question=question.astype(np.int64))


def _centres(sample: np.ndarray, count: int) -> np.ndarray:
    """Centres of length 1 (spherical k-means): float32 (count, D). Always the same of the same sample."""
    sample = sample.astype(np.float32)
    centres = sample[np.linspace(0, len(sample) - 1, count).astype(np.int64)].copy()
    for _ in range(_ROUNDS):
        of = np.concatenate([(sample[part] @ centres.T).argmax(1) for part in _parts(len(sample), count)])
        sums = np.zeros_like(centres)
        np.add.at(sums, of, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-6), centres)
    return centres


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a product of so many columns, as many at a time as a tile has."""
    step = max(1, _TILE // columns)
    return (slice(begin, begin + step) for begin in range(0, rows, step))
