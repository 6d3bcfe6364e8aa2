"""Names in folders with the versions of their files, asked for at once: a root has as many records as shards times
columns, and a request for each would take minutes."""

from __future__ import annotations

import os
import posixpath
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from .. import storage
from ..storage import Stat

THREADS = 16  # that wait for storage
SETTLED_SECONDS = 2.0  # after which the time of a change tells a file from those that follow it under its name
LISTED_AT_ONCE = 32  # shards of one remote folder from which on it is listed: one request tells of 1,000 files
# Places that list a thousand files in one request, and say of each what `Stat` has.
_LISTS = ("s3://", "s3a://", "gs://", "gcs://")


def stats_in(folder: str) -> dict[str, Stat]:
    """Files directly below a folder, without temporary files; {} if it is not there.

    The version is "" of a file that was changed a moment ago, and of one of which the storage says only when it was:
    the next one under its name may have the same.
    """
    if storage.is_local(folder):
        return dict(_local(str(storage.local_path(folder))))
    try:
        found = storage.ask(folder, "ls", detail=True)
    except FileNotFoundError:
        return {}
    return {
        name: Stat(int(one["size"] or 0), storage.tag_of(one))
        for one in found
        if one["type"] == "file" and not (name := posixpath.basename(one["name"])).startswith(storage.TEMPORARY_PREFIX)
    }


def _local(folder: str) -> Iterator[tuple[str, Stat]]:
    settled = time.time_ns() - int(SETTLED_SECONDS * 1e9)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(storage.TEMPORARY_PREFIX):
                    continue
                try:
                    if entry.is_file():
                        found = entry.stat()
                        version = str(found.st_mtime_ns) if found.st_mtime_ns < settled else ""
                        yield entry.name, Stat(found.st_size, version)
                except FileNotFoundError:
                    continue
    except (FileNotFoundError, NotADirectoryError):
        return


def stats_of(urls: Collection[str]) -> dict[str, Stat | Exception | None]:
    """Size and version of each file, None where there is none, or why it cannot be looked at.

    Many of one folder of a bucket are listed together.
    """
    found: dict[str, Stat | Exception | None] = {}
    by_folder: dict[str, list[str]] = defaultdict(list)
    for url in urls:
        if storage.is_local(url):
            found[url] = _stat(url)
        else:
            by_folder[posixpath.dirname(url) if url.startswith(_LISTS) else ""].append(url)
    alone = by_folder.pop("", [])
    for folder, members in by_folder.items():
        if len(members) < LISTED_AT_ONCE:
            alone += members
            continue
        try:
            listed: dict[str, Stat] = stats_in(folder)
        except Exception as error:  # whatever the storage raises: each shard says it
            found |= dict.fromkeys(members, error)
        else:
            found |= {url: listed.get(posixpath.basename(url)) for url in members}
    with ThreadPoolExecutor(THREADS) as pool:
        found |= zip(alone, pool.map(_stat, alone), strict=True)
    return {url: found[url] for url in urls}


def _stat(url: str) -> Stat | Exception | None:
    try:
        return storage.stat(url)
    except Exception as error:  # credentials, network, permissions: who asks says what it means
        return error
