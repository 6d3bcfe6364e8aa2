"""Requests to storage beyond this machine: each with a limit of time, and asked again while that may help.

All of `storage` goes through `ask`. fsspec's own file objects are used only where a server does not answer ranges.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem, sync

from . import faults
from .secrets import hide, public

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_SECONDS = 5.0  # that a place which has not answered yet in this process is asked
DEADLINE_SECONDS = 120.0  # that one which has is asked, from the first failure on
PAUSE_SECONDS, LONGEST_WAIT = 0.2, 10.0  # between two requests, at first and at most
REQUEST_SECONDS = 20.0  # that one request may take, and its bytes at SLOWEST beyond that
SLOWEST = 500_000  # bytes per second
SAY_AFTER = 10.0  # seconds of trouble, until it is said, and how often

PIECE = 1 << 24  # bytes of one request at most
AHEAD = 1 << 22  # bytes that are read beyond what is asked for, at most, when a file is read from front to back
LEAST = 1 << 16

_answered: dict[str, Any] = {}  # the filesystem that has, by `head`
_lost: set[str] = set()  # places that did not answer until the deadline: they are asked once, until they answer
_trouble: dict[int, str] = {}  # by thread


def head(url: str) -> str:
    """Protocol and host, or bucket, of a URL."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.split('/', 1)[0]}"


def trouble() -> str:
    """What storage has answered for some time, "" if all is well."""
    return next(iter(_trouble.values()), "")


def ask(url: str, fs: Any, call: Callable[[], T]) -> T:
    """What a call returns, asked again while its errors may be over soon, with growing pauses, until a deadline.

    Raises:
        The last error, with `url` in its text.
    """
    place, start, pause, said = head(url), 0.0, PAUSE_SECONDS, 0.0
    try:
        while True:
            try:
                value = call()
                _answered[place] = fs
                _lost.discard(place)
                return value
            except Exception as error:
                row, now = faults.find(error), time.monotonic()
                start = start or now
                limit = DEADLINE_SECONDS if _answered.get(place) is fs else FIRST_SECONDS
                left = start + (0.0 if place in _lost else limit) - now
                if row is not None and row.soon and left <= 0:
                    _lost.add(place)
                if row is None or not row.soon or left <= 0:
                    if row is not None:
                        raise named(url, error) from error
                    raise
                if now - max(said, start) >= SAY_AFTER:
                    said = now
                    _trouble[threading.get_ident()] = f"{public(url)}: {faults.sentence(error)}"
                    logger.warning("%s: asked again for %.0f s more: %s", public(url), left, faults.sentence(error))
                time.sleep(min(pause * random.uniform(0.5, 1.5), left))
                pause = min(2 * pause, LONGEST_WAIT)
    finally:
        _trouble.pop(threading.get_ident(), None)


def named(url: str, error: Exception) -> Exception:
    """An error of the place as an OSError that says where it was met. Its number stays, so that it is known again."""
    text = " ".join(str(error.args[1] if isinstance(error, OSError) and len(error.args) > 1 else error).split())
    lost = "cannot be reached: " if faults.name(error) == "network" else ""
    said = hide(f"{public(url)}: {lost}{text or type(error).__name__}")
    if isinstance(error, PermissionError):
        return PermissionError(error.errno or errno.EACCES, said)
    # fsspec says "not found" of a refused connection, too: nobody may take that for a file that is not there.
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
        return OSError(error.errno, said)
    return ConnectionError(said) if faults.name(error) == "network" else OSError(said)


def request(fs: Any, name: str, *args: Any, size: int = 0, **options: Any) -> Any:
    """Call a method of a filesystem, with a limit of time if it is one that can be stopped.

    Args:
        size: bytes that go over the network.
    """
    coroutine = getattr(fs, f"_{name}", None)
    if not isinstance(fs, AsyncFileSystem) or coroutine is None:
        return getattr(fs, name)(*args, **options)
    return _limited(fs, coroutine, *args, size=size, **options)


def _limited(fs: Any, coroutine: Any, *args: Any, size: int, **options: Any) -> Any:
    return sync(fs.loop, coroutine, *args, timeout=REQUEST_SECONDS + size / SLOWEST, **options)


def has_ranges(fs: Any, info: dict[str, Any]) -> bool:
    """Whether parts of a file can be asked for."""
    says = bool(info.get("partial", not str(fs.protocol[0]).startswith("http")))
    return isinstance(fs, AsyncFileSystem) and info.get("size") is not None and says


