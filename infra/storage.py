"""Files anywhere fsspec reaches, with one promise: a name either holds a whole file or nothing.

Local files are written under a temporary name in the same folder, synced and renamed. Object stores take one PUT,
which is atomic by itself; nothing is ever renamed there. Everything above this module uses URLs only
("out/x.json", "s3://bucket/x.json") and credentials stay in the environment (AWS_*, HF_TOKEN, ...).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from . import faults, remote
from .secrets import public

TEMPORARY_PREFIX = ".tmp-"
SUMS = "sums.json"  # of a folder's files, see sums.py
# What changes with a file's content, by the names that fsspec's file systems give it; the first one that there is.
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "created", "Content-MD5")
PROBE_BYTES = 1 << 14
LOCK_SECONDS = 5.0  # after which a lock on a name is taken for that of a killed process
# What file systems without hard links answer: exFAT, SMB, gcsfuse, s3fs-fuse.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})
NO_CONDITIONS = (
    "its server does not keep what is there (conditional PUTs, If-None-Match: *), so that two jobs could overwrite "
    "each other's records; use a server that does (S3, MinIO, Ceph), or a folder"
)


@dataclass(frozen=True)
class Stat:
    """Size in bytes and a version that changes when the content does: the ETag in object stores, else its time."""

    size: int
    version: str


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local URL. ValueError for others."""
    if not is_local(url):
        raise ValueError(f"{url} is no local path")
    return Path(url.removeprefix("file://"))


def join(url: str, *parts: str) -> str:
    """`url` with path parts added: join("s3://b/x", "y", "z.json") -> "s3://b/x/y/z.json"."""
    return posixpath.join(url, *parts)


def absolute(url: str) -> str:
    """The same place for a process with another working directory (a Ray worker on this machine)."""
    return str(local_path(url).expanduser().resolve()) if is_local(url) else url


@lru_cache(maxsize=64)
def _filesystem(protocol_and_host: str, pid: int) -> Any:
    # Listings are never remembered: others write while we look.
    return url_to_fs(protocol_and_host, use_listings_cache=False)[0]


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec filesystem, path in it). One filesystem for each protocol and process: s3fs does not survive a fork."""
    try:
        fs = _filesystem(remote.head(url), os.getpid())
    except ValueError as error:
        if "Protocol not known" in str(error):
            known = f"fsspec knows no storage {url.partition('://')[0]}://, but s3://, gs://, abfs://, ..."
            raise ValueError(f"{public(url)}: {known}") from None
        raise
    return fs, fs._strip_protocol(url)


def reconnect() -> None:
    """Open filesystems again when they are next used, so that credentials that were renewed in a file are read."""
    _filesystem.cache_clear()
    for known in list(fsspec.registry):
        fsspec.registry[known].clear_instance_cache()


def read_bytes(url: str) -> bytes:
    """The whole file. FileNotFoundError naming the URL if there is none."""
    try:
        if is_local(url):
            return local_path(url).read_bytes()
        return bytes(ask(url, "cat_file"))
    except TimeoutError:  # too large for one request, or too slow: in pieces
        with open_binary(url) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no file at {public(url)}") from None


def open_binary(url: str, before: BinaryIO | None = None) -> BinaryIO:
    """The file opened for reading, in ranges on object stores, each of which is asked for again where it fails.

    Args:
        before: the same file as it was opened before, perhaps closed since: what is known of it is not asked for again,
            and reads get exactly the bytes that are asked for.
    """
    if is_local(url):
        return open(local_path(url), "rb")
    fs, path = filesystem(url)
    if isinstance(before, remote.RemoteFile):
        return cast("BinaryIO", remote.RemoteFile(url, fs, path, before.info, least=1))
    info = remote.ask(url, fs, lambda: remote.describe(fs, path))
    if info["partial"]:
        return cast("BinaryIO", remote.RemoteFile(url, fs, path, info))
    return cast("BinaryIO", remote.Stream(url, fs, path, info))


def stat(url: str) -> Stat | None:
    """Size and version, or None if nothing is there."""
    if is_local(url):
        try:
            found = local_path(url).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, str(found.st_mtime_ns))
    info = _info(url)
    if info is None:
        return None
    return Stat(int(info["size"] or 0), version_of(info))


def version_of(info: dict[str, Any]) -> str:
    """What changes with a file's content, of what a remote filesystem says of it; "" if it says no such thing."""
    return str(next((info[name] for name in _VERSIONS if info.get(name)), "")).strip('"')


