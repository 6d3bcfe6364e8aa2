"""Counts of a shard worker, read by others while it works."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Tally:
    """Counts that may be read from another thread while a shard is being worked on.

    seconds: spent in each specialist and each codec, by output ("labels/depth", "tokens/tok_depth"); for "labels/..."
        of labels that are not kept as well.
    problems: of the shard that was measured, entries that cannot be used or that nobody reads.
    waited: seconds for images that are not decoded yet, of `worked`.
    """

    samples: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    problems: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0
    worked: float = 0.0
    _since: float | None = None
    _shards: int = 0  # at work
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def spent(self, name: str, seconds: float) -> None:
        """Add to the seconds of an output; several threads do."""
        with self._adding:
            self.seconds[name] += seconds

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the work on samples of a shard, whose time counts; where two shards overlap, once."""
        with self._adding:
            self._shards += 1
            if self._since is None:
                self._since = time.monotonic()
        try:
            yield
        finally:
            with self._adding:
                self._shards -= 1
                if not self._shards and self._since is not None:
                    self.worked += time.monotonic() - self._since
                    self._since = None

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; what is waited for each counts, unless another shard is at work meanwhile."""
        ahead = iter(batches)
        while True:
            asked, alone = time.monotonic(), self._shards < 2
            try:
                batch = next(ahead)
            except StopIteration:
                return
            finally:
                self.waited += time.monotonic() - asked if alone else 0.0
            yield batch

    def shares(self) -> dict[str, float]:
        """Of the time of work, by what was waited for."""
        since = self._since
        worked = self.worked + (0.0 if since is None else time.monotonic() - since)
        return {"images": self.waited / worked} if worked else {}
