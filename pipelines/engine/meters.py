"""What a job does, as metrics of Ray: where a cluster's metrics are collected (Prometheus), they are beside Ray's own.

`ray_fourmill_tasks{stage, root, state}` and the like; docs/storage-and-clusters.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...infra.secrets import public

TAGS = ("stage", "root")


class Meters:
    """The meters of one stage on one root.

    Args:
        root: URL, "" for none.
    """

    def __init__(self, stage: str, root: str) -> None:
        self._tags = {"stage": stage, "root": public(root)}
        self._gauges: dict[str, Any] = {}

    def show(self, name: str, value: float, **tags: str) -> None:
        """Set the gauge `fourmill_NAME`. The same tags each time."""
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            self._gauges[name] = Gauge(f"fourmill_{name}", f"fourmill: {name.replace('_', ' ')}", (*TAGS, *tags))
        self._gauges[name].set(value, self._tags | tags)

    def tasks(self, pending: int, running: int, done: int, failed: int) -> None:
        for state, count in (("pending", pending), ("running", running), ("done", done), ("failed", failed)):
            self.show("tasks", count, state=state)

    def samples(self, count: int, rate: float, rejects: Counter[str], shares: Mapping[str, float]) -> None:
        """rate: a second. shares: of the time of workers, by what they waited for."""
        self.show("samples", count)
        self.show("samples_per_second", rate)
        for reason, number in rejects.items():
            self.show("rejects", number, reason=reason)
        for what, share in shares.items():
            self.show("wait_share", share, what=what)
