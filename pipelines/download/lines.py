"""Tables of lines (TSV, CSV, JSONL, each also as .gz), read from front to back: they have no ranges of rows."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import posixpath
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from ...infra.secrets import public

Row = dict[str, Any]

_KIND = re.compile(r"\.(tsv|txt|csv|jsonl|ndjson|json)(\.gz)?$", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*https?://\S", re.IGNORECASE)
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
    url: str, file: BinaryIO, columns: Sequence[str] = (), errors: str = "replace"
) -> Iterator[tuple[Row | str, int]]:
    """The rows of a table: the values by column, or in words why a line is no row; with how many characters it has.

    Args:
        url: where the file is, which says of what kind it is. file: its bytes.
        columns: their names; found unless given. errors: what becomes of bytes that are no UTF-8, as of `open`.

    Raises:
        ValueError: the file is damaged.
    """
    kind, zipped = cast("re.Match[str]", _KIND.search(_name(url))).groups()
    stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")
    lines = _Lines(text)
    try:
        if kind.lower() in ("jsonl", "ndjson", "json"):
            yield from _json_rows(lines)
        else:
            yield from _csv_rows(lines, "," if kind.lower() == "csv" else "\t", columns)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"download.table: {public(url)} is damaged: {error}") from None
    finally:
        with contextlib.suppress(ValueError):  # the file may be closed by now
            text.detach()  # else it would close the file, which is the caller's


class _Lines:
    """The lines of a text, none of them longer than is read of one; counts their characters."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_MAX_LINE)
        if not line:
            raise StopIteration
        self.characters += len(line)
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith("\n"):
            rest = self._text.readline(_MAX_LINE)
        return line

    def taken(self) -> int:
        """Characters since the last call."""
        taken, self.characters = self.characters, 0
        return taken


def _json_rows(lines: _Lines) -> Iterator[tuple[Row | str, int]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else "a line that is no JSON object", lines.taken()


def _csv_rows(lines: _Lines, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[Row | str, int]]:
    """Quotes mean nothing in a TSV: CC12M's captions have single ones."""
    csv.field_size_limit(_MAX_CELL)
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter)
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


def _names(cells: Sequence[str]) -> list[str]:
    """Names of columns by the first line: itself, or if it holds a URL, what is taken for URL and caption."""
    at = next((i for i, cell in enumerate(cells) if is_address(cell)), -1)
    if at < 0:
        return [cell.strip() for cell in cells]
    caption = next((i for i in range(len(cells)) if i != at), -1)
    return ["url" if i == at else "caption" if i == caption else f"column_{i}" for i in range(len(cells))]
