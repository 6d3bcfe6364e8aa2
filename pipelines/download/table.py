"""A table of URLs or of texts, and the slices of its rows that become one shard each.

Parquet files are read in place: a slice is a range of rows of one file. Tables of lines (TSV, CSV, JSONL, each also as
.gz, .bz2 or .zst) have no ranges. Of URLs they are read once, front to back, and their slices are kept beside the
shards, as Parquet. Of texts each file is one slice of several shards, see texts.py.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...infra import storage
from ...infra.progress import Progress
from ...infra.secrets import public
from .. import patterns
from . import lines
from .settings import Download

FOLDER = "table"  # of the slices of tables of lines
URL_NAMES = ("url", "image_url", "img_url", "image", "link", "src")
CAPTION_NAMES = ("caption", "text", "alt", "alt_text", "title", "description")
TEXT_NAMES = ("text", "content", "raw_content", "document", "caption")  # of tables of texts
C4 = {"text", "timestamp", "url"}  # its columns: the URLs are those of the pages that the texts were taken from
WHOLE = 0  # rows of a slice that is a file of lines: nobody has counted them
HASH_NAMES = {32: "md5", 40: "sha1", 64: "sha256"}  # by their hex digits
# Columns of the output: those of a table that have these names get "table_" before them.
OWN = (
    "url", "caption", "key", "status", "failure", "error_message", "width", "height", "original_width",
    "original_height", "sha256",
)  # fmt: skip
_TABLE = re.compile(
    r"\.(parquet|(tsv|csv|jsonl|ndjson)(\.(gz|bz2|zst))?|json\.(gz|bz2|zst))$", re.IGNORECASE
)  # of a folder
_BATCH = 1024
_LOOKED_AT = 1000  # lines in which a row is looked for


@dataclass(frozen=True)
class Slice:
    """Rows first .. first + rows - 1 of a Parquet file, or all of a file of texts in lines (`WHOLE`). number: of its
    shard, or with which its shards begin."""

    number: int
    url: str
    first: int
    rows: int


@dataclass
class Sliced:
    """A table in slices. skipped: lines that are no rows, by reason. columns: of URL, caption and hash, "" for none.
    text: the column of a table of texts, "" of one of URLs."""

    slices: list[Slice] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, str, str] = ("", "", "")
    text: str = ""


def files(settings: Download) -> list[str]:
    """The files of a table, in order. ValueError if a pattern finds nothing."""
    found: list[str] = []
    for pattern in (one for spec in settings.table for one in patterns.braces(spec)):
        if pattern.startswith(("http://", "https://")):
            found.append(pattern)  # "?" begins its query
            continue
        url = storage.absolute(pattern)
        tables = [name for name in storage.list_names(url) if _TABLE.search(name)]
        if tables:  # a folder
            found += [storage.join(url, name) for name in tables]
            continue
        try:
            matching = patterns.matching(url) if storage.is_local(url) else patterns.find(url)
        except ValueError:
            matching = []
        there = [url] if storage.is_file(url) else [one for one in matching if storage.is_file(one)]
        if not there:
            raise ValueError(
                f"download.table: there is no file {public(pattern)}, and no folder of tables (.parquet, .tsv, ...)"
            )
        found += there
    if not found:
        raise ValueError("download.table: got an empty list, expected at least one file")
    return list(dict.fromkeys(found))


def slice_all(settings: Download, urls: Sequence[str]) -> Sliced:
    """Slice a table. What slices of lines hold is written below `settings.out`, unless they are texts.

    Raises:
        ValueError: a file is none of the known formats, or has no column of URLs, or of texts.
    """
    sliced = Sliced(text=_text_column(settings, urls))
    for url in urls:
        if not lines.is_one(url):
            _slice_parquet(settings, url, sliced)
        elif sliced.text:
            sliced.slices.append(Slice(len(sliced.slices), url, 0, WHOLE))
        else:
            _slice_lines(settings, url, sliced)
    if not sliced.slices:
        said = "".join(f", but {reason} x{count:,}" for reason, count in sliced.skipped.items())
        raise ValueError(f"download.table: {public(urls[0])} has no rows{said}")
    return sliced


def _text_column(settings: Download, urls: Sequence[str]) -> str:
    """The column of texts of a table that has these and no URLs of images; "" of any other. ValueError if there is no
    column of the name that is asked for."""
    if settings.url is not None or (settings.text is None and settings.hash is not None):
        return ""
    row = next((row for url in urls if (row := _first_row(settings, url))), {})
    if settings.text is not None and row:
        return _find(list(row), settings.text, "text", (), urls[0])
    has_urls = bool(_find(list(row), None, "url", URL_NAMES, urls[0])) or any(map(lines.is_address, row.values()))
    return _find(list(row), None, "text", TEXT_NAMES, urls[0]) if set(row) == C4 or not has_urls else ""


def _first_row(settings: Download, url: str) -> lines.Row:
    """The first row of a file; {} if it has none."""
    with storage.open_binary(url) as file:
        if lines.is_one(url):
            some = itertools.islice(lines.rows(url, file, settings.columns, delimiter=settings.delimiter), _LOOKED_AT)
            return next((row for row, _ in some if isinstance(row, dict)), {})
        return next((row for batch in _parquet(url, file).iter_batches(1) for row in batch.to_pylist()), {})


def _parquet(url: str, file: BinaryIO) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"download.table: {public(url)} is neither Parquet ({str(error).splitlines()[0]}) nor has it the name of a "
            "table of lines (.tsv, .csv, .jsonl, each also with .gz, .bz2 or .zst)"
        ) from None


def _slice_parquet(settings: Download, url: str, sliced: Sliced) -> None:
    with storage.open_binary(url) as file:
        parquet = _parquet(url, file)
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        names = schema.names
    if sliced.text:
        _find(names, sliced.text, "text", (), url)
    else:
        _note_columns(settings, names, url, sliced)
        for name in filter(None, sliced.columns):
            if pa.types.is_nested(kind := schema.field(name).type):
                raise ValueError(f"download.table: {public(url)} has {kind} in the column {name}, expected text")
    for first in range(0, rows, settings.shard_size):
        sliced.slices.append(Slice(len(sliced.slices), url, first, min(settings.shard_size, rows - first)))


def _slice_lines(settings: Download, url: str, sliced: Sliced) -> None:
    size = getattr(storage.stat(url), "size", 0)
    with storage.open_binary(url) as file, Progress("download", size, "bytes of the table") as progress:
        part: list[lines.Row] = []
        for row, _ in lines.rows(url, file, settings.columns, delimiter=settings.delimiter):
            if isinstance(row, str):
                sliced.skipped[row] = sliced.skipped.get(row, 0) + 1
                continue
            part.append(row)
            if len(part) == settings.shard_size:
                _put_slice(settings, url, part, sliced)
                progress.update(file.tell() - progress.done)
                part = []
        if part:
            _put_slice(settings, url, part, sliced)
        progress.update(file.tell() - progress.done)


def place(out: str, number: int) -> str:
    """Where a slice of a table of lines is kept."""
    return storage.join(out, FOLDER, f"{number:05d}.parquet")


def _put_slice(settings: Download, url: str, rows: Sequence[lines.Row], sliced: Sliced) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    _note_columns(settings, names, url, sliced)
    table = pa.table({storable(name): column([row.get(name) for row in rows]) for name in names})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    number = len(sliced.slices)
    url_of_slice = place(settings.out, number)
    storage.put(url_of_slice, buffer.getvalue())
    sliced.slices.append(Slice(number, url_of_slice, 0, len(rows)))


def column(values: list[Any]) -> pa.Array:
    """Values of JSON as a column; those of several kinds, and objects, as JSON. What no UTF-8 can hold becomes "?"."""
    try:
        if not any(isinstance(value, dict | list) for value in values):
            return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        pass
    texts = (one if one is None or isinstance(one, str) else json.dumps(one, default=str) for one in values)
    return pa.array([None if one is None else storable(one) for one in texts], pa.string())


def storable(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON can spell."""
    return text.encode("utf-8", "replace").decode()


