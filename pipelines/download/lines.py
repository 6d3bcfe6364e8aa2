"""Tables of lines (TSV, CSV, JSONL, each also as .gz, .bz2 or .zst), read from front to back: they have no ranges of
rows."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa

from ...infra import faults
from ...infra.secrets import public

Row = dict[str, Any]

_KIND = re.compile(r"\.(tsv|txt|csv|jsonl|ndjson|json)(?:\.(gz|bz2|zst))?$", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*https?://\S", re.IGNORECASE)
_DELIMITERS = ",;|\t"
_MAX_CELL = 1 << 20  # characters
_MAX_LINE = 1 << 24  # characters; what follows of a longer line is not read


def is_one(url: str) -> bool:
    """Whether a file is a table of lines, by its name."""
    return _KIND.search(_name(url)) is not None


def is_address(cell: Any) -> bool:
    """Whether a cell holds a URL of the web."""
    return isinstance(cell, str) and _ADDRESS.match(cell) is not None


def _name(url: str) -> str:
    return posixpath.basename(url.partition("?")[0] if "://" in url else url)


def rows(
    url: str, file: BinaryIO, columns: Sequence[str] = (), errors: str = "replace", delimiter: str | None = None
) -> Iterator[tuple[Row | str, int]]:
    """The rows of a table: the values by column, or in words why a line is no row; with how many characters it has.

    Args:
        url: where the file is, which says of what kind it is. file: its bytes.
        columns: their names; found unless given. errors: what becomes of bytes that are no UTF-8, as of `open`.
        delimiter: between the cells of CSV or TSV; found unless given.

    Raises:
        ValueError: the file is damaged.
    """
    kind, zipped = cast("re.Match[str]", _KIND.search(_name(url))).groups()
    stream = _unzipped(file, zipped and zipped.lower())
    text = None
    try:
        # As of some spreadsheets: without its mark nobody can tell UTF-16.
        encoding = "utf-16" if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
        if kind.lower() in ("jsonl", "ndjson", "json"):
            yield from _json_rows(url, _Lines(text))
        else:
            yield from _csv_rows(_Lines(text), delimiter, "," if kind.lower() == "csv" else "\t", columns)
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and faults.of_place(error):
            raise
        raise ValueError(f"download.table: {public(url)} is damaged: {error}") from None
    finally:
        with contextlib.suppress(ValueError):  # the file may be closed by now
            # Else they would close the file, which is the caller's.
            if text is not None:
                text.detach()
            if stream is not file and isinstance(stream, io.BufferedReader):
                stream.detach()


class _Lent:
    """A file that its reader cannot close."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read

    def close(self) -> None:
        pass


def _unzipped(file: BinaryIO, how: str | None) -> io.BufferedReader:
    """A file's content, read from front to back."""
    stream: Any = file
    if how == "gz":
        stream = gzip.GzipFile(fileobj=file)
    elif how is not None:
        stream = pa.CompressedInputStream(pa.PythonFile(_Lent(file), "r"), "zstd" if how == "zst" else how)
    return cast("io.BufferedReader", stream) if hasattr(stream, "peek") else io.BufferedReader(stream)


class _Lines:
    """The lines of a text, none of them longer than is read of one; counts their characters."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._first = text, ""
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, self._first = self._first or self._text.readline(_MAX_LINE), ""
        if not line:
            raise StopIteration
        self.characters += len(line)
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith("\n"):
            rest = self._text.readline(_MAX_LINE)
        return line

    def first(self) -> str:
        """The first line, which comes once more."""
        self._first = self._first or self._text.readline(_MAX_LINE)
        return self._first

    def taken(self) -> int:
        """Characters since the last call."""
        taken, self.characters = self.characters, 0
        return taken


def _json_rows(url: str, lines: _Lines) -> Iterator[tuple[Row | str, int]]:
    begin = lines.first().strip()
    if begin.startswith("[") and begin[1:].lstrip()[:1] in ("", "{"):
        raise ValueError(
            f"download.table: {public(url)} is one JSON array, expected an object a line: "
            "`jq -c '.[]' table.json > table.jsonl` makes such a table of it"
        )
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else "a line that is no JSON object", lines.taken()


def _csv_rows(
    lines: _Lines, delimiter: str | None, usual: str, columns: Sequence[str]
) -> Iterator[tuple[Row | str, int]]:
    """The rows of CSV or TSV. usual: the delimiter that the file's name speaks of."""
    csv.field_size_limit(_MAX_CELL)
    reader = _reader(lines, delimiter or _delimiter(lines.first(), usual))
    names = list(columns)
    first = not names
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"a line that is no row: {error}", lines.taken()
            continue
        if not cells:
            continue
        if first:
            first = False
            names = _names(cells)
            if not any(map(is_address, cells)):
                continue  # it is the header
        if len(cells) != len(names):
            yield f"a line without {len(names)} cells", lines.taken()
            continue
        yield dict(zip(names, cells, strict=True)), lines.taken()


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Quotes mean nothing between tabs: CC12M's captions have single ones."""
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)


def _delimiter(line: str, usual: str) -> str:
    """What is between the cells of a table, by its first line: the usual one, unless it leaves one cell, or part of
    another cell at a URL. A line that is a URL, and nothing else, is one cell: URLs may hold most delimiters."""
    if is_address(line) and len(line.split()) == 1 and usual == "\t":
        return usual
    for delimiter in dict.fromkeys(usual + _DELIMITERS):
        try:
            cells = next(_reader([line], delimiter), [])
        except csv.Error:
            continue
        if len(cells) > 1 and not any(is_address(cell) and len(cell.split()) > 1 for cell in cells):
            return delimiter
    return usual


def _names(cells: Sequence[str]) -> list[str]:
    """Names of columns by the first line: itself, or if it holds a URL, what is taken for URL and caption."""
    at = next((i for i, cell in enumerate(cells) if is_address(cell)), -1)
    if at < 0:
        return [cell.strip() for cell in cells]
    caption = next((i for i in range(len(cells)) if i != at), -1)
    return ["url" if i == at else "caption" if i == caption else f"column_{i}" for i in range(len(cells))]
