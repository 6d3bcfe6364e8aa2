"""Every file of a root, those that other verbs never show included."""

from __future__ import annotations

import os
import posixpath
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from ...infra import storage

YOUNG = 3600.0  # seconds: what is younger may be of a process that is at work


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes, and seconds since the last change (infinite if the storage does not say)."""

    size: int
    age: float


@dataclass
class Listing:
    """The files of a root by their path below it."""

    root: str
    files: dict[str, Entry] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return storage.join(self.root, path)

    def below(self, folder: str) -> list[str]:
        """Paths of the files in a folder and its folders."""
        begin = bisect_left(self._paths, f"{folder}/")
        return self._paths[begin : bisect_left(self._paths, f"{folder}0", begin)]  # "0" follows "/"

    @cached_property
    def _paths(self) -> list[str]:
        return sorted(self.files)

    def is_old(self, *paths: str) -> bool:
        """Whether none of these files was written a moment ago."""
        return all(self.files[path].age > YOUNG for path in paths if path in self.files)


def of(root: str) -> Listing:
    """List a root. ValueError if there is none."""
    files = dict(_local(root) if storage.is_local(root) else _remote(root))
    if not files:
        raise ValueError(f"{root}: there is nothing; expected the root of a recipe")
    return Listing(root, files)


def _local(root: str) -> Iterator[tuple[str, Entry]]:
    top, now, seen = str(storage.local_path(root)), time.time(), set()
    for folder, names, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            names.clear()
            continue
        seen.add(real)
        for name in files:
            path = os.path.join(folder, name)
            try:
                info = os.stat(path)
            except FileNotFoundError:
                continue
            yield os.path.relpath(path, top).replace(os.sep, "/"), Entry(info.st_size, now - info.st_mtime)


def _remote(root: str) -> Iterator[tuple[str, Entry]]:
    _, top = storage.filesystem(root)
    for path, info in storage.ask(root, "find", detail=True).items():
        yield posixpath.relpath(path, top), Entry(int(info["size"] or 0), _age(info))


def _age(info: dict[str, Any]) -> float:
    changed = next(
        (info[name] for name in ("LastModified", "mtime", "updated", "last_modified") if info.get(name)), None
    )
    if isinstance(changed, datetime):
        return time.time() - changed.timestamp()
    return time.time() - float(changed) if isinstance(changed, int | float) else float("inf")


@dataclass(frozen=True)
class Upload:
    """Parts of an upload to S3 that was never completed: no listing shows them, and they cost money."""

    path: str
    identity: str
    age: float


def uploads(root: str) -> list[Upload]:
    """Those below a root; [] of other storage, and where they may not be listed."""
    if not root.startswith(("s3://", "s3a://")):
        return []
    fs, top = storage.filesystem(root)
    bucket, _, prefix = top.partition("/")
    try:
        found = fs.list_multipart_uploads(bucket)
    except (OSError, ValueError):
        return []
    prefix = f"{prefix}/" if prefix else ""
    return [
        Upload(one["Key"].removeprefix(prefix), one["UploadId"], _age({"LastModified": one.get("Initiated")}))
        for one in found
        if one["Key"].startswith(prefix)
    ]


def abort(root: str, upload: Upload) -> None:
    """Delete the parts of an upload."""
    fs, top = storage.filesystem(root)
    bucket, _, prefix = top.partition("/")
    key = posixpath.join(prefix, upload.path)
    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.identity)
