"""Tables of texts, as C4's json.gz: each row becomes a sample that has a text and no image, and nothing is fetched.

A slice of Parquet is one shard. A file of lines is one slice, since nobody knows its rows before it is read: it is read
once, and its shards are NNNNN-PPPPP. Where they begin follows from the file alone, so that those that are there are
passed over. What is in memory of a shard are its other columns; texts go to its tar one by one.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...infra import scratch, storage
from .. import archive, source
from . import failures, lines, slice_files, table
from .failures import Failure
from .lines import Row
from .settings import Download
from .slice_files import Stats
from .table import Slice

CHARACTERS = 1 << 28  # of the lines of one shard; who has larger ones gets shards of fewer rows
OWN = ("key", "status", "failure", "error_message")  # a column of the table of this name gets "table_" before it
REJECTED = "rejected"
Tick = Callable[[Stats], None]


def make(one: Slice, settings: Download, text: str, there: frozenset[int], tick: Tick) -> Stats:
    """Make what is missing of the shards of a slice.

    Args:
        settings: with an absolute `out`. text: the column of texts. there: parts of the slice that are finished.
        tick: called with the statistics of each shard.

    Raises:
        ValueError: the table is damaged, or has changed.
    """
    out, name = settings.out, slice_files.name_of(one.number)
    with storage.open_binary(one.url) as file:
        if one.rows != table.WHOLE:
            of_slice = (row for batch in table.batches(pq.ParquetFile(file), one) for row in batch.to_pylist())
            return _shard(name, of_slice, settings, text, tick)
        stats, parts = Stats(0, 0, start_time=time.time()), 0
        rows = _numbered(
            lines.rows(one.url, file, settings.columns, "surrogateescape", settings.delimiter), settings.shard_size
        )
        for part, of_part in itertools.groupby(rows, lambda numbered: numbered[0]):
            parts, shard = part + 1, slice_files.name_of(one.number, part)
            if part in there:
                stats.add(Stats.read(out, shard))
            else:
                stats.add(_shard(shard, (row for _, row in of_part), settings, text, tick))
    stats.end_time = time.time()
    stats.put(out, slice_files.name_of_whole(one.number, parts))
    return stats


def _numbered(rows: Iterator[tuple[Row | str, int]], shard_size: int) -> Iterator[tuple[int, Row | str]]:
    """The rows, each with the number of its part."""
    part = count = size = 0
    for row, characters in rows:
        if count == shard_size or (count and size + characters > CHARACTERS):
            part, count, size = part + 1, 0, 0
        count, size = count + 1, size + characters
        yield part, row


def _shard(name: str, rows: Iterator[Row | str], settings: Download, text: str, tick: Tick) -> Stats:
    """Write a shard of these rows."""
    stats, described, by_class = Stats(0, 0, start_time=time.time()), list[Row](), Counter[str]()
    with scratch.folder() as folder:
        path = Path(folder, f"{name}.tar")
        with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                key = slice_files.key_of(name, stats.count, settings.shard_size)
                others = {} if isinstance(row, str) else _others(row, text)
                known: Row = dict.fromkeys(OWN) | {"key": key, "status": slice_files.SUCCESS}
                stats.count += 1
                try:
                    data = _text(row, text)
                except Failure as failure:
                    by_class[failure.kind] += 1
                    known |= {"status": REJECTED, "failure": failure.kind, "error_message": failure.said}
                else:
                    stats.successes, stats.bytes = stats.successes + 1, stats.bytes + len(data)
                    archive.add(tar, f"{key}.txt", data)
                    archive.add(tar, f"{key}.json", slice_files.as_json(others | {"key": key}))
                described.append(others | known)
        stats.failures, stats.end_time = dict(by_class.most_common()), time.time()
        slice_files.put_files(settings.out, name, path, _encoded(described), stats)
    tick(stats)
    return stats


def _others(row: Row, text: str) -> Row:
    """The other columns of a row, by the names that they get."""
    named = ((table.storable(name), value) for name, value in row.items() if name != text)
    return {f"table_{name}" if name in OWN else name: value for name, value in named}


def _text(row: Row | str, text: str) -> bytes:
    """The text of a row in UTF-8. Failure if it has none that can be read back."""
    if isinstance(row, str):
        raise Failure(failures.NO_ROW, row)
    value = row.get(text)
    if value is None:
        raise Failure(failures.EMPTY, f"there is no {text}")
    if not isinstance(value, str):
        raise Failure(failures.NOT_TEXT, f"{text} is {_KINDS.get(type(value), type(value).__name__)}, expected text")
    if not value.strip():
        raise Failure(failures.EMPTY, f"{text} is nothing but white space" if value else f"{text} is empty")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise Failure(failures.NOT_TEXT, f"{text} is not UTF-8") from None
    if len(data) > source.MAX_CAPTION_BYTES:
        raise Failure(failures.TOO_LARGE, f"{len(data):,} bytes, expected at most {source.MAX_CAPTION_BYTES:,}")
    return data


_KINDS = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}


def _encoded(rows: list[Row]) -> bytes:
    """All rows of a shard as Parquet, without their texts, which are in the tar."""
    names = dict.fromkeys([name for row in rows for name in row if name not in OWN] + list(OWN))
    columns: dict[str, Any] = {name: table.column([row.get(name) for row in rows]) for name in names}
    columns |= {name: pa.array([row[name] for row in rows], pa.string()) for name in OWN}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()