def tag_of(info: dict[str, Any]) -> str:
    """A version that follows from the content, "" if a remote filesystem says none."""
    return version_of({name: info.get(name) for name in ("ETag", "etag", "Content-MD5")})


def _info(url: str) -> dict[str, Any] | None:
    """What a remote filesystem says of a name; None if there is nothing."""
    try:
        return cast("dict[str, Any]", ask(url, "info"))
    except FileNotFoundError:
        return None


def exists(url: str) -> bool:
    return stat(url) is not None


def is_file(url: str) -> bool:
    """Whether a file has this name; False of a folder, and of nothing."""
    if is_local(url):
        return local_path(url).is_file()
    found = _info(url)
    return found is not None and found.get("type", "file") == "file"


def ask(url: str, method: str, **options: Any) -> Any:
    """Call a method of the filesystem of a remote URL on its path (`ls`, `find`, `glob`, `isdir`), as all is asked."""
    fs, path = filesystem(url)
    return remote.ask(url, fs, lambda: remote.request(fs, method, path, **options))


def list_names(url: str) -> list[str]:
    """Names directly below a folder, sorted, without temporary files; [] if the folder is not there."""
    if is_local(url):
        folder = local_path(url)
        names = os.listdir(folder) if folder.is_dir() else []
    else:
        _, path = filesystem(url)
        try:
            entries = ask(url, "ls", detail=False)
        except FileNotFoundError:
            entries = []
        # A file of this name, or a marker of the folder itself, is listed as its own content.
        names = [posixpath.basename(entry.rstrip("/")) for entry in entries if entry.rstrip("/") != path.rstrip("/")]
    return sorted(name for name in names if name and not name.startswith(TEMPORARY_PREFIX))


def list_below(url: str) -> dict[str, int]:
    """The URLs of all files below a folder, sorted, and their sizes in bytes; {} if it is not there."""
    if is_local(url):
        return {str(path): path.stat().st_size for path in sorted(local_path(url).rglob("*")) if path.is_file()}
    fs, _ = filesystem(url)
    found = sorted(ask(url, "find", detail=True).items())
    return {fs.unstrip_protocol(name): int(info["size"] or 0) for name, info in found}


def list_sizes(url: str) -> dict[str, int]:
    """Files directly below a folder and their sizes in bytes, without temporary files; {} if it is not there."""
    if is_local(url):
        try:
            with os.scandir(local_path(url)) as entries:
                sizes = {entry.name: size for entry in entries if (size := _size(entry)) is not None}
        except (FileNotFoundError, NotADirectoryError):
            return {}
    else:
        try:
            found = ask(url, "ls", detail=True)
        except FileNotFoundError:
            return {}
        files = (one for one in found if one["type"] == "file")
        sizes = {posixpath.basename(one["name"]): int(one["size"] or 0) for one in files}
    return {name: size for name, size in sizes.items() if not name.startswith(TEMPORARY_PREFIX)}


