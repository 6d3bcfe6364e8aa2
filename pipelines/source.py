"""Source shards: from what a recipe names to open files whose samples can be read in any order, by many threads.

A shard is a tar (tar.py), or a Parquet file of one row a sample (sensors/rows.py); what follows is of both.

Decisions:
- Local shards are read in place. Remote ones are streamed once, front to back, into an unnamed temporary file, so that
  a killed process leaves nothing behind.
- What is recorded of a shard is what was read: its bytes are hashed, and looked at again after the last read. One that
  changed meanwhile raises `Changed`.
- Nothing in a shard is trusted: no member is written anywhere, links are not followed, every kind has a size limit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ..infra import ledger, removals, storage
from ..infra import scratch as scratch_folders
from ..infra.explain import nearest
from ..infra.secrets import public
from . import members, patterns, tar
from .grouping import Index, SourceSample
from .reject import UNREAD, Reject
from .sensors import rows

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same shard gives other keys, captions or sidecars than before; outputs are made again
CAPTION_FIELDS = ("caption", "text")

MAX_CAPTION_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 1 << 28
_MAX_JSON_BYTES = 1 << 24
_COPY_BYTES = 1 << 24
_NAMED = 10  # extensions of members that nobody reads


def expand(spec: str | Sequence[str], known: Collection[str] = (), gone: set[str] | None = None) -> list[str]:
    """The URLs of the shards that `spec` names, in order.

    Each of one or several strings is a file, a folder (its *.tar, else its *.parquet, sorted), a glob (sorted) or a
    brace pattern (`{00000..00009}`, `{a,b}`, several of them; the left one varies slowest), on any file system that
    fsspec knows. Local ones come back as absolute paths, since workers have other working folders. Names that are
    spelled out, or come from braces, are not tested for existence: a missing shard is an error of that shard, not of
    the run.

    Args:
        known: URLs of shards that were there once. Those that a folder or glob names keep their place among its shards.
        gone: gets those of them that are not there, or out of reach.

    Raises:
        ValueError: a string finds nothing, or there is none.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    urls: list[str] = []
    gone = set() if gone is None else gone
    for pattern in (pattern for one in specs for pattern in patterns.braces(one)):
        before = patterns.remembered(pattern, known) if known else []
        try:
            found = patterns.find(pattern)
        except Exception:  # whatever the storage raises that cannot be reached
            if not before:
                raise
            found = []
        lost = set(before).difference(found)
        urls += sorted([*found, *lost]) if lost else found
        gone |= lost
    if not urls:
        raise ValueError("shards: got an empty list, expected at least one file, folder, glob or brace pattern")
    return urls


class Changed(OSError):
    """A shard that changed while it was read, or since the plan: what was read of it is of no one version."""


class Contents(Protocol):
    """The samples of an open file, and their members."""

    index: Index

    def read(self, sample: SourceSample, extension: str) -> bytes:
        """The bytes of a member. EOFError if the file has become shorter, Reject if this member cannot be read."""


