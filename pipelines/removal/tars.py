"""Tars without what was removed: the members of a sample become empty, and every other byte of them stays.

A sample stays in its place, without contents: what was made of the others keeps its rows.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import posixpath
import tarfile
from collections.abc import Collection, Iterator

from ...infra import storage
from ...infra.ledger import Source
from ...infra.removals import Removals
from .. import patterns, tar
from ..sensors import parallel

_BLOCK = tarfile.BLOCKSIZE


def is_tar(url: str) -> bool:
    return patterns.TAR_SUFFIX.search(url) is not None


def find(url: str, removed: Removals, name: str, scratch: str, every_key: bool = False, key: str = "") -> set[str]:
    """The keys of a shard that are removed, by themselves or by the URL in their JSON. The last arguments, OSError and
    ValueError are those of `source.open_shard`."""
    with parallel.open_shard(url, scratch, every_key, key) as shard:
        shard.withhold(removed, name)
        return {sample.key for sample in shard.samples if shard.is_removed(sample)}


def rewrite(url: str, keys: Collection[str]) -> Source | None:
    """Write a tar again without the contents of these keys, if it has any; what its records say of it from now on.

    None if it has none of the keys. The tar is in memory meanwhile. OSError, ValueError if it cannot be read.
    """
    data = storage.read_bytes(url)
    written, has_some = without(data, keys)
    if written != data:
        storage.put(url, written)
    stat = storage.stat(url)
    if not has_some or stat is None:
        return None
    return Source(stat.size, stat.version, hashlib.sha256(written).hexdigest())


def without(data: bytes, keys: Collection[str]) -> tuple[bytes, bool]:
    """A tar in which the members of these keys are empty, and whether it has such members; the same bytes if they are
    empty already."""
    is_packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if is_packed else data
    parts, end, has_some = list[bytes](), 0, False
    for info in _entries(plain, keys):
        has_some = True
        if not info.size:
            continue
        empty = copy.copy(info)
        empty.size, empty.pax_headers = 0, {}
        parts += [plain[end : info.offset], empty.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")]
        end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
    if not parts:
        return data, has_some
    written = b"".join([*parts, plain[end:]])
    return gzip.compress(written, mtime=0) if is_packed else written, has_some


def _entries(plain: bytes, keys: Collection[str]) -> Iterator[tarfile.TarInfo]:
    """The members of these keys."""
    samples = tar.index(io.BytesIO(plain), len(plain)).samples
    members = [(one.key, m) for one in samples for m in (*one.members.values(), *one.others.values())]
    owners = {member.offset: key for key, member in members}
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        while True:
            try:
                info = archive.next()
            except tarfile.TarError:
                return  # what is behind a damaged header nobody reads
            if info is None:
                return
            owner = owners.get(info.offset_data)
            # A second member of a key, which nobody reads, belongs to no sample, and bears its name.
            if info.isreg() and (owner in keys if owner is not None else _is_named(info.name, keys)):
                yield info


def _is_named(name: str, keys: Collection[str]) -> bool:
    folder, base = posixpath.split(tar.normal(name))
    stems = (base[:at] for at, letter in enumerate(base) if letter == ".")
    return any(posixpath.join(folder, stem) in keys for stem in stems)
