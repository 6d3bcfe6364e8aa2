"""Column chunks of a remote Parquet file: what a cache of this machine holds is not asked for again.

A column chunk is one field of one row group, which lies in one piece in the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyarrow.parquet as pq

from ..infra.remote import Seekable

HOLE = 1 << 13  # bytes between two chunks that are read with them rather than in a request of their own
_TAIL = 1 << 16  # bytes beyond the last chunk that a file is taken to have


class Cache(Protocol):
    """Bytes by name, of which any may be gone at any time. Safe to use from several threads."""

    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, data: bytes) -> None: ...


class ColumnChunks:
    """The chunks of one remote file.

    Args:
        version: of the file: one with other rows has another.
        open_file: opens the file, given what it returned before. Only called where the cache lacks something.
        opened: what it was opened as before, if it was.
    """

    def __init__(
        self, cache: Cache, url: str, version: str, open_file: Callable[[Any], Any], opened: Any = None
    ) -> None:
        self._cache, self._url, self._version, self._open, self._opened = cache, url, version, open_file, opened

    def read(self, parquet: pq.FileMetaData, groups: Sequence[int], fields: Sequence[str]) -> Pieces:
        """The chunks of some fields of some row groups, as a file that holds nothing else."""
        spans = sorted({span for group in groups for span in _spans(parquet, group, fields)})
        pieces = {start: data for start, end in spans if (data := self._cache.get(self._of(start, end))) is not None}
        fresh = [span for span in spans if span[0] not in pieces]
        if fresh:
            with self._open(self._opened) as file:
                self._opened = file
                for run in _runs(fresh):
                    begin = run[0][0]
                    file.seek(begin)
                    data = file.read(run[-1][1] - begin)
                    pieces |= {start: data[start - begin : end - begin] for start, end in run}
        return Pieces(self._url, pieces, fresh)

    def keep(self, pieces: Pieces) -> None:
        """Give the cache what it lacked, once it was compared with the sums of the file."""
        for start, end in pieces.fresh:
            self._cache.put(self._of(start, end), pieces.content[start])

    def _of(self, start: int, end: int) -> str:
        return f"{self._url} {self._version} {start} {end}"


class Pieces(Seekable):
    """Pieces of a file, at their places in it. A read lies within one of them.

    name: of the file. content: by where each begins. fresh: (begin, end) of those that the cache did not have.
    """

    def __init__(self, name: str, content: dict[int, bytes], fresh: Sequence[tuple[int, int]]) -> None:
        super().__init__(name, max((start + len(data) for start, data in content.items()), default=0) + _TAIL)
        self.name, self.content, self.fresh = name, content, fresh

    def read(self, size: int | None = -1) -> bytes:
        for start, data in self.content.items():
            at = self._position - start
            if 0 <= at < len(data):
                piece = data[at:] if size is None or size < 0 else data[at : at + size]
                self._position += len(piece)
                return piece
        return b""


def _spans(parquet: pq.FileMetaData, group: int, fields: Sequence[str]) -> list[tuple[int, int]]:
    """Where the chunks of some fields of a row group begin and end."""
    of_group, spans = parquet.row_group(group), []
    for i in range(of_group.num_columns):
        chunk = of_group.column(i)
        if chunk.path_in_schema.split(".")[0] in fields:
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            spans.append((start, start + chunk.total_compressed_size))
    return spans


def _runs(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Chunks that are near each other, in runs that are read in one request."""
    runs = [[spans[0]]]
    for before, span in itertools.pairwise(spans):
        if span[0] - before[1] > HOLE:
            runs.append([])
        runs[-1].append(span)
    return runs
