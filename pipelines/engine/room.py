"""Room that a cluster does not have yet: its autoscaler is asked for it.

An autoscaler of Ray goes by what waits for room. So placement groups of the size that is wanted wait, as many as are
lacking; one that was placed has shown that there is room, and is given back at once. They end with this process:
`request_resources` would last when it is killed, and is one for all jobs of a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

ASK_SECONDS = 5.0  # between two looks at what was asked for
MOST = 100  # groups that wait at a time
GROW_SECONDS = 900.0  # that a cluster which may grow has to make the first room
LABEL = "ray.io/node-group"  # of nodes that KubeRay or an autoscaler has started


def may_grow(nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether nodes are likely to come: they are managed by something, or there is none that works yet.

    Args:
        nodes: those that are alive, as of `ray.nodes()`.
    """
    return any((node.get("Labels") or {}).get(LABEL) for node in nodes) or not any(
        node["Resources"].get("CPU") for node in nodes
    )


class Room:
    """What is asked for, each of one size.

    Args:
        ray: connected.
        wanted: amounts of resources, by Ray's names.
    """

    def __init__(self, ray: Any, wanted: Mapping[str, float]) -> None:
        self._ray, self._wanted = ray, {name: amount for name, amount in wanted.items() if amount}
        self._waiting: list[Any] = []
        self._next = 0.0

    @property
    def is_asked(self) -> bool:
        """Whether something waits for room."""
        return bool(self._waiting)

    def ask(self, count: int) -> None:
        """There is to be room for so many more. Looks every few seconds; does not wait."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + ASK_SECONDS
        if self._waiting:
            states = self._ray.util.placement_group_table()
            placed = {one for one, about in states.items() if about.get("state") != "PENDING"}
            for group in [one for one in self._waiting if one.id.hex() in placed]:
                self._remove(group)
        while len(self._waiting) > max(count, 0):
            self._remove(self._waiting[-1])
        while len(self._waiting) < min(count, MOST):
            self._waiting.append(self._ray.util.placement_group([self._wanted]))

    def close(self) -> None:
        for group in self._waiting[:]:
            self._remove(group)

    def _remove(self, group: Any) -> None:
        self._waiting.remove(group)
        self._ray.util.remove_placement_group(group)