class Shard:
    """An open shard. Reads are positional, so that any number of threads may read at once.

    Attributes:
        url: where it came from.
        size: bytes of the file as stored (compressed, if it is).
        version: on storage, when it was opened.
        samples: in order of first appearance; keys are unique.
        ignored: entries that nothing reads unless a specialist asks for them, counted by extension.
        parts: named parts that are a sample's image or text ("image.jpg"), counted.
        regrouped: the first release gave other keys.
        is_table: samples are rows of a table, and members its columns.
    """

    def __init__(
        self,
        url: str,
        stored: BinaryIO,
        contents: Contents,
        version: str | None = None,
        sha256: str = "",
        problem: str = "",
    ) -> None:
        self.url = url
        self._stored, self._contents = stored, contents
        self._opened = _state(stored)
        self.size, self.version = self._opened[1], str(self._opened[2]) if version is None else version
        self._digest, self._is_copy = sha256, bool(sha256)
        index = contents.index
        self.samples: list[SourceSample] = index.samples
        self.ignored: Counter[str] = index.ignored
        self.parts: Counter[str] = index.parts
        self.regrouped, self.is_table = index.regrouped, index.is_table
        # Not logged one by one: each is in the record of the shard's samples.
        self._rejects = index.rejects + ([("", problem)] if problem else [])
        self._broken_json: dict[str, str] = {}
        self.withhold(removals.Removals(), "")

    @property
    def rejects(self) -> list[tuple[str, str]]:
        """(key, reason) of what cannot be used; key "" for the shard as a whole.

        They concern entries of the tar, not whole samples: a duplicate, a link, a cut member. Broken JSON is found when
        `info` or `caption` reads it; it is listed after the others, in the order of the samples.
        """
        broken = dict(self._broken_json)
        return self._rejects + [(s.key, broken[s.key]) for s in self.samples if s.key in broken]

    def _is_below(self, name: str, read: Collection[str]) -> bool:
        """Whether a column is one of those below a path that is read as a whole."""
        plain = name.rpartition("/")[2]
        before = [name[:i] for i in range(len(name) - len(plain), len(name)) if name[i] == "."] if self.is_table else []
        return any(one in read or one.rpartition("/")[2] in read for one in before)

    def problems(self, read: Collection[str]) -> list[tuple[str, str]]:
        """`rejects`, samples that were removed, and in one more of them the members that nobody reads.

        Args:
            read: extensions that specialists ask for.
        """
        removed = [(one.key, removals.REASON) for one in self.samples if self._removals and self.is_removed(one)]
        unread = {
            name: count
            for name, count in self.ignored.most_common()
            if name not in read and name.partition("/")[2] not in read and not self._is_below(name, read)
        }
        if not unread:
            return [*self.rejects, *removed]
        # Names come from elsewhere: none may end its line.
        said = [
            f"{'.' + ascii(name)[1:-1] if name else 'no suffix'} ({unread[name]})" for name in list(unread)[:_NAMED]
        ]
        more = ", ..." if len(unread) > _NAMED else ""
        return [*self.rejects, *removed, ("", f"{UNREAD}{', '.join(said)}{more}")]

    @property
    def sha256(self) -> str:
        """Of the file as stored. Local files are read once more for it, on first use."""
        if not self._digest:
            self._digest = self._hash()
        return self._digest

    def _hash(self) -> str:
        self._stored.seek(0)
        return hashlib.file_digest(cast("io.BufferedRandom", self._stored), "sha256").hexdigest()

    def is_of(self, origin: ledger.Source) -> bool:
        """Whether something was made from these bytes."""
        same_version = (origin.size, origin.version) == (self.size, self.version)
        return same_version or (origin.size == self.size and origin.sha256 == self.sha256)

    def origin(self, hashed_before: bool) -> ledger.Source:
        """What was read, to be called after the last read.

        Args:
            hashed_before: `sha256` was asked for before the first read. Then a file that was touched meanwhile, and
                still has the same bytes, is no other file.

        Raises:
            Changed: it changed while it was read.
        """
        digest, now = self.sha256, _state(self._stored)
        if now != self._opened and not self._is_copy:
            if not hashed_before or self._hash() != digest or _state(self._stored) != now:
                raise Changed(
                    f"shard {public(self.url)}: it changed while it was read; run again when nothing writes to it"
                )
            self.size, self.version = now[1], str(now[2])
        return ledger.Source(self.size, self.version, digest)

    def withhold(self, removed: removals.Removals, name: str) -> None:
        """Give nothing of samples that were removed from a root, in which the shard has this name."""
        self._removals, self._removed_keys = removed, removed.of_shard(name)
        self._named: dict[str, bool] = {}  # whether a sample's JSON has a URL that is removed, by key

    def is_removed(self, sample: SourceSample) -> bool:
        if sample.key in self._removed_keys:
            return True
        if not self._removals.urls:
            return False
        if sample.key not in self._named:
            self._named[sample.key] = self._removals.names(self._info(sample))
        return self._named[sample.key]

    def _check_not_removed(self, sample: SourceSample) -> None:
        if self._removals and self.is_removed(sample):
            raise Reject(removals.REASON)

    def read(self, sample: SourceSample, extension: str) -> bytes:
        """One member's bytes; KeyError if the sample has none of that extension (`sample.members`, `sample.others`).

        Reject if it is of a table, and null or damaged there.
        """
        try:
            return self._contents.read(sample, extension)
        except EOFError as error:
            raise Changed(f"{public(self.url)}: {error}") from error

    def image(self, sample: SourceSample) -> bytes:
        """The encoded image; Reject if the sample has none, or one above 256 MiB."""
        self._check_not_removed(sample)
        if not sample.image:
            raise Reject("image: there is none")
        if (size := sample.members[sample.image].size) > _MAX_IMAGE_BYTES:
            raise Reject(f"image: {size} bytes, expected at most {_MAX_IMAGE_BYTES}")
        return self.read(sample, sample.image)

    def member(self, sample: SourceSample, name: str) -> Any:
        """The value of any member, as its kind in `members.KINDS` says; Reject if there is none, or a damaged one."""
        return members.decode(name, self.member_bytes(sample, name))

    def member_bytes(self, sample: SourceSample, name: str) -> bytes:
        """The bytes of any member; Reject if there is none, or one above 256 MiB."""
        self._check_not_removed(sample)
        member = sample.members.get(name) or sample.others.get(name)
        if member is None:
            lacks = f"no such column{nearest(name, sample.others)}" if self.is_table else "none"
            raise Reject(f"{name}: there is {lacks}")
        if member.size > members.MAX_BYTES:
            raise Reject(f"{name}: {member.size} bytes, expected at most {members.MAX_BYTES}")
        return self.read(sample, name)

    def caption(self, sample: SourceSample, fields: Sequence[str] = CAPTION_FIELDS) -> str | None:
        """The text of the sample: its .txt, else the first of `fields` in its JSON that holds any; None without one.

        White space around it is kept, text that is nothing else is missing. A byte order mark (UTF-8, UTF-16) is
        dropped.

        Raises:
            Reject: not UTF-8, or above 1 MiB. The sample's image is not touched by that.
        """
        self._check_not_removed(sample)
        if "txt" in sample.members:
            size = sample.members["txt"].size
            if size > MAX_CAPTION_BYTES:
                raise Reject(f"caption: {size} bytes, expected at most {MAX_CAPTION_BYTES}")
            text = _decode(self.read(sample, "txt"))
            if text.strip():
                return text
        info = self.info(sample)
        for field in fields:
            value = info.get(field)
            if isinstance(value, str) and value.strip():
                return _storable(value)
        return None

    def info(self, sample: SourceSample) -> dict[str, Any]:
        """The sample's JSON sidecar; {} if there is none, or if it cannot be read as an object (see `rejects`)."""
        return {} if self._removals and self.is_removed(sample) else self._info(sample)

    def _info(self, sample: SourceSample) -> dict[str, Any]:
        if "json" not in sample.members:
            return {}
        info: dict[str, Any]
        size = sample.members["json"].size
        if size > _MAX_JSON_BYTES:
            info, problem = {}, f"json: {size} bytes, expected at most {_MAX_JSON_BYTES}"
        else:
            try:
                info, problem = _parse_object(self.read(sample, "json"))
            except Reject as reject:
                info, problem = {}, reject.reason
        if problem:
            self._broken_json[sample.key] = problem
        return info


