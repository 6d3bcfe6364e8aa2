"""Counts of a shard worker, read by others while it works."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
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
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def spent(self, name: str, seconds: float) -> None:
        """Add to the seconds of an output; several threads do."""
        with self._adding:
            self.seconds[name] += seconds

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; what is waited for each counts."""
        ahead, last = iter(batches), time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                batch = next(ahead)
            except StopIteration:
                return
            now = time.monotonic()
            self.waited += now - asked
            self.worked += now - last
            last = now
            yield batch

    def shares(self) -> dict[str, float]:
        """Of the time, by what was waited for."""
        return {"images": self.waited / self.worked} if self.worked else {}
