"""What was read of columns in object stores, kept on this machine's disk for the next epoch and the next run.

    FOLDER/fourmill-columns/size                how many bytes all files below have together; who holds its lock counts
    FOLDER/fourmill-columns/ROOT/ab/abcd...     a column chunk or a footer, and behind it an XXH3 sum

ROOT is a folder for each root, so that what was taken out of one can be deleted here too. A name is the SHA-256 of the
URL, the version of the file and the place in it. Any number of processes share a folder. A file appears whole, by a
rename; it is compared with its sum whenever it is read, and what is not as it was written counts as not there.

When the cache is full, what was not used for longest goes first, but nothing that was used since this run began: of
data that are larger than the cache a part stays, while each part would push out the next one before it comes again.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ...infra import scratch, storage
from ...infra.secrets import public

logger = logging.getLogger(__name__)

NAME = "fourmill-columns"
SHARE = 0.5  # of what is free on the disk, unless a size is given
RESERVE = 1 << 30  # bytes that stay free on the disk
SLACK = 0.05  # of the size, that is made free beyond what is needed: each look at all files takes a while
STALE_SECONDS = 3600.0  # after which a file that was never renamed is of a process that is gone
_SUM = 16  # bytes
_FILE = re.compile(r"[0-9a-f]{40}")
_TEMPORARY = ".tmp-"
_BEGUN = time.time()  # this process, and with it the run


@dataclass(frozen=True)
class CacheOptions:
    """Where the cache is, below TMPDIR if None, and its size in GB (10^9 bytes): if None, half of what is free."""

    folder: str | None = None
    gigabytes: float | None = None


class ColumnCache:
    """The cache of one root on this machine, see `tokenize.column_chunks.Cache`.

    Args:
        url: of the root's columns.

    Attributes:
        trouble: why it takes nothing more, in a sentence; "" while it does.
    """

    def __init__(self, url: str, options: CacheOptions = CacheOptions()) -> None:
        self.folder = folder_of(options)
        self.trouble = ""
        self._url, self._place, self._limit = url, self.folder / place_of(url), 0
        try:
            self._open(options)
        except OSError as error:
            self._end(f"it cannot be used: {error}")

    def get(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        data = raw[:-_SUM]
        if raw[-_SUM:] != _sum(path, data):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, name: str, data: bytes) -> None:
        if self.trouble:
            return
        path = self._path(name)
        try:
            # Written by one process at a time, so that what is counted is there.
            with self._counted() as total:
                if self._has_room(total, len(data) + _SUM):
                    total[0] += _write(path, data)
                else:
                    self._end(f"its {self._limit / 1e9:,.1f} GB are full")
        except OSError as error:
            self._end(f"it cannot be written: {error}")

    def _open(self, options: CacheOptions) -> None:
        self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What lies in a folder for all, such as /tmp, anybody may have put there.
        above = [self.folder.parent] if options.folder is None else []
        for place in (*above, self.folder, self._place):
            found = place.lstat()
            if place.is_symlink() or found.st_uid != os.getuid():
                raise PermissionError(f"{place} belongs to somebody else")
        if options.gigabytes is not None:
            self._limit = int(options.gigabytes * 1e9)
            return
        if _is_memory(self.folder):
            raise OSError(f"{self.folder} is in memory; set train.cache.folder to one on a disk")
        with self._counted() as total:
            self._limit = int(SHARE * (_free(self.folder) - RESERVE + total[0]))

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self._place / digest[:2] / digest

    def _end(self, why: str) -> None:
        if self.trouble:  # another thread was first
            return
        self.trouble = f"the cache in {self.folder} takes no more ({why}); the rest is read from {public(self._url)}"
        logger.warning("%s", self.trouble)

    def _has_room(self, total: list[int], size: int) -> bool:
        """Whether so many bytes may be added to `total`, also after others have gone, which changes it."""
        lacking = self._lacking(total[0], size)
        if lacking > 0:
            total[0] = _evict(self.folder, lacking + int(SLACK * self._limit), _BEGUN)
            lacking = self._lacking(total[0], size)
        return lacking <= 0

    def _lacking(self, total: int, size: int) -> int:
        """Bytes that must go before some may be added."""
        return max(total + size - self._limit, size + RESERVE - _free(self.folder))

    @contextmanager
    def _counted(self) -> Iterator[list[int]]:
        """The number of bytes that are there, which may be changed within: one process at a time."""
        with open(self.folder / "size", "a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            total = [int(text) if text.isdecimal() else _evict(self.folder, 0, 0.0)]
            before = int(text) if text.isdecimal() else -1
            yield total
            if total[0] != before:
                file.truncate(0)
                file.write(str(total[0]))


def of(url: str, options: CacheOptions | None) -> ColumnCache | None:
    """The cache for columns at a URL; None if they are on this machine, or none is wanted."""
    if options is None or options.gigabytes == 0 or storage.is_local(url):
        return None
    return ColumnCache(url, options)


def folder_of(options: CacheOptions) -> Path:
    return Path(options.folder or scratch.base()).expanduser() / NAME


def place_of(url: str) -> str:
    """The name of a root's folder: for people, and another one for each."""
    plain = re.sub(r"\W+", "-", public(url).partition("://")[2]).strip("-")[-60:]
    return f"{plain}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"


def forget(url: str, options: CacheOptions = CacheOptions()) -> Path | None:
    """Delete what this machine keeps of the columns at a URL; the folder if there was something."""
    place = folder_of(options) / place_of(url)
    if not place.is_dir():
        return None
    shutil.rmtree(place)
    return place


def _sum(path: Path, data: bytes) -> bytes:
    """Of a file's contents and its name: one that was put in the place of another is found."""
    digest = xxhash.xxh3_128(path.name.encode())
    digest.update(data)
    return digest.digest()


def _write(path: Path, data: bytes) -> int:
    """Write a file in one step that cannot be seen half done; by how many bytes there are more now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        # Not flushed to the disk: what a machine loses that goes off does not agree with its sum.
        with open(temporary, "wb") as file:
            file.write(data)
            file.write(_sum(path, data))
        before = path.stat().st_size if path.exists() else 0
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(data) + _SUM - before


def _evict(folder: Path, count: int, before: float) -> int:
    """Delete so many bytes of what was last used before some time, the oldest first; how many bytes are left."""
    files, total = [], 0
    for path, stat in _files(folder):
        if path.name.startswith(_TEMPORARY):
            if time.time() - stat.st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
                continue
        else:
            files.append((stat.st_mtime, stat.st_size, path))
        total += stat.st_size
    for used, size, path in sorted(files) if count > 0 else ():
        if count <= 0 or used >= before:
            break
        path.unlink(missing_ok=True)
        count -= size
        total -= size
    return total


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a cache, of all roots, and nothing else that may lie there."""
    for path in folder.glob("*/[0-9a-f][0-9a-f]/*"):
        if _FILE.fullmatch(path.name) or path.name.startswith(_TEMPORARY):
            with suppress(OSError):  # another process has deleted it
                yield path, path.stat()


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _is_memory(folder: Path) -> bool:
    """Whether a folder is in memory and on no disk, as /tmp is on some machines."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    place = str(folder.resolve())
    above = [(len(where), kind) for _, where, kind, *_ in mounts if f"{place}/".startswith(f"{where.rstrip('/')}/")]
    return max(above, default=(0, ""))[1] in ("tmpfs", "ramfs")
