"""Tars that are written here: the same bytes for the same files, on every machine and day; and the record beside them.

A folder of shards that fourmill writes has a record, a JSON of the options that they were made with. It is written
before the first shard: a folder without one that is not empty is somebody else's.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..infra import scratch, storage


def archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of these files (name, content), in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            add(tar, name, data)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Write a file into an open tar."""
    member = tarfile.TarInfo(name)  # time, owner and group are 0
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@contextmanager
def whole(place: str) -> Iterator[Path]:
    """A local file that takes its name, or its place in a bucket, when the block has ended well."""
    with ExitStack() as stack:
        if storage.is_local(place):
            yield stack.enter_context(storage.replaced(storage.local_path(place)))
        else:
            path = Path(stack.enter_context(scratch.folder()), "file")
            yield path
            storage.put_file(place, path)


def record_of(folder: str, name: str, option: str = "--out", beside: Collection[str] = ()) -> dict[str, Any] | None:
    """The record `name` of a folder of shards, any fsspec URL; None of a folder that is empty or not there.

    Args:
        option: that names the folder, for errors. beside: names that may be there before the record is.

    Raises:
        ValueError: the folder is a file, or holds other files and no record, or the record is damaged.
    """
    if storage.is_local(folder) and storage.local_path(folder).is_file():
        raise ValueError(f"{option}: {folder} is a file, expected a folder, which may be new")
    url = storage.join(folder, name)
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(url))
        return record
    except FileNotFoundError:
        if others := [one for one in storage.list_names(folder) if one not in beside]:
            said = ", ".join(others[:3])
            raise ValueError(f"{option}: {folder} holds other files ({said}); choose a new folder") from None
    except ValueError as error:
        raise ValueError(f"{url} is damaged ({error}); choose a new folder") from None
    return None
