"""How apple/ml-4m lays out data: a folder a modality, a tar a shard, a member a sample; or, of small data sets, folders
of files in place of the tars.

    DIR/tok_rgb@224/shard-00000.tar       000000001.npy, 000000002.npy, ...
    DIR/crop_settings/shard-00000.tar     000000001.npy, 000000002.npy, ...
    DIR/tok_rgb@224/n01440764/000000001.npy

Keys are webdataset's: a member's name, with its folders, up to the first dot. Shards of one name hold the same keys in
all modalities; with DIR/train and DIR/val there are two splits.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from ...infra import storage
from .. import tar
from ..settings import CROP_SETTINGS

TAR = ".tar"
CROPS = CROP_SETTINGS
IMAGES = "rgb"  # the folder of whole images
SPLITS = ("train", "val")
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")


@dataclass(frozen=True)
class Part:
    """One modality of one shard: a tar, or a folder of files."""

    url: str
    folder: str
    shard: str
    is_tar: bool


@dataclass(frozen=True)
class Entry:
    """A member: its key, what follows the key in its name, and where it is (in a tar its first byte)."""

    key: str
    suffix: str
    place: str | int
    size: int


@dataclass
class Layout:
    """What a place holds. shards: folder of a modality -> shard -> its part. empty: folders that hold none."""

    url: str
    shards: dict[str, dict[str, Part]]
    empty: list[str]


def splits(url: str) -> dict[str, str]:
    """The splits of a place, by name: its folders `train` and `val`, or else itself as `train`. ValueError if it is
    none."""
    names = storage.list_names(url)
    if not names:
        raise ValueError(f"{url}: there is no such folder, or nothing is in it")
    held = {name: storage.join(url, name) for name in SPLITS if storage.list_names(storage.join(url, name))}
    return held or {"train": url}


def find(url: str) -> Layout:
    """List a split. ValueError if it is in no layout of ml-4m's."""
    shards: dict[str, dict[str, Part]] = {}
    names = [name for name in storage.list_names(url) if not name.startswith(".")]  # of an export, of a desktop
    if tars := [name for name in names if name.endswith(TAR)]:
        raise ValueError(
            f"{url}: it holds tars ({tars[0]}, ...), expected folders by modality that hold them; name the folder "
            "above it, or put each modality's members into tars of their own"
        )
    for folder in names:
        place = storage.join(url, folder)
        inside = storage.list_names(place)
        parts = {n.removesuffix(TAR): Part(storage.join(place, n), folder, n.removesuffix(TAR), True)
                 for n in inside if n.endswith(TAR)}  # fmt: skip
        if not parts:
            parts = {n: Part(storage.join(place, n), folder, n, False) for n in inside
                     if storage.list_names(storage.join(place, n))}  # fmt: skip
        shards[folder] = parts
    found = {folder: parts for folder, parts in shards.items() if parts}
    if not found:
        raise ValueError(
            f"{url}: no folder in it holds tars or folders; expected MODALITY/SHARD{TAR}, as ml-4m's training reads it,"
            " or MODALITY/FOLDER/KEY.npy, as its save_vq_tokens.py writes it"
        )
    return Layout(url, found, [folder for folder in shards if folder not in found])


def split_name(name: str) -> tuple[str, str] | None:
    """Key and suffix (from its dot on) of a member, None of one without."""
    match = _NAME.fullmatch(name)
    return (match[1], f".{match[2]}") if match else None


class Members:
    """The members of a part, in its order. Use as a context manager.

    ValueError, when it is opened, for a tar that is not whole, and for two members of one key.
    """

    def __init__(self, part: Part, file: BinaryIO | None, entries: list[Entry]) -> None:
        self.part, self.entries, self._file = part, entries, file

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.entries]

    def read(self, entry: Entry) -> bytes:
        if self._file is None:
            return storage.read_bytes(str(entry.place))
        self._file.seek(int(entry.place))
        return self._file.read(entry.size)


@contextmanager
def opened(part: Part) -> Iterator[Members]:
    """See `Members`."""
    if not part.is_tar:
        sizes = storage.list_sizes(part.url)
        yield Members(part, None, _unique(part, list(_in_folder(part, sizes))))
        return
    stat = storage.stat(part.url)
    if stat is None:
        raise ValueError(f"{part.url}: there is no such file")
    with storage.open_binary(part.url) as file:
        try:
            found, problem = tar.scan(file, stat.size)
        except ValueError as error:
            raise ValueError(f"{part.url}: {error}") from error
        bad = next((f"{one.name}: {one.problem}" for one in found if one.problem), "")
        if problem or bad:
            raise ValueError(f"{part.url}: {problem or bad}; copy it again")
        entries = [Entry(*named, one.offset, one.size) for one in found if (named := split_name(one.name)) is not None]
        yield Members(part, file, _unique(part, entries))


def _in_folder(part: Part, sizes: dict[str, int]) -> Iterator[Entry]:
    for name in sorted(sizes):
        if (named := split_name(name)) is not None:
            yield Entry(f"{part.shard}/{named[0]}", named[1], storage.join(part.url, name), sizes[name])


def _unique(part: Part, entries: list[Entry]) -> list[Entry]:
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.key in seen:
            raise ValueError(
                f"{part.url}: {entry.key} is there as {seen[entry.key]} and as {entry.suffix}; expected one member of "
                "each key: put each modality's members into tars of their own"
            )
        seen[entry.key] = entry.suffix
    return entries


def version(part: Part) -> list[int | str]:
    """What changes when a part does: size and version of a tar, number and bytes of a folder's files."""
    if part.is_tar:
        stat = storage.stat(part.url)
        return [stat.size, stat.version] if stat else [0, ""]
    sizes = storage.list_sizes(part.url)
    return [len(sizes), str(sum(sizes.values()))]


def member_name(key: str, suffix: str, is_tar: bool) -> str:
    """The name of a member: the inverse of what `opened` takes its key from."""
    return key + suffix if is_tar else posixpath.basename(key) + suffix