def _state(file: BinaryIO) -> tuple[int, int, int, int]:
    """What changes when an open file does: inode, size, times of change. The third is a local file's version."""
    info = os.fstat(file.fileno())
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _parse_object(data: bytes) -> tuple[dict[str, Any], str]:
    """The object that the JSON holds, or {} and what is wrong with it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}, "json: not valid JSON"
    if not isinstance(value, dict):
        return {}, f"json: got {type(value).__name__}, expected an object"
    return value, ""


def _decode(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Reject("caption: not UTF-8") from error


def _storable(text: str) -> str:
    """JSON can spell half a surrogate pair, which no UTF-8 column can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Reject("caption: half a surrogate pair in its JSON") from error
    return text


def scratch_folder() -> str:
    """Where this user's processes on a machine put copies of remote files."""
    return scratch_folders.base()


@contextmanager
def open_shard(url: str, scratch: str | Path, every_key: bool = False, key: str = "") -> Iterator[Shard]:
    """Open a shard: a local file in place, a remote one through an unnamed temporary file in the folder `scratch`.

    A gzip'd tar, known by its first two bytes, is unpacked into such a file as well; Parquet is known by its first
    four. An empty tar has no samples; of a truncated or damaged one, what can be read is kept and the rest is in
    `rejects`.

    Args:
        every_key: of a tar each key is a sample, whatever its members are; see `grouping.group`.
        key: the column of Parquet that has the samples' keys; see `rows.Rows`.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: it is neither a tar nor Parquet, has no such column, or is a file of zero bytes (an upload that
            failed; an empty tar has at least one block).
    """
    with ExitStack() as stack:
        stored, version, digest = _fetch(url, scratch)
        stack.enter_context(stored)
        archive, problem, head = stored, "", stored.read(len(rows.MAGIC))
        if head.startswith(b"\x1f\x8b"):
            stored.seek(0)
            archive, problem = _gunzip(stored, scratch)
            stack.enter_context(archive)
        try:
            contents: Contents
            if head == rows.MAGIC:
                contents = rows.Rows(stored.fileno(), patterns.stem(url), key)
            else:
                contents = tar.Tar(archive, every_key)
            shard = Shard(url, stored, contents, version, digest, problem)
        except ValueError as error:
            expected = "" if head == rows.MAGIC else "; expected a WebDataset tar, plain or gzip'd, or Parquet"
            raise ValueError(f"shard {public(url)}: {error}{expected}") from error
        yield shard


