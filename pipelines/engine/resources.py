"""How many actors fit on a cluster, and the sentence if none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .job import Demand


def places(nodes: Sequence[Mapping[str, float]], demand: Demand) -> int:
    """How many actors run at once, each on one node.

    Args:
        nodes: the resources of each node, by Ray's names.
    """
    wanted = {name: amount for name, amount in demand.as_ray().items() if amount}
    # Node by node: CPUs of one node are of no use to a GPU of another.
    return sum(min(int(node.get(name, 0) // amount) for name, amount in wanted.items()) for node in nodes)


def no_place(nodes: Sequence[Mapping[str, float]], demand: Demand, advice: str) -> str:
    """What an actor asks for, the most that any node has of each resource, and what to do about it."""
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in demand.as_ray()}
    return (
        f"engine: an actor asks for {demand.cpus:g} CPUs, {demand.gpus:g} GPUs and {demand.memory / 2**30:.1f} "
        f"GiB; no node of the cluster has more than {most['CPU']:g} CPUs, {most['GPU']:g} GPUs and "
        f"{most['memory'] / 2**30:.1f} GiB; lower engine.cpus or engine.gpus, or {advice}"
    )
