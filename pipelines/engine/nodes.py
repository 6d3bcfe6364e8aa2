"""The nodes of a cluster while a job runs: they come and go; each fetches what its actors need before it gets any."""

from __future__ import annotations

import hashlib
import logging
import platform
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...infra.cluster import draining
from ...infra.progress import said
from .job import NodeSetup
from .room import may_grow

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # from one look at the cluster to the next
PACKAGE = Path(__file__).parents[2]


class Nodes:
    """The nodes of a cluster that are alive and have what their actors need.

    Args:
        ray: connected.
        setups: what each node fetches, once.

    Raises:
        ValueError: one of the first nodes cannot fetch it, or has another Python, Ray or fourmill than this process.
    """

    def __init__(self, ray: Any, setups: Sequence[NodeSetup]) -> None:
        self._ray, self._setups = ray, setups
        self.leaving: frozenset[str] = frozenset()  # of those that are alive
        self._sent: tuple[Any, ...] = ()  # with each call
        self._fetching: dict[str, Any] = {}  # node -> reference of its call
        self._look()
        self._ready = {node["NodeID"] for node in self._alive}
        # A head node without CPUs gets no actors.
        ids = [node["NodeID"] for node in self._alive if node["Resources"].get("CPU")]
        if setups:
            logger.info("%d nodes fetch what their actors need", len(ids))
            # Setups are put, so that a node with another fourmill, which cannot read them, is compared first.
            self._sent = versions(ray), [ray.put(setups)]
            calls = {node: self._fetch(node) for node in ids}
            with said(f"nodes fetch what their actors need ({len(ids)} of them)"):
                problems = self._problems(calls)
            if problems:
                node, why = next(iter(problems.items()))
                more = f" ({len(problems)} of {len(ids)} nodes cannot be used)" if len(ids) > 1 else ""
                raise ValueError(f"node {node}: {why}{more}")

    def resources(self) -> list[Mapping[str, float]]:
        """Of each node that is ready and stays, by Ray's names."""
        usable = self._usable()
        return [node["Resources"] for node in self._alive if node["NodeID"] in usable]

    def may_grow(self) -> bool:
        """Whether more nodes are likely to come."""
        return may_grow(self._alive)

    def _usable(self) -> set[str]:
        return ({node["NodeID"] for node in self._alive} & self._ready) - self.leaving

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._alive = self._living()
        self.leaving = frozenset(draining()) & {node["NodeID"] for node in self._alive}

    def have_changed(self) -> bool:
        """Look at the cluster, from time to time: whether nodes have gone or are about to, or new ones are ready."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        before, leaving = self._usable(), self.leaving
        self._look()
        for node in self._alive:
            name = node["NodeID"]
            if name in self._ready or name in self._fetching or name in self.leaving:
                continue
            logger.info("node %s has joined", name)
            if self._setups and node["Resources"].get("CPU"):
                self._fetching[name] = self._fetch(name)
            else:
                self._ready.add(name)
        self._collect()
        now = self._usable()
        for name in self.leaving - leaving:
            logger.warning("node %s is about to leave", name)
        for name in before - now - self.leaving:
            logger.warning("node %s is gone", name)
        return now != before

    def is_leaving(self, node: str) -> bool:
        """Whether a node has gone, or is about to, as far as is known now."""
        return bool(node) and (node in draining() or node not in {one["NodeID"] for one in self._living()})

    def elsewhere(self, avoid: Collection[str]) -> Any:
        """Where Ray should place an actor if it can, so that it comes on none of these nodes; None for anywhere."""
        if not avoid:
            return None
        usable = self._usable()
        names = [node["NodeID"] for node in self._alive if node["Resources"].get("CPU")]
        others = [name for name in names if name in usable and name not in avoid]
        if not others:
            return None
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(random.choice(others), soft=True)

    def _living(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _fetch(self, node: str) -> Any:
        """Let a node fetch what its actors need; the reference of the call."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(num_cpus=0, max_retries=2)(set_up())
        return remote.options(scheduling_strategy=strategy).remote(*self._sent)

    def _problems(self, calls: Mapping[str, Any]) -> dict[str, str]:
        """Why nodes cannot be used, by address. One that goes away meanwhile is no longer ready."""
        addresses = {node["NodeID"]: node.get("NodeManagerAddress", node["NodeID"]) for node in self._alive}
        problems = {}
        for name, ref in calls.items():
            try:
                self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                problems[addresses[name]] = _reason(error)
            except self._ray.exceptions.RayError:
                self._ready.discard(name)
        return problems

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


def versions(ray: Any) -> dict[str, Any]:
    """What nodes must have as this process has it: versions, and SHA-256 of the modules that are loaded here."""
    files = {
        path.relative_to(PACKAGE)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == __name__.partition(".")[0]
        and (path := Path(getattr(module, "__file__", None) or "")).is_relative_to(PACKAGE)
    }
    sums = {str(name): hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() for name in sorted(files)}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"versions": {"Python": python, "Ray": ray.__version__}, "files": sums}


def set_up() -> Callable[[dict[str, Any], list[Any]], None]:
    """What a node runs. A function within a function, since that is sent whole: one of a module is imported there, from
    another fourmill than this, or from none."""

    def compare_and_set_up(driver: dict[str, Any], held: list[Any]) -> None:
        """ValueError if this node is unlike the driver (`versions`), or cannot fetch what `held[0]` asks for."""
        import hashlib
        import importlib.util
        import platform
        from pathlib import Path

        import ray

        here = {"Python": ".".join(platform.python_version_tuple()[:2]), "Ray": ray.__version__}
        for name, version in driver["versions"].items():
            if here[name] != version:
                raise ValueError(f"it has {name} {here[name]}, and the driver {version}; use the same on all nodes")
        advice = "; install the same everywhere, or use `fourmill submit`, which sends its own to all nodes"
        spec = importlib.util.find_spec("fourmill")
        if spec is None or spec.origin is None:
            raise ValueError(f"it has no fourmill{advice}")
        for name, digest in driver["files"].items():
            path = Path(spec.origin).parent / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError(f"it has another fourmill than the driver, {path} differs{advice}")
        for one in ray.get(held[0]):
            one.setup_on_node()

    return compare_and_set_up


def _reason(error: Any) -> str:
    cause = error.cause if isinstance(error.cause, Exception) else error
    return str(cause) if isinstance(cause, ValueError) else repr(cause)