def _size(entry: os.DirEntry[str]) -> int | None:
    """Of a file; None of anything else, also of one that has gone by now."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except FileNotFoundError:
        return None


def put(url: str, data: bytes, *, if_absent: bool = False) -> Stat | None:
    """Make `url` hold exactly `data`, in one step that cannot be seen half done.

    Args:
        if_absent: write only if nothing is there yet (If-None-Match on S3, link(2) locally).

    Returns:
        What was written, by which a listing tells it from what others write there later; the version is "" where the
        storage does not say it. None only with `if_absent`, when somebody else was first.
    """
    if is_local(url):
        return _put_local(local_path(url), data, if_absent)
    fs, path = filesystem(url)
    if not if_absent:
        # One PUT, or a multipart upload, which appears when it is completed.
        return _answered(remote.ask(url, fs, lambda: remote.request(fs, "pipe_file", path, data, size=len(data))), data)
    attempts = 0

    def create() -> Any:
        nonlocal attempts
        attempts += 1
        return remote.request(fs, "pipe_file", path, data, mode="create", size=len(data))

    try:
        return _answered(remote.ask(url, fs, create), data)
    except OSError as error:
        if not isinstance(error, FileExistsError) and faults.status(error) != 412:
            raise
        # An answer that was lost: it may be ours that is there.
        return Stat(len(data), "") if attempts > 1 and read_bytes(url) == data else None


def _answered(answer: Any, data: bytes) -> Stat:
    """What an object store says of data that it was given."""
    return Stat(len(data), tag_of(answer) if isinstance(answer, dict) else "")


def put_file(url: str, path: Path) -> None:
    """Make `url` hold what a file of this machine holds, as `put` does; no more of it is in memory than a part."""
    if is_local(url):
        with replaced(local_path(url)) as temporary:
            shutil.copyfile(path, temporary)
        return
    fs, place = filesystem(url)
    remote.ask(url, fs, lambda: remote.request(fs, "put_file", str(path), place, size=path.stat().st_size))


def _put_local(path: Path, data: bytes, if_absent: bool) -> Stat | None:
    if path.is_dir():  # the error of the rename would name the temporary file
        raise IsADirectoryError(f"{path}: there is a folder of this name, expected a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            # Without it a machine that loses power may keep the new name with none of the bytes.
            os.fsync(file.fileno())
            # Of this file, and not of what has the name a moment later. Names that it gets leave the time as it is.
            written = Stat(len(data), str(os.fstat(file.fileno()).st_mtime_ns))
        if not if_absent:
            os.replace(temporary, path)
            return written
        try:
            os.link(temporary, path)  # unlike a rename it fails if the name is taken
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return written if _claim(temporary, path) else None
        return written
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path for a library that writes a local file by itself; at the end the file takes the place of `path`,
    in one step, and may be read by those whom the umask lets, whatever mode the library gave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _claim(temporary: Path, path: Path) -> bool:
    """Give a whole file its name unless the name is taken, without hard links: who makes a lock file may rename."""
    lock = path.parent / f"{TEMPORARY_PREFIX}lock-{path.name}"
    seen, since = None, time.monotonic()
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                stamp = lock.stat().st_mtime_ns
                if stamp != seen:
                    seen, since = stamp, time.monotonic()
                elif time.monotonic() - since > LOCK_SECONDS:  # its owner was killed: a rename takes no time
                    lock.unlink(missing_ok=True)
            time.sleep(0.01)
    try:
        if path.exists():
            return False
        os.replace(temporary, path)
        return True
    finally:
        lock.unlink(missing_ok=True)


def delete(url: str) -> None:
    """Remove a file; nothing happens if it is not there."""
    if is_local(url):
        local_path(url).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        ask(url, "rm_file")


def remove_if_empty(url: str) -> None:
    """Remove a folder of this machine if nothing is in it; object stores have none."""
    if is_local(url):
        with contextlib.suppress(OSError):
            local_path(url).rmdir()


def blocks(url: str) -> Iterator[bytes]:
    """The file's bytes, in pieces of 4 MiB."""
    with open_binary(url) as file:
        while block := file.read(1 << 22):
            yield block


def sha256(url: str) -> str:
    """SHA-256 of the file's bytes, read in pieces."""
    digest = hashlib.sha256()
    for block in blocks(url):
        digest.update(block)
    return digest.hexdigest()


def check_folder(root: str) -> None:
    """Raise ValueError with a sentence if `root` is a file of this machine."""
    if is_local(root) and local_path(root).is_file():
        raise ValueError(f"root: {local_path(root)} is a file, expected a folder, which may be new")


def check_writable(root: str) -> None:
    """Raise ValueError with a sentence if files cannot be written below `root`, or a name cannot be claimed there."""
    probe, data = join(root, f"{TEMPORARY_PREFIX}probe-{secrets.token_hex(4)}"), os.urandom(PROBE_BYTES)
    try:
        try:
            put(probe, data)
            absent = put(probe, b"", if_absent=True) is not None
            if read_bytes(probe) != data:
                absent = True
        finally:
            delete(probe)
    except Exception as error:  # whatever the filesystem raises, the user needs the same sentence
        advice = NO_CONDITIONS if faults.status(error) == 501 else faults.sentence(error)
        raise ValueError(f"root: cannot write below {public(root)}: {advice}") from error
    if absent:
        raise ValueError(f"root: cannot write below {public(root)}: {NO_CONDITIONS}")


@contextmanager
def local_folder(url: str, names: Iterable[str]) -> Iterator[Path]:
    """A folder on this machine that holds the named files of `url`, and their sums if there are any: itself if it is
    local, else a temporary copy."""
    if is_local(url):
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="fourmill-") as folder:
        for name in names:
            Path(folder, name).write_bytes(read_bytes(join(url, name)))
        try:
            Path(folder, SUMS).write_bytes(read_bytes(join(url, SUMS)))
        except FileNotFoundError:
            pass  # of an older release, or a published one
        yield Path(folder)
