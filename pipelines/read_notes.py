"""Notes of the shards that a fit is reading, so that a shard whose samples kill the process is passed over at last.

A process that a sample kills (a crash in a native library, out of memory) can say nothing afterwards. It writes a note
before it opens a shard and deletes it when it is done with the shard, whatever came of it; a note that is still there
when the next attempt begins counts as one death. `engine.attempts` deaths are as many as labelling allows a shard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..infra import side_files, storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadNotes:
    """The notes of one reader, one file a shard with the number of times that it was begun.

    folder: a URL that all attempts see. attempts: so many deaths at a shard, and it is passed over.
    """

    folder: str
    attempts: int

    @contextmanager
    def reading(self, shard: str) -> Iterator[bool]:
        """Around the work on a shard. False if it is to be passed over: its readers died too often."""
        url = storage.join(self.folder, shard)
        deaths = self._deaths(shard)
        if deaths >= self.attempts:
            logger.warning("shard %s is passed over in this fit: its readers died %d times", shard, deaths)
            yield False
            return
        storage.put(url, str(deaths + 1).encode())
        try:
            yield True
        finally:
            # Not reached if the process is killed; an exception is no death.
            storage.delete(url)

    def passed_over(self) -> list[str]:
        """The shards that are passed over."""
        names = sorted(storage.list_names(self.folder))
        return [name for name in names if self._deaths(name) >= self.attempts]

    def _deaths(self, shard: str) -> int:
        url = storage.join(self.folder, shard)
        try:
            return int(storage.read_bytes(url))
        except FileNotFoundError:
            return 0
        except ValueError as error:
            side_files.passed_over(url, error)
            return 0

    def clear(self) -> None:
        """Drop all notes: what killed readers yesterday may be mended today."""
        for name in storage.list_names(self.folder):
            storage.delete(storage.join(self.folder, name))
