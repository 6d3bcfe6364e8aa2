"""Files of rows: the Parquet of a column or of a label, written so that damage is found by all that reads it.

Two things guard a file, none of which costs a second read:
- the footer has a sum of every field of every row group, which is compared with what came out of it;
- the file's ledger record has a sum of the footer (infra/footers.py): a file of another shard, recipe or attempt has
  another footer. A footer holds only what shard and recipe determine.

Sums are XXH3, at the speed of memory: the loader compares every row group that it reads. They are no proof against
people who want to deceive; the SHA-256 of the whole file in its record is. Files of older releases have no sums. Pages
have Parquet's checksums as well, for other readers: ours would find nothing more by them (docs/decisions.md).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..infra import footers, ledger, storage
from ..infra.fingerprint import fingerprint
from . import arrow
from .column_chunks import Cache, ColumnChunks

_OF_ORIGIN = ("shard", "fingerprint")  # names of a footer's metadata

# A local path, an fsspec URL, the bytes of a file, or a seekable binary file.
Source = str | os.PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class Origin:
    """What a file is of: a shard, by its name in the root, and the fingerprint of an output."""

    shard: str
    fingerprint: str


class Damaged(ValueError):
    """A file that is not what was committed: damaged, cut, or of something else. The text says what to do."""


def encode_table(
    fields: Mapping[str, pa.Array | pa.ChunkedArray],
    metadata: dict[str, str],
    row_group: int,
    origin: Origin | None = None,
) -> bytes:
    """Parquet bytes of a few fields; no clock and no host in them. Shared with labels.py."""
    schema = pa.schema([pa.field(name, array.type) for name, array in fields.items()], metadata=metadata)
    table = pa.Table.from_arrays(list(fields.values()), schema=schema)
    starts = range(0, max(len(table), 1), row_group)  # of no rows there is one group, too
    sums = table_sums(table, [min(row_group, len(table) - start) for start in starts])
    footer = {"keys": _sum(table.column("key")), "sums": json.dumps(sums)}
    if origin is not None:
        footer |= {"shard": origin.shard, "fingerprint": origin.fingerprint}
    sink = io.BytesIO()
    # Ids and image files do not repeat, and nobody searches them: dictionaries and statistics would only take room.
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as writer:
        writer.write_table(table, row_group)
        writer.add_key_value_metadata(footer)  # beside the schema's metadata, of which the file holds a second copy
    return sink.getvalue()


@dataclass(frozen=True)
class TableFile:
    """A file that `encode_table` made, open by its footer.

    metadata: of the file. fields: their names. sums: field -> the sum of each row group; {} in files of older releases.
    opened: what it was read from, closed, so that a file of an object store is not asked for its size each time.
    chunks: how its rows are read if a cache may have them.
    """

    source: Source
    parquet: pq.FileMetaData
    metadata: dict[str, str]
    fields: tuple[str, ...]
    sums: dict[str, list[str]]
    opened: Any = None
    chunks: ColumnChunks | None = None

    def row_group_sizes(self) -> list[int]:
        return [self.parquet.row_group(i).num_rows for i in range(self.parquet.num_row_groups)]

    def read(self, groups: Sequence[int], fields: Sequence[str]) -> pa.Table:
        """Some fields of some row groups, in the order given. `Damaged` if they are not what was written."""
        if lacking := [field for field in fields if field not in self.fields]:
            raise Damaged(f"{source_name(self.source)}: it has no {', '.join(lacking)}{again(self.source)}")
        pieces = None if self.chunks is None else self.chunks.read(self.parquet, groups, fields)
        # What lies in memory is read chunk by chunk, since there is nothing between them.
        source = self.source if pieces is None else cast("BinaryIO", pieces)
        with open_parquet(source, self.parquet, self.opened, pre_buffer=pieces is None) as file:
            # pyarrow's threads help wide tables only; callers read many columns side by side instead.
            table = file.read_row_groups(list(groups), columns=list(fields), use_threads=False)
        if self.sums:
            sizes = [self.parquet.row_group(group).num_rows for group in groups]
            expected = {field: [self.sums[field][group] for group in groups] for field in fields}
            if len(table) != sum(sizes) or table_sums(table, sizes) != expected:
                raise Damaged(
                    f"{source_name(self.source)}: its rows are not those that were written{again(self.source)}"
                )
        if self.chunks is not None and pieces is not None:
            self.chunks.keep(pieces)
        return table


def nulled(data: bytes, keys: Collection[str]) -> tuple[bytes, int]:
    """A file, also of an older release, in which the rows of some keys are null; nothing else of it changes.

    Returns:
        Its bytes, and how many rows have become null.

    Raises:
        Damaged: it is not what was written.
    """
    file = read_footer(data)
    table = file.read(range(file.parquet.num_row_groups), file.fields)
    rows = {row for row, key in enumerate(table.column("key").to_pylist()) if key in keys}
    index = pa.array([None if row in rows else row for row in range(len(table))], pa.int64())
    fields, lost = {"key": table.column("key")}, set[int]()
    for name in (one for one in file.fields if one != "key"):
        column = table.column(name)
        lost.update(row for row in rows if column[row].is_valid)
        fields[name] = column.take(index) if rows else column
    sizes = file.row_group_sizes()
    origin = {name: file.metadata.get(name, "") for name in _OF_ORIGIN}
    schema = file.parquet.schema.to_arrow_schema().metadata or {}  # in their first order, unlike those of the footer
    schema = {key.decode(): value.decode() for key, value in schema.items()}
    encoded = encode_table(fields, schema, max(sizes[0], 1), Origin(**origin) if all(origin.values()) else None)
    return encoded, len(lost)


def read_footer(source: Source, expected: str = "", cache: Cache | None = None) -> TableFile:
    """Open a file by its footer.

    Args:
        expected: sum of the footer that the ledger has, "" if it is not known.
        cache: of this machine, for a file that is on another one: what it has of the file is not read again.

    Raises:
        Damaged: it is no Parquet file, or another one than expected.
    """
    url = os.fspath(source) if cache is not None and isinstance(source, str | os.PathLike) else ""
    name = f"{url} footer {expected}"
    raw = cache.get(name) if cache is not None and url and expected else None
    file = None
    if raw is None or footers.digest(raw) != expected:
        with _opened(source) as file:
            try:
                raw = footers.read(file)
            except ValueError as error:
                raise Damaged(f"{source_name(source)}: not a readable Parquet file: {error}{again(source)}") from None
    if expected and footers.digest(raw) != expected:
        raise Damaged(f"{source_name(source)}: it is not the file that its record stands for{again(source)}")
    try:
        parquet = pq.read_metadata(pa.BufferReader(footers.MAGIC + raw))
        metadata = {key.decode(): value.decode() for key, value in (parquet.metadata or {}).items()}
        sums = json.loads(metadata.get("sums", "{}"))
        fields = tuple(parquet.schema.to_arrow_schema().names)
        if sums and {name: len(of) for name, of in sums.items()} != dict.fromkeys(fields, parquet.num_row_groups):
            raise ValueError("its sums are not those of its fields")
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise Damaged(f"{source_name(source)}: its footer is damaged ({error}){again(source)}") from None
    chunks = None
    # Footers of older releases have no sums, and say less of the rows: there the version of the file counts as well.
    version = footers.digest(raw) if sums else storage.version_of(getattr(file, "info", {}))
    if cache is not None and url and version:
        # Opened a second time, a file gives exactly the bytes that are asked for.
        chunks = ColumnChunks(
            cache,
            url,
            f"{version} {footers.digest(raw)}",
            lambda before: _open_url(url, before or _open_url(url)),
            file,
        )
        if file is not None and expected and sums:
            cache.put(name, raw)
    return TableFile(source, parquet, metadata, fields, sums, file, chunks)


def keys(source: Source) -> list[str]:
    """The keys of a file's rows. `Damaged` if they are not what was written."""
    file = read_footer(source)
    listed: list[str] = file.read(range(file.parquet.num_row_groups), ["key"]).column("key").to_pylist()
    return listed


