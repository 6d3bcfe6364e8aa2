"""Duplicates over the whole set: which sample is a copy of an earlier one, decided shard by shard in one order.

Of each sample the nearest earlier one that is near enough is looked for; it is a duplicate of whatever that one is kept
for. So what is said of a shard hangs on itself and on the shards before it alone: shards that come later change none of
it, and a job that was killed goes on. The order is that in which shards came, and among those that came together the
recipe's; records say it (`order`), with a sum of all before.

The labels that are compared (pictures, embeddings) are read once and lie on the scratch disk of this machine, with the
keys; memory holds some bytes of each sample, and one bucket of vectors.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ....infra import ledger, scratch, versions
from ....infra.fingerprint import fingerprint
from ....infra.ledger import Entry, Record
from ....infra.progress import Progress
from ....modalities import LABELS, Form, Storage
from ....tokenize import labels as label_files
from ....tokenize import table_file
from ....tokenize.table_file import Origin
from ...outputs import Output
from ...worker import circumstances
from . import neighbours, pictures
from .keys import Keys
from .neighbours import Neighbours

LABEL = "duplicate"
Known = Record | Entry
_AT_ONCE = 4_096  # samples whose vectors are made together
_CHECKED = 256  # pairs of pictures that one thread looks at in turn


@dataclass(frozen=True)
class Method:
    """A label by which samples are compared, and from which likeness on two are one: of pictures the correlation of
    their details, of embeddings the cosine."""

    label: str
    least: float

    @property
    def is_picture(self) -> bool:
        return LABELS[self.label].form is not Form.VECTOR


@dataclass(frozen=True)
class Match:
    """The nearest earlier sample of one, by their numbers in the set."""

    earlier: int
    distance: float
    by: str


class Set:
    """The shards in their order, and where the samples of each begin in the numbers of the set.

    Args:
        records: by (output, shard), of the labels that are compared. folder: of this machine, for keys.
    """

    def __init__(
        self, root: str, shards: Sequence[str], records: Mapping[tuple[str, str], Known], methods: Sequence[Method],
        folder: Path,
    ) -> None:  # fmt: skip
        self.root, self.shards, self.records, self.methods = root, list(shards), records, methods
        first = f"labels/{methods[0].label}"
        self.begins = np.cumsum([0, *(records[first, shard].rows for shard in shards)])
        self.keys = Keys(folder, self.samples)

    @property
    def samples(self) -> int:
        return int(self.begins[-1])

    def place(self, number: int) -> tuple[str, int]:
        """(shard, row) of a sample."""
        i = int(np.searchsorted(self.begins, number, side="right")) - 1
        return self.shards[i], number - int(self.begins[i])


def ordered(
    shards: Sequence[str],
    done: Mapping[str, Known],
    records: Mapping[tuple[str, str], Known],
    methods: Sequence[Method],
) -> tuple[list[str], list[str]]:
    """The shards in the order in which they are decided: (those that are decided, the others).

    Args:
        shards: in the recipe's order. done: records of `duplicate`. records: of the labels that are compared.
    """
    asked = set(shards)
    before = {shard: record.identity.get("order", {}) for shard, record in done.items() if shard in asked}
    ranked = sorted(before, key=lambda shard: (before[shard].get("number", len(shards)), shard))
    kept: dict[str, None] = {}
    for shard, order in zip(ranked, _orders(ranked, records, methods), strict=True):
        if before[shard] != order:  # one before it has changed, or is gone
            break
        kept[shard] = None
    return list(kept), [shard for shard in shards if shard not in kept]


def _orders(
    shards: Sequence[str], records: Mapping[tuple[str, str], Known], methods: Sequence[Method]
) -> Iterator[dict[str, Any]]:
    """What the record of each shard says of its place: its number, and a sum of the labels up to it."""
    after = ""
    for number, shard in enumerate(shards):
        after = fingerprint(after, shard, [records[f"labels/{method.label}", shard].sha256 for method in methods])
        yield {"number": number, "after": after}


def decide(
    root: str,
    output: Output,
    kept: Sequence[str],
    new: Sequence[str],
    records: Mapping[tuple[str, str], Known],
    methods: Sequence[Method],
) -> list[Record]:
    """Write the column of each new shard, in order; returns their records.

    Args:
        output: `labels/duplicate`. kept: shards that are decided. new: those to decide. records: of the labels.
    """
    with scratch.folder() as folder:
        of = Set(root, [*kept, *new], records, methods, Path(folder))
        try:
            return _decide(of, output, len(kept))
        finally:
            of.keys.close()


def _decide(of: Set, output: Output, decided: int) -> list[Record]:
    first, made = int(of.begins[decided]), []
    best = Best(first, of.samples)
    known = np.zeros(of.samples, np.bool_)
    start = time.monotonic()
    # Each is read; each new one is compared, and what it may be like is looked at.
    work = (of.samples + 2 * (of.samples - first)) * len(of.methods)
    with Progress("duplicates", work, "samples") as progress:
        for method in of.methods:
            with scratch.folder() as folder:
                for number, match in _matches(of, method, Path(folder), first, known, progress):
                    best.note(number, match)
    stands_for = _Kept(of, best)
    orders = list(_orders(of.shards, of.records, of.methods))
    for i, shard in enumerate(of.shards[decided:], decided):
        cells = [
            _said(of, number, best.of(number), stands_for) if known[number] else None
            for number in range(int(of.begins[i]), int(of.begins[i + 1]))
        ]
        made.append(_commit(output, shard, of, i, cells, orders[i], time.monotonic() - start))
    return made


class Best:
    """The nearest match of each sample from `first` on, in a few bytes of each."""

    def __init__(self, first: int, samples: int) -> None:
        self.first = first
        self._earlier = np.full(samples - first, -1, np.int64)
        self._distance = np.full(samples - first, np.inf)
        self._by = np.zeros(samples - first, np.int8)
        self._labels: list[str] = []

    def note(self, number: int, match: Match) -> None:
        at = number - self.first
        if match.distance < self._distance[at]:
            if match.by not in self._labels:
                self._labels.append(match.by)
            self._earlier[at], self._distance[at] = match.earlier, match.distance
            self._by[at] = self._labels.index(match.by)

    def of(self, number: int) -> Match | None:
        at = number - self.first
        if self._earlier[at] < 0:
            return None
        return Match(int(self._earlier[at]), float(self._distance[at]), self._labels[self._by[at]])


class _Kept:
    """Which sample a sample is kept for: itself, or the one that it is a duplicate of."""

    def __init__(self, of: Set, best: Best) -> None:
        self._of, self._first = of, best.first
        self._for = np.arange(best.first, of.samples)
        self._stored = lru_cache(maxsize=64)(self._read)

    def note(self, number: int, earlier: int) -> tuple[str, str]:
        """A sample is a duplicate of this earlier one; returns (shard, key) of what it is kept for."""
        known = earlier if earlier < self._first else int(self._for[earlier - self._first])
        self._for[number - self._first] = known
        shard, row = self._of.place(known)
        said = self._stored(shard)[row] if known < self._first else None
        return (said["of_shard"], said["of"]) if isinstance(said, dict) else (shard, self._of.keys[known])

    def _read(self, shard: str) -> list[Any]:
        return label_files.read_labels(ledger.output_url(self._of.root, f"labels/{LABEL}", shard))[1]


def _said(of: Set, number: int, match: Match | None, stands_for: _Kept) -> Any:
    """What the column says of a sample: false, or what it is a duplicate of."""
    if match is None:
        return False
    shard, key = stands_for.note(number, match.earlier)
    return {
        "of": key,
        "of_shard": shard,
        "nearest": of.keys[match.earlier],
        "nearest_shard": of.place(match.earlier)[0],
        "distance": round(max(0.0, match.distance), 4),
        "by": match.by,
    }


def _matches(
    of: Set, method: Method, folder: Path, first: int, known: np.ndarray, progress: Progress
) -> Iterator[tuple[int, Match]]:
    """`found` by the values of a label; `known` is set for samples that have one."""
    values, sums = _spilled(of, method, folder, known, progress)
    yield from found(values, sums, method, folder, first, progress.update)


def found(
    values: np.ndarray,
    sums: np.ndarray,
    method: Method,
    folder: Path,
    first: int = 0,
    tick: Callable[[float], None] = lambda samples: None,
) -> Iterator[tuple[int, Match]]:
    """For each sample from `first` on its nearest earlier samples that are near enough.

    Args:
        values: by which they are compared, of all samples. sums: uint64, equal for equal values, 0 where there is none.
        folder: of this machine, for vectors. tick: called with samples that were compared, or whose pairs were looked
            at, since the last call: twice with all new ones.
    """
    there = np.flatnonzero(sums)
    if not len(there):
        return
    # Copies to the byte would all be near to each other: the first stands for them.
    _, at, which = np.unique(sums[there], return_index=True, return_inverse=True)
    firsts = there[at]
    stands = firsts[which]
    for i in np.flatnonzero((there >= first) & (stands != there)):  # no lists: there may be millions
        yield int(there[i]), Match(int(stands[i]), 0.0, method.label)
    alone = np.sort(firsts)
    (vectors := folder / "vectors").mkdir()
    space, looked_at = _entered(vectors, values, alone, method), first
    for pairs in space.pairs(first, lambda part: tick(part * (len(values) - first))):
        yield from _near_enough(pairs, values, method)
        end = int(pairs.later.max(initial=looked_at - 1)) + 1
        tick(end - looked_at)
        looked_at = end
    tick(len(values) - looked_at)


def _spilled(
    of: Set, method: Method, folder: Path, known: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """The values of a label, on disk, and a sum of each, uint64, 0 where there is none; `known` is set where there is.

    ValueError if a shard's are of another size.
    """
    values: np.ndarray | None = None
    sums = np.zeros(of.samples, np.uint64)
    for i, shard in enumerate(of.shards):
        record = of.records[f"labels/{method.label}", shard]
        begin = int(of.begins[i])
        keys, rows = label_files.read_labels(ledger.output_url(of.root, record.output, shard), footer=record.footer)
        if len(rows) != of.begins[i + 1] - begin:
            raise ValueError(f"shard {shard}: {record.output} has {len(rows)} rows; run `fourmill label`")
        for row, value in enumerate(rows):
            if value is None:
                continue
            value = np.ascontiguousarray(value)
            if values is None:
                shape = (of.samples, *value.shape)
                values = np.memmap(folder / "values", value.dtype, "w+", shape=shape)
            if value.shape != values.shape[1:]:
                raise ValueError(
                    f"shard {shard}, sample {keys[row]!r}: {record.output} has the shape {value.shape}, others "
                    f"{values.shape[1:]}"
                )
            values[begin + row] = value
            sums[begin + row] = max(1, xxhash.xxh3_64_intdigest(value.tobytes()))
            known[begin + row] = True
        if method is of.methods[0]:
            of.keys.add(begin, keys)
        progress.update(len(rows))
    return (np.zeros((of.samples, 1), np.float16) if values is None else values), sums


def _entered(folder: Path, values: np.ndarray, alone: np.ndarray, method: Method) -> Neighbours:
    """The vectors of samples, entered."""
    windows = len(pictures.windows()) if method.is_picture else 1
    entered = windows * len(alone)
    count = max(1, -(-neighbours.sampled(entered) // windows))
    sampled = alone[np.linspace(0, len(alone) - 1, min(count, len(alone))).astype(np.int64)]
    entries = _vectors(values[sampled], method)[0]
    least = pictures.NEAR if method.is_picture else method.least
    space = Neighbours(folder, entries.reshape(-1, entries.shape[2]), entered, least)
    for begin in range(0, len(alone), _AT_ONCE):
        numbers = alone[begin : begin + _AT_ONCE]
        space.add(numbers, *_vectors(values[numbers], method))
    return space


def _vectors(values: np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """By which samples are entered, and by which they ask, see `Neighbours.add`."""
    if method.is_picture:
        return pictures.entries(values), pictures.questions(values)
    lengths = np.linalg.norm(values.astype(np.float32), axis=1, keepdims=True)
    vectors = (values / np.where(lengths > 0, lengths, np.inf)).astype(np.float32)[:, None]
    return vectors, vectors


def _near_enough(pairs: neighbours.Pairs, values: np.ndarray, method: Method) -> Iterator[tuple[int, Match]]:
    if method.is_picture:
        windows = pictures.windows()

        def alike(begin: int) -> list[float]:
            found = []
            for i in range(begin, min(begin + _CHECKED, len(pairs.near))):
                whole, crop = values[pairs.entered[i]], values[pairs.asked[i]]
                found.append(pictures.likeness(whole, crop, windows[pairs.window[i]], bool(pairs.question[i])))
            return found

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = pool.map(alike, range(0, len(pairs.near), _CHECKED))
            likenesses = [one for part in parts for one in part]
    else:
        likenesses = pairs.near.tolist()
    for later, earlier, likeness in zip(pairs.later.tolist(), pairs.earlier.tolist(), likenesses, strict=True):
        if likeness >= method.least:
            yield later, Match(earlier, 1.0 - likeness, method.label)


def _commit(
    output: Output, shard: str, of: Set, at: int, cells: Sequence[Any], order: dict[str, Any], seconds: float
) -> Record:
    source = of.records[f"labels/{of.methods[0].label}", shard]
    keys = [of.keys[number] for number in range(int(of.begins[at]), int(of.begins[at + 1]))]
    names = ", ".join(method.label for method in of.methods)
    rejects = [
        {"key": key, "reason": f"{LABEL}: there is no {names}"}
        for key, cell in zip(keys, cells, strict=True)
        if cell is None
    ]
    texts = [None if cell is None else json.dumps(cell, ensure_ascii=False, separators=(",", ":")) for cell in cells]
    data = label_files.encode_cells(LABEL, Storage.JSON, keys, texts, origin=Origin(shard, output.fingerprint))
    keys_sum, content = table_file.content(data)
    record = Record(
        output=output.name,
        shard=shard,
        fingerprint=output.fingerprint,
        source=source.source,
        rows=len(keys),
        nulls=len(rejects),
        rejects=rejects,
        bytes=0,  # this, `sha256` and `footer` are filled in by `ledger.commit`
        sha256="",
        seconds=round(seconds, 3),
        identity=output.identity | versions.identity(output.parts) | {"order": order},
        keys=keys_sum,
        content=content,
        made=circumstances.of_worker({}, [], "cpu") | circumstances.of_attempt(),
    )
    return ledger.commit(of.root, record, data).record
