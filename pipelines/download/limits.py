"""How many requests go to one host at a time, over the whole cluster.

One `Limiter` knows who has how many permits for which host. Workers ask it for permits in bundles, each time with all
that they hold and want: what is said again changes nothing, so that a lost answer or a limiter that was started again
does no harm. Hosts that have asked to be left alone (429, Retry-After) get no requests from anybody until then.

A host's rows are in slices all over the table. If each host were one task's alone, the table would have to be sorted by
hosts first, shards would hold samples of few hosts, and the largest host would be the last task for hours.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FORGET_SECONDS = 60.0  # after which a worker that says nothing is taken for dead
MOST_PAUSES = 100_000


@dataclass
class Limiter:
    """per_host: permits of one host, None for any number. interval: seconds between two requests to one host."""

    per_host: int | None
    interval: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _held: dict[str, dict[str, int]] = field(default_factory=dict)  # worker -> host -> permits
    _total: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _seen: dict[str, float] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)  # host -> when it may be asked again
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(
        self, worker: str, held: Mapping[str, int], wanted: Mapping[str, int], pauses: Mapping[str, float]
    ) -> tuple[dict[str, int], dict[str, float]]:
        """What one worker may do.

        Args:
            held: permits that it has now, by host. wanted: how many more it could use. pauses: seconds that hosts ask
                to be left alone.

        Returns:
            More permits, and of the hosts that it wants those that wait, with their seconds.
        """
        with self._lock:
            return self._answer(worker, held, wanted, pauses)

    def _answer(
        self, worker: str, held: Mapping[str, int], wanted: Mapping[str, int], pauses: Mapping[str, float]
    ) -> tuple[dict[str, int], dict[str, float]]:
        now = self.clock()
        self._set(worker, held)
        self._seen[worker] = now
        for other in [name for name, seen in self._seen.items() if now - seen > FORGET_SECONDS]:
            self._set(other, {})
            del self._seen[other], self._held[other]
        for host, seconds in pauses.items():
            self._until[host] = max(self._until.get(host, 0.0), now + seconds)
        if len(self._until) > MOST_PAUSES:
            self._until = {host: until for host, until in self._until.items() if until > now}
        granted, waiting = dict[str, int](), dict[str, float]()
        for host, count in wanted.items():
            if (left := self._until.get(host, 0.0) - now) > 0:
                waiting[host] = left
                continue
            free = count if self.per_host is None else min(count, self.per_host - self._total[host])
            if free > 0 and self.interval:
                free, self._until[host] = 1, now + self.interval
            if free > 0:
                granted[host] = free
        self._set(worker, {host: held.get(host, 0) + granted.get(host, 0) for host in {**held, **granted}})
        return granted, waiting

    def _set(self, worker: str, held: Mapping[str, int]) -> None:
        for host, count in self._held.get(worker, {}).items():
            self._total[host] -= count
            if not self._total[host]:
                del self._total[host]
        for host, count in held.items():
            self._total[host] += count
        self._held[worker] = dict(held)
