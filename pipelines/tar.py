"""The index of a tar shard: which bytes belong to which sample. Only headers are read, and nothing is extracted.

Keys follow WebDataset: the name up to the first dot of its last component, folders included (a leading "./" is not),
and the rest, in lower case, is the extension. One refinement: when every entry of such a group carries a dotted rest
that ends in a known extension (`img.001.jpg`, `img.001.txt`, `img.002.jpg`: WebDataset sees one sample `img`), the dots
belong to the keys, and these names are split at their last dot. A group with one plain entry (`a.jpg`, `a.left.jpg`)
stays whole. Members of other extensions (`a.depth.npy`, `a.semseg.png`) make no sample by themselves; beside one that
does they are members of it as well, which specialists may read (members.py).

Shards come from the web and from jobs that were killed: what can be read is kept, and the rest is listed with its
reason (`Index.rejects`).
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
KNOWN_EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "json")

_BLOCK = tarfile.BLOCKSIZE
_WEBDATASET_META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset reserves for itself


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes [offset, offset + size) of the uncompressed tar; `problem` says why not to use them, "" if all is well."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SourceSample:
    """The members of one key, by extension in lower case.

    members: of known extensions; at most one of them is an image. others: all further ones, such as "depth.npy".
    """

    key: str
    members: dict[str, Member]
    others: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """The extension of its image, or "" if it has none."""
        return next((extension for extension in self.members if extension in IMAGE_EXTENSIONS), "")


@dataclass
class Index:
    """What a shard holds.

    samples: in the order in which their first member of a known extension appears.
    rejects: (key, reason) for each entry that cannot be used, key "" for the shard as a whole. They concern entries:
        a sample with a rejected second image is still a sample.
    ignored: entries that nothing reads unless a specialist asks for them: those of a sample counted by extension, those
        of none by last suffix ("" for none).
    """

    samples: list[SourceSample] = field(default_factory=list)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def index(file: BinaryIO, size: int) -> Index:
    """Index the tar of `size` bytes in a seekable file; ValueError if it is no tar at all."""
    members, problem = _scan(file, size)
    result = _group(members)
    if problem:
        result.rejects.append(("", problem))
    return result


def _scan(file: BinaryIO, size: int) -> tuple[list[Member], str]:
    """Every file-like entry, and what is wrong with the archive ("" if nothing).

    tarfile takes any damage after the first header for the end of the archive, hence the look at where it stopped.
    """
    file.seek(0)
    members: list[Member] = []
    position = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for info in archive:
                # A header may lie about its size: tarfile would then go backwards, for ever.
                if info.size < 0 or info.offset_data <= position:
                    return members, f"tar: damaged header at byte {position}; what follows is lost"
                position = archive.offset
                if not info.isdir():
                    members.append(Member(_normal(info.name), info.offset_data, info.size, _problem(info, size)))
            position = archive.offset
    # Headers of damaged archives make tarfile raise these as well, in parsing of numbers and of pax records.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if not position:
            raise ValueError(f"not a tar archive ({size} bytes): {error}") from error
        if position <= size:
            return members, f"tar: damaged header at byte {position}; what follows is lost"
    return members, _ending(file, position, size)


def _normal(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _problem(info: tarfile.TarInfo, size: int) -> str:
    if info.issym() or info.islnk():
        return "tar: a link, never followed"
    if not info.isreg() or info.issparse():
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


def _split(name: str) -> tuple[str, str]:
    """WebDataset's (key, extension)."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem) if stem else "", extension.lower()


def _dotted(names: Iterable[tuple[str, str]]) -> set[str]:
    """The groups all of whose entries have a dot in their key (see the module's docstring)."""
    dotted: dict[str, bool] = {}
    for key, extension in names:
        rest, _, last = extension.rpartition(".")
        dotted[key] = dotted.get(key, True) and bool(rest) and last in KNOWN_EXTENSIONS
    return {key for key, is_dotted in dotted.items() if key and is_dotted}


def _group(members: list[Member]) -> Index:
    names = [_split(member.name) for member in members]
    dotted = _dotted(names)
    result = Index()
    samples: dict[str, SourceSample] = {}
    others: list[tuple[str, str, Member]] = []
    for member, (key, extension) in zip(members, names, strict=True):
        if key in dotted:  # the name again, since the extension's case is lost
            folder, base = posixpath.split(member.name)
            stem, _, extension = base.rpartition(".")
            key, extension = posixpath.join(folder, stem), extension.lower()
        if member.problem:
            name = key or member.name
            result.rejects.append((name.encode("utf-8", "backslashreplace").decode(), member.problem))
        elif not key or extension not in KNOWN_EXTENSIONS or _WEBDATASET_META.match(member.name):
            others.append((key, extension, member))
        else:
            sample = samples.setdefault(key, SourceSample(key, {}))
            if reason := _add(sample, extension, member):
                result.rejects.append((key, reason))
    for key, extension, member in others:  # which samples there are is known now
        if key not in samples or not extension:
            result.ignored[extension.rpartition(".")[2]] += 1
            continue
        result.ignored[extension] += 1
        if samples[key].others.setdefault(extension, member) is not member:
            result.rejects.append((key, f"duplicate key: a second .{extension} is ignored"))
    result.samples = list(samples.values())
    return result


def _add(sample: SourceSample, extension: str, member: Member) -> str:
    """Add a member unless its place is taken; then the reason."""
    if extension in sample.members:
        return f"duplicate key: a second .{extension} is ignored"
    if extension in IMAGE_EXTENSIONS and sample.image:
        return f"several images: .{extension} is ignored, .{sample.image} came first"
    sample.members[extension] = member
    return ""
