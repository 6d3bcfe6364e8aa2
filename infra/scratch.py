"""Temporary folders that do not stay behind, however their process ends.

Each holds a file that its process keeps locked. Who makes the next folder deletes those that nobody locks any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "in-use"
PREFIX = "scratch-"


def base() -> str:
    """Where this user's processes on a machine put what they need for a while."""
    return os.path.join(tempfile.gettempdir(), f"fourmill-{os.getuid()}")


@contextmanager
def folder() -> Iterator[str]:
    """A new folder, which is deleted at the end, or by the next call of any process if this one is killed."""
    place = Path(base())
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as path, open(Path(path, LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = os.path.join(path, "files")  # the caller's; the lock stands beside it
        os.mkdir(files)
        yield files


def _sweep(place: Path) -> None:
    for name in os.listdir(place):
        if not name.startswith(PREFIX):
            continue
        try:
            with open(place / name / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place / name, ignore_errors=True)
        except OSError:  # in use; or not locked yet, or deleted by another process
            continue
