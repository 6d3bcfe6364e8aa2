"""The nodes of a cluster while a job runs: they come and go; each fetches what its actors need before it gets any."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...infra.cluster import draining
from .job import NodeSetup

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # from one look at the cluster to the next


class Nodes:
    """The nodes of a cluster that are alive and have what their actors need.

    Args:
        ray: connected.
        setups: what each node fetches, once.

    Raises:
        ValueError: one of the first nodes cannot fetch it.
    """

    def __init__(self, ray: Any, setups: Sequence[NodeSetup]) -> None:
        self._ray, self._setups = ray, setups
        self._fetching: dict[str, Any] = {}  # node -> reference of its call
        self._alive = self._living()
        self._ready = {node["NodeID"] for node in self._alive}
        self._looked = time.monotonic()
        # A head node without CPUs gets no actors.
        ids = [node["NodeID"] for node in self._alive if node["Resources"].get("CPU")]
        if setups:
            logger.info("%d nodes fetch what their actors need", len(ids))
            try:
                ray.get([self._fetch(node) for node in ids])
            except ray.exceptions.RayTaskError as error:
                raise ValueError(_reason(error)) from None

    def resources(self) -> list[Mapping[str, float]]:
        """Of each node that is ready, by Ray's names."""
        return [node["Resources"] for node in self._alive if node["NodeID"] in self._ready]

    def have_changed(self) -> bool:
        """Look at the cluster, from time to time: whether nodes have gone, or new ones are ready."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked, before = time.monotonic(), {node["NodeID"] for node in self._alive} & self._ready
        self._alive = self._living()
        for node in self._alive:
            name = node["NodeID"]
            if name in self._ready or name in self._fetching:
                continue
            logger.info("node %s has joined", name)
            if self._setups and node["Resources"].get("CPU"):
                self._fetching[name] = self._fetch(name)
            else:
                self._ready.add(name)
        self._collect()
        now = {node["NodeID"] for node in self._alive} & self._ready
        for name in before - now:
            logger.warning("node %s is gone", name)
        return now != before

    def is_leaving(self, node: str) -> bool:
        """Whether a node has gone, or is about to, as far as is known now."""
        return bool(node) and (node in draining() or node not in {one["NodeID"] for one in self._living()})

    def elsewhere(self, avoid: Collection[str]) -> Any:
        """Where Ray should place an actor if it can, so that it comes on none of these nodes; None for anywhere."""
        names = [node["NodeID"] for node in self._alive if node["Resources"].get("CPU")]
        others = [name for name in names if name in self._ready and name not in avoid]
        if not avoid or not others:
            return None
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(random.choice(others), soft=True)

    def _living(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _fetch(self, node: str) -> Any:
        """Let a node fetch what its actors need; the reference of the call."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(num_cpus=0, max_retries=2)(_set_up)
        return remote.options(scheduling_strategy=strategy).remote(self._setups)

    def _collect(self) -> None:
        """Note which nodes have fetched what they need; one that cannot gets no actors."""
        for name, ref in list(self._fetching.items()):
            if not self._ray.wait([ref], timeout=0)[0]:
                continue
            try:
                self._ray.get(ref)
                self._ready.add(name)
                del self._fetching[name]
            except self._ray.exceptions.RayTaskError as error:
                logger.warning("node %s cannot be used: %s", name, _reason(error))
                self._fetching[name] = self._fetch(name)  # a network may come back
            except self._ray.exceptions.RayError:  # it is gone again
                del self._fetching[name]


def _set_up(setups: Sequence[NodeSetup]) -> None:
    for setup in setups:
        setup.setup_on_node()


def _reason(error: Any) -> str:
    cause = error.cause if isinstance(error.cause, Exception) else error
    return str(cause) if isinstance(cause, ValueError) else repr(cause)
