"""Counts of a shard worker, read by others while it works."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts that may be read from another thread while a shard is being worked on.

    seconds: spent in each specialist and each codec, by output ("labels/depth", "tokens/tok_depth"); for "labels/..."
        of labels that are not kept as well.
    problems: of the shard that was measured, entries that cannot be used or that nobody reads.
    """

    samples: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    problems: Counter[str] = field(default_factory=Counter)
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def spent(self, name: str, seconds: float) -> None:
        """Add to the seconds of an output; several threads do."""
        with self._adding:
            self.seconds[name] += seconds