def content(data: bytes) -> tuple[str, str]:
    """(sum of its keys, sum of its rows) of a file that `encode_table` made; of the same rows always the same."""
    file = read_footer(data)
    return file.metadata["keys"], fingerprint(file.sums)


def again(source: Source) -> str:
    """What to do about a damaged file, as the end of a sentence."""
    if not isinstance(source, str | os.PathLike):
        return "; make it again"
    url = os.fspath(source)
    for family in ("/tokens/", "/labels/"):
        root, found, _ = url.rpartition(family)
        if found:
            return f"; {ledger.again(root)}"
    return "; write it again"


@contextmanager
def _opened(source: Source, before: Any = None) -> Iterator[Any]:
    """The file behind `source`; a caller's own stays open. `before`: what this gave for the same source."""
    if isinstance(source, bytes):
        opened: Any = pa.BufferReader(source)
    elif isinstance(source, str | os.PathLike):
        opened = _open_url(os.fspath(source), before)
    else:
        yield source
        return
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def open_parquet(
    source: Source, footer: pq.FileMetaData | None = None, before: Any = None, pre_buffer: bool = True
) -> Iterator[pq.ParquetFile]:
    """The Parquet file behind `source`.

    Args:
        before: what the footer was read from.
        pre_buffer: read the pages of a row group in few large requests.

    Raises, also for what is read from it within the context:
        Damaged: it is no Parquet file, or damaged; names the file. OSError: it cannot be read.
    """
    with _opened(source, before) as opened:
        try:
            yield pq.ParquetFile(opened, metadata=footer, pre_buffer=pre_buffer)
        except pa.ArrowInvalid as error:
            raise Damaged(f"{source_name(source)}: not a readable Parquet file ({error}){again(source)}") from error
        except OSError as error:
            if type(error) is not OSError or error.errno is not None:  # it says so itself: not there, not allowed, ...
                raise
            raise Damaged(f"{source_name(source)}: it is damaged ({error}){again(source)}") from error


