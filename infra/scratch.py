"""Temporary folders that do not stay behind, however their process ends.

Each holds a file that its process keeps locked. Who makes the next folder deletes those that nobody locks any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCK = "in-use"
PREFIX = "scratch-"
MAKING = ".lock"  # beside the folder: the lock under which folders are made and deleted


def base() -> str:
    """Where this user's processes on a machine put what they need for a while."""
    return os.path.join(tempfile.gettempdir(), f"fourmill-{os.getuid()}")


@contextmanager
def folder() -> Iterator[str]:
    """A new folder, which is deleted at the end, or by the next call of any process if this one is killed."""
    place = Path(base())
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # One at a time: who deletes must not meet a folder that is made and not locked yet.
        with open(f"{place}{MAKING}", "w") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            _sweep(place)
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=place))
            fcntl.flock(stack.enter_context(open(Path(path, LOCK), "w")), fcntl.LOCK_EX)
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
