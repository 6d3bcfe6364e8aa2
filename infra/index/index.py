"""The records of a root, as a plan needs them: from the index of each output as far as it holds, else one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .. import ledger, storage
from ..ledger import SAMPLES, Entry
from ..storage import Stat
from . import file
from .file import Line, Shared
from .listing import THREADS, stats_in

logger = logging.getLogger(__name__)

AT_ONCE = 8_192  # records that are asked for
LEAST = 256  # records that were read one by one, until an index is worth its writing


@dataclass
class Reading:
    """What was read.

    entries: by (output, shard). fresh: by output, those that were read one by one and are ready for its index.
    """

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    fresh: dict[str, list[Line]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """A record to be read, or whose file is to be looked at. file: None of samples. entry: None if it is to be read."""

    output: str
    shard: str
    record: str
    file: Stat | None
    entry: Entry | None


def read_many(
    root: str,
    outputs: Sequence[str],
    shards: Iterable[str] | None,
    *,
    footers: bool = False,
    made: Iterable[Line] = (),
) -> Reading:
    """The records of these outputs and shards: two listings and an index for each output, and then what has changed
    since, in parallel.

    A record whose file somebody has deleted, or that has another size, does not count.

    Args:
        shards: None for all that have records.
        footers: look at the footer of each file as well that is not the one that was looked at for the index: a file
            that is not the one that was committed does not count.
        made: of what this process has seen committed: it is not read back while it is as it was written.
    """
    reading, shared, names = Reading(), Shared(), None if shards is None else list(shards)

    committed: dict[str, dict[str, Line]] = {}
    for own in made:
        committed.setdefault(own.entry.output, {})[own.entry.shard] = own

    def listed(output: str) -> tuple[list[Entry], list[_Place], list[Line]]:
        return _of_output(root, output, names, shared, committed.get(output, {}))

    def looked_at(place: _Place) -> Line | None:
        return _look(root, place, footers, shared)

    with ThreadPoolExecutor(THREADS) as pool:
        # Of a folder here nothing is waited for.
        found: Iterable[tuple[list[Entry], list[_Place], list[Line]]] = (
            map(listed, outputs) if storage.is_local(root) else pool.map(listed, outputs)
        )
        for output, (entries, left, fresh) in zip(outputs, found, strict=True):
            reading.entries.update(((one.output, one.shard), one) for one in entries)
            if fresh:
                reading.fresh[output] = fresh
            while left:  # a call that waits takes a kilobyte, and there may be half a million
                places, left = left[:AT_ONCE], left[AT_ONCE:]
                for place, line in zip(places, pool.map(looked_at, places), strict=True):
                    if line is not None:
                        reading.entries[place.output, place.shard] = line.entry
                        if line.record and (line.file or place.output == SAMPLES):
                            reading.fresh.setdefault(place.output, []).append(line)
    return reading


def _of_output(
    root: str, output: str, shards: Sequence[str] | None, shared: Shared, made: Mapping[str, Line]
) -> tuple[list[Entry], list[_Place], list[Line]]:
    """Of one output the entries that are known as they are, the places that are to be looked at, and those lines of
    `made` that count."""
    records = stats_in(storage.join(root, "ledger", output))
    files = stats_in(storage.join(root, output)) if output != SAMPLES else None
    if shards is None:
        shards = sorted(name.removesuffix(".json") for name in records if name.endswith(".json"))
    there = [one for one in shards if f"{one}.json" in records and (files is None or f"{one}.parquet" in files)]
    lines = file.read(root, output, shared) if there else {}
    known, left, fresh = [], [], []
    for shard in there:
        stat = None if files is None else files[f"{shard}.parquet"]
        line, mark = lines.get(shard), file.mark(records[f"{shard}.json"])
        own = made.get(shard)
        if own is not None and mark and own.record == mark and own.file == file.mark(stat) and (own.file or not stat):
            known.append(own.entry)
            fresh.append(own)
        elif line is None or not mark or line.record != mark:
            left.append(_Place(output, shard, mark, stat, None))
        elif stat is None or (line.file and line.file == file.mark(stat)):
            known.append(line.entry)
        else:
            left.append(_Place(output, shard, mark, stat, line.entry))
    return known, left, fresh


def _look(root: str, place: _Place, footers: bool, shared: Shared) -> Line | None:
    """The record of a place with the marks for its line; None if it does not count, which is logged."""
    entry = place.entry
    if entry is None:
        record = ledger.read(root, place.output, place.shard)
        entry = ledger.entry(record) if record is not None else None
    if entry is None:
        return None
    if place.file is not None and (why := ledger.damage(root, entry, place.file.size, footers)):
        url = ledger.output_url(root, place.output, place.shard)
        logger.warning("%s: %s; it counts as missing", url, why)
        return None
    return Line(shared.entry(entry), place.record, file.mark(place.file) if footers else "")


def keep(root: str, fresh: Mapping[str, Sequence[Line]]) -> None:
    """Put what was read one by one into the indexes of its outputs. An index spares reading and no more: one that
    cannot be written is a warning."""
    for output, lines in fresh.items():
        try:
            _merge(root, output, lines)
        except Exception as error:  # whatever the storage raises
            logger.warning("%s cannot be written: %s", file.url(root, output), error)


def _merge(root: str, output: str, lines: Sequence[Line]) -> None:
    shared = Shared()
    of_shards = file.read(root, output, shared)
    of_shards |= {line.entry.shard: line._replace(entry=shared.entry(line.entry)) for line in lines}
    records = stats_in(storage.join(root, "ledger", output))
    # Lines of records that were deleted, or written since, say what shall be forgotten.
    good = [shard for shard, one in of_shards.items() if one.record == file.mark(records.get(f"{shard}.json"))]
    file.write(root, output, [of_shards[shard] for shard in sorted(good)])


def renew(root: str) -> None:
    """Bring the indexes that a root has up to date with its records. OSError if one cannot be written."""
    for output in (SAMPLES, *ledger.outputs(root)):
        if not storage.exists(file.url(root, output)):
            continue
        names = storage.list_names(storage.join(root, "ledger", output))
        shards = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        _merge(root, output, read_many(root, [output], shards, footers=True).fresh.get(output, []))
