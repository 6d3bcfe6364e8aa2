"""A table of URLs, and the slices of its rows that become one shard each.

Parquet files are read in place: a slice is a range of rows of one file. Tables of text (TSV, CSV, JSONL, each also as
.gz) have no ranges; they are read once, front to back, and their slices are kept beside the shards, as Parquet.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...infra import storage
from ...infra.progress import Progress
from ...infra.secrets import public
from .. import patterns
from .settings import Download

FOLDER = "table"  # of the slices of text tables
URL_NAMES = ("url", "image_url", "img_url", "image", "link", "src")
CAPTION_NAMES = ("caption", "text", "alt", "alt_text", "title", "description")
HASH_NAMES = {32: "md5", 40: "sha1", 64: "sha256"}  # by their hex digits
# Columns of the output: those of a table that have these names get "table_" before them.
OWN = (
    "url", "caption", "key", "status", "failure", "error_message", "width", "height", "original_width",
    "original_height", "sha256",
)  # fmt: skip
_TEXT = re.compile(r"\.(tsv|txt|csv|jsonl|ndjson|json)(\.gz)?$", re.IGNORECASE)
_TABLE = re.compile(r"\.(parquet|tsv|csv|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*https?://\S", re.IGNORECASE)
_MAX_CELL = 1 << 20  # characters
_BATCH = 4096


@dataclass(frozen=True)
class Slice:
    """Rows first .. first + rows - 1 of a Parquet file. number: of its shard."""

    number: int
    url: str
    first: int
    rows: int


@dataclass
class Sliced:
    """A table in slices. skipped: lines that are no rows, by reason. columns: of URL, caption and hash, "" for none."""

    slices: list[Slice] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, str, str] = ("", "", "")


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
    """Slice a table. What slices of text hold is written below `settings.out`.

    Raises:
        ValueError: a file is none of the known formats, or has no column of URLs.
    """
    sliced = Sliced()
    for url in urls:
        name = posixpath.basename(url.partition("?")[0] if "://" in url else url)
        if _TEXT.search(name):
            _slice_text(settings, url, name, sliced)
        else:
            _slice_parquet(settings, url, sliced)
    if not sliced.slices:
        raise ValueError(f"download.table: {public(urls[0])} has no rows")
    return sliced


def _slice_parquet(settings: Download, url: str, sliced: Sliced) -> None:
    try:
        with storage.open_binary(url) as file:
            table = pq.ParquetFile(file)
            names, rows = table.schema_arrow.names, table.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"download.table: {public(url)} is neither Parquet ({str(error).splitlines()[0]}) nor has it the name of a "
            "text table (.tsv, .csv, .jsonl, each also with .gz)"
        ) from None
    _note_columns(settings, names, url, sliced)
    for first in range(0, rows, settings.shard_size):
        sliced.slices.append(Slice(len(sliced.slices), url, first, min(settings.shard_size, rows - first)))


def _slice_text(settings: Download, url: str, name: str, sliced: Sliced) -> None:
    size = getattr(storage.stat(url), "size", 0)
    with storage.open_binary(url) as file, Progress("download", size, "bytes of the table") as progress:
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if name.lower().endswith(".gz") else file
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        kind = cast("re.Match[str]", _TEXT.search(name))[1].lower()
        if kind in ("jsonl", "ndjson", "json"):
            rows: Iterator[dict[str, Any]] = _json_rows(lines, sliced.skipped)
        else:
            rows = _csv_rows(settings, lines, "," if kind == "csv" else "\t", sliced.skipped)
        part: list[dict[str, Any]] = []
        try:
            for row in rows:
                part.append(row)
                if len(part) == settings.shard_size:
                    _put_slice(settings, url, part, sliced)
                    progress.update(file.tell() - progress.done)
                    part = []
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"download.table: {public(url)} is damaged: {error}") from None
        if part:
            _put_slice(settings, url, part, sliced)
        progress.update(file.tell() - progress.done)


def place(out: str, number: int) -> str:
    """Where a slice of a text table is kept."""
    return storage.join(out, FOLDER, f"{number:05d}.parquet")


def _put_slice(settings: Download, url: str, rows: Sequence[dict[str, Any]], sliced: Sliced) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    _note_columns(settings, names, url, sliced)
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    number = len(sliced.slices)
    url_of_slice = place(settings.out, number)
    storage.put(url_of_slice, buffer.getvalue())
    sliced.slices.append(Slice(number, url_of_slice, 0, len(rows)))


def _column(values: list[Any]) -> pa.Array:
    """Values of JSON as a column; those of several kinds, and objects, as JSON."""
    try:
        if not any(isinstance(value, dict | list) for value in values):
            return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def _json_rows(lines: Iterator[str], skipped: dict[str, int]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            _skip(skipped, "a line that is no JSON object")


def _csv_rows(settings: Download, lines: Iterator[str], delimiter: str, skipped: dict[str, int]) -> Iterator[Any]:
    """Rows by their names. Quotes mean nothing in a TSV: CC12M's captions have single ones."""
    csv.field_size_limit(_MAX_CELL)
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter)
    names: list[str] = list(settings.columns)
    first = not names
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _skip(skipped, f"a line that is no row: {error}")
            continue
        if not cells:
            continue
        if first:
            first = False
            names = _names(cells)
            if not any(map(_ADDRESS.match, cells)):
                continue  # it is the header
        if len(cells) != len(names):
            _skip(skipped, f"a line without {len(names)} cells")
            continue
        yield dict(zip(names, cells, strict=True))


def _names(cells: Sequence[str]) -> list[str]:
    """Names of columns by the first line: itself, or if it holds a URL, what is taken for URL and caption."""
    at = next((i for i, cell in enumerate(cells) if _ADDRESS.match(cell)), -1)
    if at < 0:
        return [cell.strip() for cell in cells]
    caption = next((i for i in range(len(cells)) if i != at), -1)
    return ["url" if i == at else "caption" if i == caption else f"column_{i}" for i in range(len(cells))]


def _skip(skipped: dict[str, int], reason: str) -> None:
    skipped[reason] = skipped.get(reason, 0) + 1


def _note_columns(settings: Download, names: Sequence[str], url: str, sliced: Sliced) -> None:
    """Find the columns of URL, caption and hash. ValueError if there is none of URLs, or one that is named."""
    if sliced.slices and set(sliced.columns) - {""} <= set(names):
        return
    link = _find(names, settings.url, "url", URL_NAMES, url)
    if not link:
        raise ValueError(
            f"download.table: {public(url)} has the columns {', '.join(names)}; which holds the URLs? say download.url"
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
        table = _rows(pq.ParquetFile(file), one)
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


def _rows(file: pq.ParquetFile, one: Slice) -> pa.Table:
    """In batches: a row group of a large file may have a million rows."""
    kept, start = [], 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if start + count > one.first and start < one.first + one.rows:
            position = start
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                lower, upper = max(one.first - position, 0), min(one.first + one.rows - position, len(batch))
                if lower < upper:
                    kept.append(batch.slice(lower, upper - lower))
                position += len(batch)
                if position >= one.first + one.rows:
                    break
        start += count
    table = pa.Table.from_batches(kept, file.schema_arrow)
    if len(table) != one.rows:
        raise ValueError(f"download.table: {public(one.url)} has changed since the download began; choose a new out")
    return table
