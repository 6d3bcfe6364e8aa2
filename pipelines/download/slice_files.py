"""The three files of a slice, in img2dataset's layout: NNNNN.tar, NNNNN.parquet with every row, NNNNN_stats.json.

Samples stand in the tar in the order of the table, whatever order they came in: the same responses give the same bytes.
The statistics are put last. A slice without them does not exist, and is made again.
"""

from __future__ import annotations

import io
import json
import math
import os
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
from . import failures
from .failures import Failure
from .pictures import Known, Picture
from .table import Slice

STATS = "_stats.json"
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
    """Of one slice, as its file says. failures: rows without a sample, by class. bytes: of the images as stored."""

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

    @classmethod
    def read(cls, out: str, number: int) -> Stats:
        """ValueError if the file is damaged."""
        url = storage.join(out, f"{name_of(number)}{STATS}")
        try:
            raw = json.loads(storage.read_bytes(url))
            by_class = {str(k): int(v) for k, v in raw["status_dict"].items() if k != SUCCESS}
            return cls(
                int(raw["count"]), int(raw["successes"]), by_class, int(raw.get("bytes", 0)), raw["start_time"],
                raw["end_time"],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{url} is damaged ({error!r}); delete it, and its slice is made again") from None


def name_of(number: int) -> str:
    return f"{number:05d}"


def finished(out: str) -> set[int]:
    """The numbers of the slices that have all of their files."""
    names = set(storage.list_names(out))
    numbers = (name.removesuffix(STATS) for name in names if name.endswith(STATS))
    return {int(n) for n in numbers if n.isdigit() and {f"{n}.tar", f"{n}.parquet"} <= names}


def keys(number: int, rows: int, shard_size: int) -> list[str]:
    """The key of each row of a slice: the number of the shard and that of the row, as img2dataset writes them."""
    digits = max(1, math.ceil(math.log10(shard_size))) if shard_size > 1 else 1
    return [f"{number:05d}{row:0{digits}d}" for row in range(rows)]


def put(
    one: Slice, out: str, table: pa.Table, spool: Spool, shard_size: int, folder: str, times: tuple[float, float]
) -> Stats:
    """Write the three files. What was there of an earlier attempt stops counting first.

    Args:
        table: as of `table.read`. folder: a temporary one of this machine. times: when the slice began and ended.
    """
    name, names = name_of(one.number), keys(one.number, len(table), shard_size)
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
    storage.delete(storage.join(out, f"{name}{STATS}"))
    storage.put_file(storage.join(out, f"{name}.tar"), tar)
    storage.put(storage.join(out, f"{name}.parquet"), buffer.getvalue())
    storage.put(storage.join(out, f"{name}{STATS}"), json.dumps(stats.as_json(), indent=1).encode())
    os.unlink(tar)
    return stats


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
                _add(tar, f"{row['key']}.{result.extension}", spool.read(result))
                if of_table.get("caption") is not None:
                    _add(tar, f"{row['key']}.txt", str(of_table["caption"]).encode("utf-8", "replace"))
                known = {**of_table, **{n: v for n, v in row.items() if n != "failure"}}
                _add(tar, f"{row['key']}.json", json.dumps(_plain(known), default=str).encode())
            start += len(batch)


def _plain(value: Any) -> Any:
    """What JSON can say: NaN and infinity, which it cannot, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time, owner and group are 0
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


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
