"""The three files of a shard, in img2dataset's layout: NNNNN.tar, NNNNN.parquet with every row, NNNNN_stats.json.

Samples stand in the tar in the order of the table, whatever order they came in: the same responses give the same bytes.
The statistics are put last. A shard without them does not exist, and is made again. A slice is one shard, or a file of
texts with the shards NNNNN-PPPPP: it is finished when NNNNN_of_PPPPP_stats.json is there, which says how many they are.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...infra import storage
from .. import archive
from . import failures
from .failures import Failure
from .pictures import Known, Picture
from .table import Slice

STATS = "_stats.json"
_SHARD, _PART, _WHOLE = re.compile(r"\d{5,}"), re.compile(r"(\d{5,})-(\d{5,})"), re.compile(r"(\d{5,})_of_(\d{5,})")
SAID = 500  # characters of a reason that are kept; servers may say anything
SUCCESS, NOT_DOWNLOADED, NOT_RESIZED = "success", "failed_to_download", "failed_to_resize"
_COLUMNS = pa.schema(
    [
        ("key", pa.string()), ("status", pa.string()), ("failure", pa.string()), ("error_message", pa.string()),
        ("width", pa.int32()), ("height", pa.int32()), ("original_width", pa.int32()), ("original_height", pa.int32()),
        ("sha256", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Kept(Known):
    """Where the bytes of an image are in the spool."""

    start: int
    size: int


class Spool:
    """The images of a slice as they come, in one file of this machine, and what became of each row."""

    def __init__(self, folder: str, rows: int) -> None:
        self._file = open(Path(folder, "images"), "w+b")
        self._end, self._lock = 0, threading.Lock()
        self.results: list[Kept | Failure | None] = [None] * rows

    def add(self, index: int, result: Picture | Failure) -> None:
        """OSError if the disk is full."""
        if isinstance(result, Failure):
            self.results[index] = result
            return
        with self._lock:
            self._file.seek(self._end)
            self._file.write(result.data)
            known = {name: value for name, value in asdict(result).items() if name != "data"}
            self.results[index] = Kept(**known, start=self._end, size=len(result.data))
            self._end += len(result.data)

    def read(self, kept: Kept) -> bytes:
        with self._lock:
            self._file.seek(kept.start)
            return self._file.read(kept.size)

    def close(self) -> None:
        self._file.close()


@dataclass
class Stats:
    """Of one shard or slice, as its file says. failures: rows without a sample, by class. bytes: of the images, or
    texts, as stored."""

    count: int
    successes: int
    failures: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    start_time: float = 0.0
    end_time: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """With img2dataset's names."""
        of_content = sum(count for kind, count in self.failures.items() if kind in failures.OF_CONTENT)
        return {
            "count": self.count,
            "successes": self.successes,
            "failed_to_download": self.count - self.successes - of_content,
            "failed_to_resize": of_content,
            "duration": self.end_time - self.start_time,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "status_dict": {SUCCESS: self.successes} | self.failures,
            "bytes": self.bytes,
        }

    def add(self, other: Stats) -> None:
        """Count the rows of another shard."""
        self.count, self.successes = self.count + other.count, self.successes + other.successes
        self.failures = dict((Counter(self.failures) + Counter(other.failures)).most_common())
        self.bytes += other.bytes

    @classmethod
    def read(cls, out: str, name: str) -> Stats:
        """ValueError if the file is damaged."""
        url = storage.join(out, f"{name}{STATS}")
        try:
            raw = json.loads(storage.read_bytes(url))
            by_class = {str(k): int(v) for k, v in raw["status_dict"].items() if k != SUCCESS}
            return cls(
                int(raw["count"]), int(raw["successes"]), by_class, int(raw.get("bytes", 0)), raw["start_time"],
                raw["end_time"],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{url} is damaged ({error!r}); delete it, and its slice is made again") from None

    def put(self, out: str, name: str) -> None:
        """Write the file."""
        storage.put(storage.join(out, f"{name}{STATS}"), json.dumps(self.as_json(), indent=1).encode())


def name_of(number: int, part: int | None = None) -> str:
    """Of a slice, and of its shard, or of one of its shards."""
    return f"{number:05d}" if part is None else f"{number:05d}-{part:05d}"


def name_of_whole(number: int, parts: int) -> str:
    """With which the statistics of a slice of several shards begin."""
    return f"{number:05d}_of_{parts:05d}"


@dataclass
class Found:
    """What a folder holds. slices: number of each finished one -> with what its statistics begin. parts: finished
    shards of the slices that have several, by number."""

    slices: dict[int, str] = field(default_factory=dict)
    parts: dict[int, set[int]] = field(default_factory=dict)


def found(out: str) -> Found:
    """The slices and shards that have all of their files."""
    names = set(storage.list_names(out))
    finished = [name.removesuffix(STATS) for name in names if name.endswith(STATS)]
    shards = [one for one in finished if {f"{one}.tar", f"{one}.parquet"} <= names]
    there = Found({int(one): one for one in shards if _SHARD.fullmatch(one)})
    for number, part in (match.groups() for one in shards if (match := _PART.fullmatch(one))):
        there.parts.setdefault(int(number), set()).add(int(part))
    for number, parts in (match.groups() for one in finished if (match := _WHOLE.fullmatch(one))):
        if there.parts.get(int(number), set()) >= set(range(int(parts))):
            there.slices[int(number)] = name_of_whole(int(number), int(parts))
    return there


def key_of(name: str, row: int, shard_size: int) -> str:
    """The key of a row: the name of its shard and its number, as img2dataset writes them."""
    digits = max(1, math.ceil(math.log10(shard_size))) if shard_size > 1 else 1
    return f"{name.replace('-', '')}{row:0{digits}d}"


def put(
    one: Slice, out: str, table: pa.Table, spool: Spool, shard_size: int, folder: str, times: tuple[float, float]
) -> Stats:
    """Write the three files. What was there of an earlier attempt stops counting first.

    Args:
        table: as of `table.read`. folder: a temporary one of this machine. times: when the slice began and ended.
    """
    name = name_of(one.number)
    names = [key_of(name, row, shard_size) for row in range(len(table))]
    rows = _described(table, names, spool.results)
    tar = Path(folder, f"{name}.tar")
    _write_tar(tar, table, rows, spool)
    buffer = io.BytesIO()
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in _COLUMNS}
    for column, values in columns.items():
        table = table.append_column(column, values)
    pq.write_table(table, buffer, compression="zstd")
    kept = [result for result in spool.results if isinstance(result, Kept)]
    by_class = Counter(result.kind for result in spool.results if isinstance(result, Failure))
    stats = Stats(len(rows), len(kept), dict(by_class.most_common()), sum(k.size for k in kept), *times)
    put_files(out, name, tar, buffer.getvalue(), stats)
    os.unlink(tar)
    return stats