def _note_columns(settings: Download, names: Sequence[str], url: str, sliced: Sliced) -> None:
    """Find the columns of URL, caption and hash. ValueError if there is none of URLs, or one that is named."""
    if sliced.slices and set(sliced.columns) - {""} <= set(names):
        return
    link = _find(names, settings.url, "url", URL_NAMES, url)
    if not link:
        raise ValueError(
            f"download.table: {public(url)} has the columns {', '.join(names)}; which holds the URLs? say "
            "download.url, or download.text, if its rows are texts without images"
        )
    caption = _find(names, settings.caption, "caption", CAPTION_NAMES, url)
    sliced.columns = link, caption, _find(names, settings.hash, "hash", (), url)


def _find(names: Sequence[str], named: str | None, option: str, usual: Sequence[str], url: str) -> str:
    if named is not None:
        if named not in names:
            raise ValueError(f"download.{option}: {public(url)} has no column {named!r}, but {', '.join(names)}")
        return named
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in usual if name in by_lower), "")


def read(one: Slice, columns: tuple[str, str, str]) -> pa.Table:
    """The rows of a slice: `url` and `caption` as text, and all other columns as they are, see `OWN`.

    Args:
        columns: as of `Sliced`.
    """
    with storage.open_binary(one.url) as file:
        parquet = pq.ParquetFile(file)
        table = pa.Table.from_batches(batches(parquet, one), parquet.schema_arrow)
    link, caption, _ = columns
    texts = {"url": link} | ({"caption": caption} if caption else {})
    made = {name: table.column(of).cast(pa.string()) for name, of in texts.items()}
    for name in table.column_names:
        if name not in (link, caption):
            made[f"table_{name}" if name in OWN else name] = table.column(name)
    return pa.table(made)


def hashes(table: pa.Table, columns: tuple[str, str, str]) -> list[str]:
    """The hash that each row's bytes must have, "" for none."""
    name = columns[2]
    if not name:
        return [""] * len(table)
    values = table.column(f"table_{name}" if name in OWN else name).cast(pa.string()).to_pylist()
    return [(value or "").strip().lower() for value in values]


def batches(file: pq.ParquetFile, one: Slice) -> Iterator[pa.RecordBatch]:
    """The rows of a slice. A row group of a large file may have a million rows. ValueError if the file has changed."""
    start = found = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if start + count > one.first and start < one.first + one.rows:
            position = start
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                lower, upper = max(one.first - position, 0), min(one.first + one.rows - position, len(batch))
                if lower < upper:
                    found += upper - lower
                    yield batch.slice(lower, upper - lower)
                position += len(batch)
                if position >= one.first + one.rows:
                    break
        start += count
    if found != one.rows:
        raise ValueError(f"download.table: {public(one.url)} has changed since the download began; choose a new out")
