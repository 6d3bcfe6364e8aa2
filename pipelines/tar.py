"""The index of a tar shard: which bytes belong to which sample. Only headers are read, and nothing is extracted.

How members are grouped to samples is in grouping.py. Shards come from the web and from jobs that were killed: what can
be read is kept, and the rest is listed with its reason (`Index.rejects`).
"""

from __future__ import annotations

import os
import tarfile
from typing import BinaryIO, cast

from .grouping import Index, Member, SourceSample, group

_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER = 1 << 24  # bytes of a long name or of pax records; a size field may say anything


class Tar:
    """An open tar as the contents of a shard, `index` its samples. ValueError if it is none."""

    def __init__(self, file: BinaryIO, every_key: bool = False) -> None:
        self._file = file
        self.index = index(file, os.fstat(file.fileno()).st_size, every_key)

    def read(self, sample: SourceSample, extension: str) -> bytes:
        """The bytes of a member; EOFError if the file has become shorter."""
        member = sample.members.get(extension) or sample.others[extension]
        # pread moves no common position, so that threads need no lock.
        data = os.pread(self._file.fileno(), member.size, member.offset)
        if len(data) != member.size:
            raise EOFError(f"{member.name}: read {len(data)} of {member.size} bytes; has the file changed?")
        return data


def index(file: BinaryIO, size: int, every_key: bool = False) -> Index:
    """Index the tar of `size` bytes in a seekable file; ValueError if it is no tar at all. `every_key`: see `group`."""
    members, problem = scan(file, size)
    result = group(members, every_key)
    if problem:
        result.rejects.append(("", problem))
    return result


class _Bounded:
    """A file of `size` bytes as tarfile reads it, which believes sizes of headers: no read takes more memory than a
    header may, no position is beyond the end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        if count > _MAX_HEADER:
            raise ValueError(f"a header of {count} bytes")
        return self._file.read(count)

    def seek(self, position: int) -> int:
        return self._file.seek(min(position, self._size))


def scan(file: BinaryIO, size: int) -> tuple[list[Member], str]:
    """Every file-like entry, and what is wrong with the archive ("" if nothing).

    tarfile takes any damage after the first header for the end of the archive, hence the look at where it stopped.
    """
    file.seek(0)
    members: list[Member] = []
    position = 0
    try:
        bounded = cast("BinaryIO", _Bounded(file, size))
        with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for info in archive:
                # A header may lie about its size: tarfile would then go backwards, for ever.
                if info.size < 0 or info.offset_data <= position:
                    return members, f"tar: damaged header at byte {position}; what follows is lost"
                position = archive.offset
                if not info.isdir():
                    members.append(Member(normal(info.name), info.offset_data, info.size, _problem(info, size)))
            position = archive.offset
    # Headers of damaged archives make tarfile raise these as well, in parsing of numbers and of pax records.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if not position:
            raise ValueError(f"not a tar archive ({size} bytes): {error}") from error
        if position <= size:
            return members, f"tar: damaged header at byte {position}; what follows is lost"
    return members, _ending(file, position, size)


def normal(name: str) -> str:
    """A member's name without "./" before it."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _problem(info: tarfile.TarInfo, size: int) -> str:
    if info.issym() or info.islnk():
        return "tar: a link, never followed"
    if info.issparse():
        return "tar: a sparse file, stored without its zeros; make the tar without --sparse"
    if not info.isreg():
        return "tar: neither a file nor a folder"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "tar: a name that leaves the archive"
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return "tar: a name that is not UTF-8"
    if info.offset_data + info.size > size:  # an upload or a download that broke off
        return f"tar: cut after {max(0, size - info.offset_data)} of {info.size} bytes"
    return ""


def _ending(file: BinaryIO, position: int, size: int) -> str:
    """What is wrong from byte `position`, where a block of zeros should end the archive, to the end of the file."""
    if position >= size:
        return f"tar: truncated at byte {size}, the end-of-archive marker is missing"
    file.seek(position)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        return f"tar: truncated at byte {size}, in a header"
    if any(block):
        return f"tar: damaged header at byte {position}; what follows is lost"
    # `cat a.tar b.tar`: webdataset and tar -x stop at the first end, and so do we, but the rest is not lost in silence.
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            return f"tar: data after the end-of-archive marker at byte {position} is not read (concatenated tars?)"
    return ""