def _fetch(url: str, scratch: str | Path) -> tuple[BinaryIO, str | None, str]:
    """The file as stored, at its start; and of a copy its version and sha256 (None and "" for local files)."""
    try:
        if storage.is_local(url):
            return open(storage.local_path(url), "rb"), None, ""
        before = storage.stat(url)
        # Whole and once: 2,000 range requests for the members of a shard cost more than its bytes.
        with storage.open_binary(url) as remote:
            file, digest = _spool(remote, scratch)
        size = os.fstat(file.fileno()).st_size
        if before is None or before != storage.stat(url) or (before.size and before.size != size):
            file.close()
            raise Changed(f"shard {public(url)}: it changed while it was fetched; run again when nothing writes to it")
        logger.debug("shard %s: %d bytes fetched", public(url), size)
        return file, before.version, digest
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, FileNotFoundError):  # fsspec calls a refused connection so, too
            raise OSError(f"shard {public(url)}: cannot be reached: {cause}") from error
        raise FileNotFoundError(f"shard {public(url)}: there is no such file") from error
    except IsADirectoryError as error:
        raise ValueError(f"shard {public(url)}: got a folder, expected a file") from error


def _spool(remote: BinaryIO, scratch: str | Path) -> tuple[BinaryIO, str]:
    digest = hashlib.sha256()
    file = _temporary(scratch)
    try:
        while chunk := remote.read(_COPY_BYTES):
            digest.update(chunk)
            file.write(chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, digest.hexdigest()


def _gunzip(stored: BinaryIO, scratch: str | Path) -> tuple[BinaryIO, str]:
    """The unpacked file, and what is wrong with it: a stream that breaks off is kept up to there."""
    file, problem = _temporary(scratch), ""
    try:
        with gzip.GzipFile(fileobj=stored) as stream:
            while chunk := stream.read1(1 << 20):  # read() would lose what it holds when the stream breaks off
                file.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"gzip: {error}"
        logger.warning("gzip'd shard breaks off: %s", error)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file, problem


def _temporary(scratch: str | Path) -> BinaryIO:
    os.makedirs(scratch, exist_ok=True)
    # Without a name: the kernel frees it when the process ends, however it ends.
    return cast("BinaryIO", tempfile.TemporaryFile(dir=scratch, prefix="fourmill-shard-"))
