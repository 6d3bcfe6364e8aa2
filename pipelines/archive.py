"""Tars that are written here: the same bytes for the same files, on every machine and day; and the record beside them.

A folder of shards that fourmill writes has a record, a JSON of the options that they were made with. It is written
before the first shard: a folder without one that is not empty is somebody else's.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any

from ..infra import storage


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


def record_of(folder: str, name: str) -> dict[str, Any] | None:
    """The record `name` of a folder of shards, any fsspec URL; None of a folder that is empty or not there.

    Raises:
        ValueError: the folder is a file, or holds other files and no record.
    """
    if storage.is_local(folder) and storage.local_path(folder).is_file():
        raise ValueError(f"--out: {folder} is a file, expected a folder, which may be new")
    url = storage.join(folder, name)
    if storage.exists(url):
        record: dict[str, Any] = json.loads(storage.read_bytes(url))
        return record
    if others := storage.list_names(folder):
        raise ValueError(f"--out: {folder} holds other files ({', '.join(others[:3])}); choose a new folder")
    return None