async def _s3_range(fs: Any, path: str, start: int, end: int, etag: str) -> bytes:
    """Bytes of an object that has this ETag; the answer is 412 if it has another."""
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    answer = await fs._call_s3(
        "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=etag, **which
    )
    try:
        return bytes(await answer["Body"].read())
    finally:
        answer["Body"].close()


class _File(io.RawIOBase):
    """A file that is read from any position. Its bytes come from `read`, which moves the position.

    size: in bytes, None if its server does not say it.
    """

    def __init__(self, url: str, fs: Any, path: str, size: int | None) -> None:
        super().__init__()
        self.url, self.size = url, size
        self._fs, self._path, self._position = fs, path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, origin: int = io.SEEK_SET) -> int:
        if origin == io.SEEK_END and self.size is None:
            raise OSError(f"{public(self.url)}: its server does not say how large it is")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size or 0}[origin]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class RemoteFile(_File):
    """A file of known size that is read in ranges, each asked for again where it fails.

    Random reads get the bytes that are asked for (`least` of them), reads from front to back more and more beyond them.
    OSError if the file is replaced while it is open.
    """

    size: int

    def __init__(self, url: str, fs: Any, path: str, info: dict[str, Any], least: int = LEAST) -> None:
        super().__init__(url, fs, path, int(info["size"]))
        self.info = info
        self._etag = str(info.get("ETag") or "")
        self._start = 0
        self._ahead = self._least = least
        self._bytes = b""

    def read(self, size: int | None = -1) -> bytes:
        count = self.size - self._position if size is None or size < 0 else size
        count = max(0, min(count, self.size - self._position))
        pieces = []
        while count:
            piece = self._some(count)
            pieces.append(piece)
            count -= len(piece)
            self._position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _some(self, count: int) -> bytes:
        """From the position on, at most `count` bytes and at least one."""
        at = self._position - self._start
        if not 0 <= at < len(self._bytes):
            follows = at == len(self._bytes)
            self._ahead = min(2 * self._ahead, AHEAD) if follows else self._least
            end = min(self._position + min(max(count, self._ahead), PIECE), self.size)
            self._bytes, self._start = ask(self.url, self._fs, lambda: self._fetch(self._position, end)), self._position
            at = 0
        return self._bytes[at : at + count]

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            data = self._range(start, end)
        except OSError as error:
            if faults.status(error) == 412 or type(error).__name__ == "FileExpired":
                raise OSError(f"{public(self.url)}: it was replaced while it was read, run it again") from error
            raise
        if len(data) != end - start:
            raise ConnectionError(f"{public(self.url)}: got {len(data)} of {end - start} bytes")
        return data

    def _range(self, start: int, end: int) -> bytes:
        if self._etag and hasattr(self._fs, "_call_s3"):
            return bytes(_limited(self._fs, _s3_range, self._fs, self._path, start, end, self._etag, size=end - start))
        return bytes(request(self._fs, "cat_file", self._path, start=start, end=end, size=end - start))


class Stream(_File):
    """A file of a server that answers no ranges, or of a filesystem that waits for none: opened again where it breaks
    off, and read up to there."""

    def __init__(self, url: str, fs: Any, path: str, info: dict[str, Any]) -> None:
        super().__init__(url, fs, path, None if info.get("size") is None else int(info["size"]))
        self._file: Any = None
        self._at = 0  # of the open file

    def read(self, size: int | None = -1) -> bytes:
        pieces, left = [], float("inf") if size is None or size < 0 else size
        while left and (piece := self._some(int(min(left, PIECE)))):
            pieces.append(piece)
            self._position += len(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _some(self, count: int) -> bytes:
        return ask(self.url, self._fs, lambda: self._read(count))

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _read(self, size: int) -> bytes:
        try:
            if self._file is not None and self._at != self._position and self._file.seekable():
                with contextlib.suppress(ValueError, NotImplementedError):  # of streams
                    self._at = self._file.seek(self._position)
            if self._file is None or self._at > self._position:
                self._drop()
                self._file, self._at = self._fs.open(self._path, "rb"), 0
            while self._at < self._position:
                skipped = self._file.read(min(self._position - self._at, PIECE))
                if not skipped:
                    break
                self._at += len(skipped)
            data = bytes(self._file.read(size))
        except Exception:
            self._drop()
            raise
        self._at += len(data)
        if not data and self.size is not None and self._position < self.size:
            self._drop()
            raise ConnectionError(f"{public(self.url)}: broke off at byte {self._position} of {self.size}")
        return data
