"""Chunks in a root: rows of a shard that is not done yet, of all outputs that are being made of it, as one file.

ROOT/chunks/SHARD/START-STOP-SUM.parquet has the rows START to STOP. SUM is that of its footer, and the footer has sums
of the rows: what was cut, damaged or copied to another name is no chunk. A chunk is written in one step. What makes and
takes chunks is in worker/chunks.py; everybody else looks at them here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..infra import footers, storage, sums
from ..tokenize import arrow, table_file
from ..tokenize.table_file import Damaged

FOLDER = "chunks"
FORMAT, VERSION = "fourmill.chunk", 1
_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{32})\.parquet")


class Place(NamedTuple):
    """Where a chunk lies: rows `start` to `stop` of a shard, and the sum of the file's footer."""

    shard: str
    start: int
    stop: int
    sum: str

    @property
    def path(self) -> str:
        """Below the root."""
        return f"{FOLDER}/{self.shard}/{self.start:06d}-{self.stop:06d}-{self.sum}.parquet"


@dataclass(frozen=True)
class Chunk:
    """The content of a chunk.

    fingerprints: of its outputs, by name. prints: of each all that its rows depend on, and how they were made.
    rejects: as of a record, by output. fields: arrays of each output, one after the other, by "OUTPUT/FIELD".
    barred, splits, seconds, host: as of `worker.chunks.Part`. seen: by output what `alarms.Seen` says of it.
    """

    keys: Sequence[str]
    fingerprints: Mapping[str, str]
    prints: Mapping[str, str]
    rejects: Mapping[str, list[dict[str, str]]]
    fields: Mapping[str, Any]
    barred: int = 0
    splits: Sequence[str] = ()
    seconds: float = 0.0
    host: str = ""
    seen: Mapping[str, Any] = field(default_factory=dict)


_ABOUT = ("fingerprints", "prints", "rejects", "barred", "splits", "seconds", "host", "seen")
_LATER = ("seen",)  # which chunks of older releases lack


def place_of(path: str) -> Place | None:
    """Of a path below the root; None of another file."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != FOLDER or (match := _NAME.fullmatch(parts[2])) is None:
        return None
    start, stop, sum_ = match.groups()
    return Place(parts[1], int(start), int(stop), sum_)


def of_shard(root: str, shard: str) -> list[Place]:
    """The chunks of a shard, by their names alone: by their start, the longest first."""
    names = storage.list_names(storage.join(root, FOLDER, shard))
    places = [place for name in names if (place := place_of(f"{FOLDER}/{shard}/{name}")) is not None]
    return sorted(places, key=lambda place: (place.start, -place.stop))


def shards(root: str) -> list[str]:
    """The shards that have a folder of chunks."""
    return storage.list_names(storage.join(root, FOLDER))


def rows_of(places: Sequence[Place]) -> int:
    """How many rows of a shard these chunks have, each counted once."""
    count = at = 0
    for place in sorted(places, key=lambda place: place.start):
        count += max(0, place.stop - max(at, place.start))
        at = max(at, place.stop)
    return count


def write(root: str, shard: str, start: int, chunk: Chunk) -> Place:
    """Write a chunk whose rows begin at `start`. OSError if the root cannot be written."""
    about = sums.sealed({name: getattr(chunk, name) for name in _ABOUT})
    metadata = {"format": FORMAT, "version": str(VERSION), "about": json.dumps(about)}
    data = table_file.encode_table(
        {"key": arrow.strings(chunk.keys), **chunk.fields}, metadata, max(1, len(chunk.keys))
    )
    place = Place(shard, start, start + len(chunk.keys), footers.digest(footers.of(data)))
    storage.put(storage.join(root, place.path), data)
    return place


def read(root: str, place: Place) -> Chunk:
    """The chunk at a place. `Damaged` if it is not what was written there; FileNotFoundError if it has gone."""
    url = storage.join(root, place.path)
    data = storage.read_bytes(url)
    try:
        file = table_file.read_footer(data, place.sum)
        if (file.metadata.get("format"), file.metadata.get("version")) != (FORMAT, str(VERSION)):
            raise ValueError("its format is another one")
        about = sums.opened(json.loads(file.metadata["about"]))
        table = file.read(range(file.parquet.num_row_groups), file.fields)
        keys = table.column("key").to_pylist()
        if len(keys) != place.stop - place.start:
            raise ValueError(f"it has {len(keys)} rows")
        fields = {name: table.column(name) for name in file.fields if name != "key"}
        return Chunk(
            keys, fields=fields, **{name: about[name] for name in _ABOUT if name in about or name not in _LATER}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{url}: it is no chunk ({error})") from None


def delete(root: str, shard: str) -> None:
    """Delete all that there is of a shard. OSError if that fails."""
    folder = storage.join(root, FOLDER, shard)
    for name in storage.list_names(folder):
        storage.delete(storage.join(folder, name))
    storage.remove_if_empty(folder)