def _open_url(url: str, before: Any = None) -> Any:
    if storage.is_local(url):
        return pa.OSFile(str(storage.local_path(url)), "rb")  # no Python in the reads
    return storage.open_binary(url, before)


def _exactly(url: str, before: Any) -> Any:
    """A remote file, of which exactly the bytes are read that are asked for."""
    return _open_url(url, _open_url(url) if before is None else before)


def source_name(source: Source) -> str:
    if isinstance(source, bytes):
        return f"column of {len(source)} bytes"
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", source))


def table_sums(table: pa.Table, sizes: Sequence[int]) -> dict[str, list[str]]:
    """For each field the sums of consecutive parts of the rows: 16 hexadecimal digits each."""
    starts = np.cumsum([0, *sizes]).tolist()
    return {
        name: [_sum(column.slice(start, size)) for start, size in zip(starts, sizes, strict=False)]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def sum_of_keys(keys: Sequence[str]) -> str:
    """The sum of a shard's keys, equal in all its files, whatever their row groups."""
    return _sum(pa.chunked_array([arrow.strings(keys)]))


def _sum(column: pa.ChunkedArray) -> str:
    """Of the rows' number, which of them are null, the lengths of their values, and these end to end."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    digest = xxhash.xxh3_64(len(column).to_bytes(8, "little"))
    if column.null_count:
        digest.update(np.packbits(arrow.is_valid(column)).data)
    parts = [_values(chunk) for chunk in chunks]
    for lengths, _ in parts:
        digest.update(lengths.data)
    for _, values in parts:
        digest.update(values.data)
    return digest.hexdigest()


def _values(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the values, int64, and the values end to end, without what lies in the places of nulls."""
    if pa.types.is_fixed_size_binary(array.type):
        array = array.drop_null() if array.null_count else array
        width = array.type.byte_width
        data = np.frombuffer(array.buffers()[1] or b"", np.uint8)[
            array.offset * width : (array.offset + len(array)) * width
        ]
        return np.zeros(0, np.int64), data
    if pa.types.is_list(array.type):
        ends = arrow.numbers(array.offsets)
        return np.diff(ends).astype(np.int64), arrow.numbers(array.values)[ends[0] : ends[-1]]
    _, offsets, data = array.buffers()
    kind = np.int64 if pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type) else np.int32
    ends = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1]
    return np.diff(ends).astype(np.int64), np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
