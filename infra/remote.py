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
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
EXACT_SECONDS = 60.0  # after which a time of change, in whole seconds, is taken to tell versions apart

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
    """Call a method of a filesystem, with a limit of time.

    Args:
        size: bytes that go over the network.
    """
    coroutine = getattr(fs, f"_{name}", None)
    if isinstance(fs, AsyncFileSystem) and coroutine is not None:
        return _limited(fs, coroutine, *args, size=size, **options)
    return in_time(fs, lambda usable: getattr(usable, name)(*args, **options), size)


def _limited(fs: Any, coroutine: Any, *args: Any, size: int, **options: Any) -> Any:
    return sync(fs.loop, coroutine, *args, timeout=REQUEST_SECONDS + size / SLOWEST, **options)


def in_time(fs: Any, call: Callable[[Any], T], size: int = 0) -> T:
    """What a call gives that waits for its answers itself (sftp, smb, ftp, hdfs), with a limit of time.

    Its thread cannot be stopped: it keeps the connection that it waits for, and all later calls get another one.

    Raises:
        TimeoutError: there was no answer in time.
    """
    limit, done, asked = REQUEST_SECONDS + size / SLOWEST, Future[T](), list[Any]()

    def run() -> None:
        try:
            asked.append(_usable(fs))
            done.set_result(call(asked[0]))
        except BaseException as error:  # of any kind: the caller would wait
            done.set_exception(error)

    threading.Thread(target=run, name="storage", daemon=True).start()
    try:
        return done.result(limit)
    except TimeoutError:
        if done.done():  # its own error
            raise
        for one in asked:
            one.fourmill_lost = True
        raise TimeoutError(f"no answer within {limit:.0f} s") from None


def _usable(fs: Any) -> Any:
    """This filesystem, or one with a connection of its own in the place of one that did not answer."""
    while getattr(fs, "fourmill_lost", False):
        if getattr(fs, "fourmill_next", None) is None:
            fs.fourmill_next = type(fs)(*fs.storage_args, **fs.storage_options, skip_instance_cache=True)
        fs = fs.fourmill_next
    return fs


def describe(fs: Any, path: str) -> dict[str, Any]:
    """What is known of a file before it is read: `size`, None if its server does not say it, and what tells versions.

    `partial`: whether parts of it can be asked for.
    """
    if is_http(fs):
        found: dict[str, Any] = _limited(fs, _http_info, fs, path, size=0)
        return found
    found = request(fs, "info", path)
    return {**found, "partial": isinstance(fs, AsyncFileSystem) and found.get("size") is not None}


def is_http(fs: Any) -> bool:
    protocols = [fs.protocol] if isinstance(fs.protocol, str) else fs.protocol
    return isinstance(fs, AsyncFileSystem) and hasattr(fs, "set_session") and protocols[0].startswith("http")


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


async def _http_range(fs: Any, url: str, start: int, end: int, body: bool = True) -> tuple[dict[str, Any], bytes]:
    """The answer of a web server that is asked for some bytes: what it says of the file, and the bytes."""
    options = dict(fs.kwargs)
    # Parts of what is packed on its way would be parts of something else.
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=headers, **options) as answer:
        if answer.status != 416:  # there are no such bytes
            fs._raise_not_found_for_status(answer, url)
        in_part = answer.status in (206, 416)
        name = "Content-Range" if in_part else "Content-Length"
        size = answer.headers.get(name, "").rpartition("/")[2]
        packed = answer.headers.get("Content-Encoding", "identity") != "identity"
        names = ("ETag", "Last-Modified", "Date")
        said = {name: answer.headers[name] for name in names if name in answer.headers}
        said |= {"name": url, "type": "file", "size": int(size) if size.isdecimal() and not packed else None}
        said |= {"partial": in_part and said["size"] is not None}
        return said, bytes(await answer.read()) if body and answer.status == 206 else b""


async def _http_info(fs: Any, url: str) -> dict[str, Any]:
    # Not HEAD: signed URLs are for GET alone, and many servers say of ranges only what they answer to one.
    return (await _http_range(fs, url, 0, 1, body=False))[0]


def _is_another(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two answers of a web server are of different files."""
    for name in ("size", "Last-Modified"):
        if None not in (before.get(name), now.get(name)) and before[name] != now[name]:
            return True
    if before.get("ETag") == now.get("ETag"):
        return False
    # Machines behind one name may give the same file other ETags. A time of change that is long over tells more.
    return before.get("Last-Modified") is None or _age(now) < EXACT_SECONDS


def _age(said: dict[str, Any]) -> float:
    """Seconds since a file was changed, by its server's clock; 0 if that is not known."""
    try:
        changed = parsedate_to_datetime(said["Last-Modified"])
        now = parsedate_to_datetime(said["Date"]) if "Date" in said else datetime.now(UTC)
        return (now - changed).total_seconds()
    except (KeyError, ValueError, TypeError):
        return 0.0


class Seekable(io.RawIOBase):
    """A file that is read from any position. Its bytes come from `read`, which moves the position.

    size: in bytes, None if its server does not say it.
    """

    def __init__(self, url: str, size: int | None) -> None:
        super().__init__()
        self.url, self.size = url, size
        self._position = 0

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


class _File(Seekable):
    """One that is asked for in requests."""

    def __init__(self, url: str, fs: Any, path: str, size: int | None) -> None:
        super().__init__(url, size)
        self._fs, self._path = fs, path


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
        replaced = OSError(f"{public(self.url)}: it was replaced while it was read, run it again")
        try:
            if is_http(self._fs):
                said, data = _limited(self._fs, _http_range, self._fs, self._path, start, end, size=end - start)
                if _is_another(self.info, said):
                    raise replaced
            else:
                data = self._range(start, end)
        except OSError as error:
            if faults.status(error) == 412 or type(error).__name__ == "FileExpired":
                raise replaced from error
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
        # Taken away meanwhile: what does not answer in time keeps it, and another one is opened.
        file, at, (self._file, self._at) = self._file, self._at, (None, 0)
        over = self._position - at if self._position >= at else self._position
        self._file, self._at, data = in_time(
            self._fs, lambda fs: _read_on(fs, self._path, file, at, self._position, size), over + size
        )
        if not data and self.size is not None and self._position < self.size:
            self._drop()
            raise ConnectionError(f"{public(self.url)}: broke off at byte {self._position} of {self.size}")
        return data


def _read_on(fs: Any, path: str, file: Any, at: int, position: int, size: int) -> tuple[Any, int, bytes]:
    """Read from a position on.

    Args:
        file: that was opened before, at a position `at`; None if there is none.

    Returns:
        The open file, where it is now, and what was read.
    """
    try:
        if file is not None and at != position and file.seekable():
            with contextlib.suppress(ValueError, NotImplementedError):  # of streams
                at = file.seek(position)
        if file is not None and at > position:
            file.close()
            file = None
        if file is None:
            file, at = fs.open(path, "rb"), 0
        while at < position:
            skipped = file.read(min(position - at, PIECE))
            if not skipped:
                break
            at += len(skipped)
        data = bytes(file.read(size))
    except Exception:
        if file is not None:
            file.close()
        raise
    return file, at + len(data), data