def put_files(out: str, name: str, tar: Path, rows: bytes, stats: Stats) -> None:
    """Put the files of a shard. What was there of an earlier attempt stops counting first."""
    storage.delete(storage.join(out, f"{name}{STATS}"))
    storage.put_file(storage.join(out, f"{name}.tar"), tar)
    storage.put(storage.join(out, f"{name}.parquet"), rows)
    stats.put(out, name)


def _described(table: pa.Table, names: Sequence[str], results: Sequence[Kept | Failure | None]) -> list[dict[str, Any]]:
    """What is known of each row now, by the names of `_COLUMNS`."""
    rows = []
    for key, result in zip(names, results, strict=True):
        row: dict[str, Any] = dict.fromkeys(_COLUMNS.names) | {"key": key}
        if isinstance(result, Kept):
            known = asdict(result)
            row |= {"status": SUCCESS} | {n: known[n] for n in known if n in _COLUMNS.names}
        else:
            assert result is not None, f"row {key} has no result"
            status = NOT_RESIZED if result.kind in failures.OF_CONTENT else NOT_DOWNLOADED
            row |= {"status": status, "failure": result.kind, "error_message": result.said[:SAID]}
        rows.append(row)
    return rows


def _write_tar(path: Path, table: pa.Table, rows: Sequence[dict[str, Any]], spool: Spool) -> None:
    """The samples: KEY.jpg, KEY.txt (if there is a caption) and KEY.json with all that is known of the row."""
    start = 0
    with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for batch in table.to_batches(1024):
            for of_table, row, result in zip(
                batch.to_pylist(), rows[start:], spool.results[start : start + len(batch)], strict=False
            ):
                if not isinstance(result, Kept):
                    continue
                archive.add(tar, f"{row['key']}.{result.extension}", spool.read(result))
                if of_table.get("caption") is not None:
                    archive.add(tar, f"{row['key']}.txt", str(of_table["caption"]).encode("utf-8", "replace"))
                known = {**of_table, **{n: v for n, v in row.items() if n != "failure"}}
                archive.add(tar, f"{row['key']}.json", as_json(known))
            start += len(batch)


def as_json(known: dict[str, Any]) -> bytes:
    """What is known of a row, as the file of its sample."""
    return json.dumps(_plain(known), default=str).encode()


def _plain(value: Any) -> Any:
    """What JSON can say: NaN and infinity, which it cannot, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def load(out: str, number: int, spool: Spool, again: Sequence[str]) -> tuple[pa.Table, list[int]]:
    """A finished slice: its samples go into the spool, its failures stay but for those of the classes `again`.

    Returns:
        The rows as `table.read` gave them, and the numbers of those to fetch again.
    """
    name = name_of(number)
    table = pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(out, f"{name}.parquet"))))
    known = table.select(_COLUMNS.names).to_pylist()
    row_of = {row["key"]: i for i, row in enumerate(known)}
    with storage.open_binary(storage.join(out, f"{name}.tar")) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            content = tar.extractfile(info)
            if extension in ("txt", "json") or key not in row_of or content is None:
                continue
            row = known[row_of[key]]
            of = {n: row[n] for n in ("width", "height", "original_width", "original_height", "sha256")}
            spool.add(row_of[key], Picture(extension, **of, data=content.read()))
    fetch = []
    for i, row in enumerate(known):
        if spool.results[i] is None:
            kind = row["failure"] or failures.OTHER
            spool.results[i] = Failure(kind, row["error_message"] or "")
            if failures.matches(kind, again):
                fetch.append(i)
    return table.drop_columns(_COLUMNS.names), fetch
