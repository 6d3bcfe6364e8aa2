"""The engine: Ray actors that each hold one `Mill` and work through shards.

The driver deals shards, two to an actor while there are plenty, so that one is decoded while the other is computed.
If an actor dies, its shards are dealt again to a new one; a shard that takes its actor down `attempts` times is given
up, with the reason. Nothing here changes a result: outputs are pure functions of the shard and the job.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...infra import ledger, logs
from ...infra.cluster import cluster
from ...infra.progress import Progress
from ...modalities import TEXT
from ..plan import ShardTask
from ..specialists.base import Specialist
from ..specialists.pretrained import Pretrained
from .shard_worker import Job, Mill, RejectRun

POLL_SECONDS = 0.5


@dataclass
class Outcome:
    """What came of the tasks: records of what was committed, and shards that could not be done with the reason."""

    records: list[ledger.Record] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    seconds: float = 0.0
    ready_seconds: float = 0.0  # of these, until the first actor was up


class _Worker:
    """A `Mill` in an actor. `run` and `tally` have threads of their own, so that progress can always be asked for."""

    def __init__(self, job: Job, threads: int) -> None:
        import cv2

        logs.configure_worker()
        # One core an actor: OpenCV and torch must not each start a thread for every core of the machine. It also makes
        # sums come out in the same order everywhere, so that tokens are equal bit for bit.
        cv2.setNumThreads(1)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        device = "cpu"
        if uses_torch(job):
            import torch

            torch.set_num_threads(threads)
            device = "cuda" if torch.cuda.is_available() else "cpu"  # Ray shows an actor the GPUs that it has asked for
        self.mill = Mill(job)
        self.mill.setup(device)

    def run(self, task: ShardTask) -> list[ledger.Record]:
        return self.mill.run(task)

    def tally(self) -> tuple[int, dict[str, int]]:
        return self.mill.tally.samples, dict(self.mill.tally.rejects)


@dataclass
class _Pool:
    """The driver's view: which actor has which task, and what is still to be dealt."""

    job: Job
    pending: deque[ShardTask]
    size: int
    worker: Any
    threads: int = 1  # that each actor may use
    actors: list[Any] = field(default_factory=list)
    in_flight: dict[Any, tuple[Any, ShardTask]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)

    def deal(self) -> None:
        """Start actors that are wanted, and give each a task, or two while there are enough for all."""
        busy = len({id(actor) for actor, _ in self.in_flight.values()})
        while len(self.actors) < min(self.size, len(self.pending) + busy):
            self.actors.append(self.worker.remote(self.job, self.threads))
        for depth in (1, 2):
            for actor in self.actors:
                held = [task for owner, task in self.in_flight.values() if owner is actor]
                if not self.pending or len(held) >= depth or (depth == 2 and not self._may_share(held)):
                    continue
                task = self.pending.popleft()
                self.in_flight[actor.run.remote(task)] = (actor, task)

    def _may_share(self, held: list[ShardTask]) -> bool:
        """Whether an actor that holds these tasks may take the next one as well. Tasks whose actor has died are done
        alone from then on, so that the one that kills is told from its neighbours."""
        if len(self.pending) < len(self.actors):
            return False
        return not any(self.attempts[task.shard] for task in [*held, self.pending[0]])

    def bury(self, actor: Any, reason: str, outcome: Outcome) -> None:
        """An actor died: its tasks are dealt again, unless one has taken too many actors with it."""
        if actor in self.actors:
            self.actors.remove(actor)
        for ref, (owner, task) in list(self.in_flight.items()):
            if owner is not actor:
                continue
            del self.in_flight[ref]
            self.attempts[task.shard] += 1
            if self.attempts[task.shard] >= self.job.engine.attempts:
                outcome.failures[task.shard] = f"its worker died {self.job.engine.attempts} times: {reason}"
            else:
                self.pending.append(task)


def run(job: Job, tasks: list[ShardTask], stage: str) -> Outcome:
    """Do all tasks on the cluster.

    Args:
        stage: the verb, for the progress line.

    Raises:
        RejectRun: a run of rejects stopped the job; what was committed before stays.
    """
    outcome, start = Outcome(), time.monotonic()
    if not tasks:
        return outcome
    with cluster(job.engine.address) as ray, Progress(stage, len(tasks), "shards") as progress:
        pool = _start(ray, job, tasks)
        tallies: dict[Any, tuple[int, dict[str, int]]] = {}
        try:
            while pool.pending or pool.in_flight:
                pool.deal()
                ready, _ = ray.wait(list(pool.in_flight), num_returns=1, timeout=POLL_SECONDS)
                for ref in ready:
                    _settle(ray, pool, ref, outcome, progress)
                _show(ray, pool, tallies, progress, start)
                if tallies and not outcome.ready_seconds:
                    outcome.ready_seconds = time.monotonic() - start
        finally:
            for actor in pool.actors:
                ray.kill(actor)
    outcome.samples = sum({record.shard: record.rows for record in outcome.records}.values())
    outcome.seconds = time.monotonic() - start
    return outcome


def _start(ray: Any, job: Job, tasks: list[ShardTask]) -> _Pool:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    _set_up_nodes(ray, job, nodes)  # first, since weights that are here tell their size
    cpus, gpus, memory = needed(job, any(node["Resources"].get("GPU") for node in nodes))
    wanted = {"CPU": cpus, "GPU": gpus, "memory": float(memory)}
    fits = places([node["Resources"] for node in nodes], wanted)
    if fits < 1:
        raise ValueError(_no_room(job, wanted, [node["Resources"] for node in nodes]))
    options = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory, "max_restarts": 0}
    worker = ray.remote(**options, concurrency_groups={"work": 2, "status": 1})(_grouped(ray))
    size = min(job.engine.actors or fits, fits, len(tasks))  # an actor that cannot be placed would wait for ever
    return _Pool(job, deque(tasks), size, worker, threads=max(1, int(cpus)))


def places(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """How many actors that want this find room at once, each on one node; `nodes` are the resources of each."""
    return sum(min(int(node.get(name, 0) // n) for name, n in wanted.items() if n) for node in nodes)


def _no_room(job: Job, wanted: dict[str, float], nodes: list[dict[str, float]]) -> str:
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
    largest = sorted(job.specialists.items(), key=lambda item: -item[1].resident_gb())[:3]
    sizes = ", ".join(f"{label} {specialist.resident_gb():.1f} GiB" for label, specialist in largest)
    return (
        f"engine: an actor asks for {wanted['CPU']:g} CPUs, {wanted['GPU']:g} GPUs and {wanted['memory'] / 2**30:.1f} "
        f"GiB; no node of the cluster has more than {most['CPU']:g} CPUs, {most['GPU']:g} GPUs and "
        f"{most['memory'] / 2**30:.1f} GiB; lower engine.cpus or engine.gpus, or keep the labels of the largest "
        f"specialists ({sizes}) in a run of their own: labels.keep, then all others"
    )


def _set_up_nodes(ray: Any, job: Job, nodes: list[dict[str, Any]]) -> None:
    """Let every node fetch what specialists need, once, before its actors ask for it. ValueError if one cannot."""
    fetching = {
        label: specialist
        for label, specialist in job.specialists.items()
        if type(specialist).setup_on_node is not Specialist.setup_on_node
    }
    if not fetching:
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def fetch(specialists: list[Specialist]) -> None:
        for specialist in specialists:
            specialist.setup_on_node()

    remote = ray.remote(num_cpus=0, max_retries=2)(fetch)
    places = [node["NodeID"] for node in nodes if node["Resources"].get("CPU")]
    strategies = [NodeAffinitySchedulingStrategy(place, soft=False) for place in places]
    try:
        ray.get([remote.options(scheduling_strategy=s).remote(list(fetching.values())) for s in strategies])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise ValueError(str(cause) if isinstance(cause, ValueError) else repr(cause)) from None


def uses_torch(job: Job) -> bool:
    """Whether an actor runs any network."""
    specialists = job.specialists.values()
    return bool(_codebooks(job)) or any(isinstance(one, Pretrained) or one.gpus > 0 for one in specialists)


def _codebooks(job: Job) -> set[str]:
    """The fitted tokenizers with networks that an actor loads."""
    return {name for output in job.outputs.values() for name in output.tokenizers} - {TEXT}


def needed(job: Job, gpu_there: bool) -> tuple[float, float, int]:
    """CPUs, GPUs and bytes of memory of one actor: the recipe's, or what its specialists and tokenizers take.

    They take turns on cores and on the GPU, so the most demanding one counts; their memory adds up. Where no node has a
    GPU the CPU serves.
    """
    specialists = list(job.specialists.values())
    cpus = job.engine.cpus or max((s.cpus for s in specialists), default=1.0)
    codebooks = _codebooks(job)
    wanted = max((s.gpus for s in specialists), default=0.0)
    wanted = max(wanted, 1.0 if codebooks else 0.0) if gpu_there else 0.0
    gpus = wanted if job.engine.gpus is None else job.engine.gpus
    # Specialists of the same weights share them.
    resident = {(getattr(s, "weights", s.label), getattr(s, "revision", None)): s.resident_gb() for s in specialists}
    records = [ledger.read(job.root, "tokenizers", name) for name in sorted(codebooks)]
    tokenizers = sum(record.bytes for record in records if record is not None)
    return cpus, gpus, int(sum(resident.values()) * 2**30) + tokenizers


def _grouped(ray: Any) -> type[_Worker]:
    """The worker with its methods in their groups of threads (the decorator needs Ray, which is imported late)."""

    class Worker(_Worker):
        @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
        def run(self, task: ShardTask) -> list[ledger.Record]:
            return super().run(task)

        @ray.method(concurrency_group="status")  # type: ignore[untyped-decorator]
        def tally(self) -> tuple[int, dict[str, int]]:
            return super().tally()

    return Worker


def _settle(ray: Any, pool: _Pool, ref: Any, outcome: Outcome, progress: Progress) -> None:
    """Take one finished task's result, whatever it is."""
    if ref not in pool.in_flight:
        return  # buried with its actor in this round
    actor, task = pool.in_flight[ref]
    try:
        outcome.records += ray.get(ref)
        del pool.in_flight[ref]
        progress.update(1)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, RejectRun):
            raise RejectRun(str(cause)) from None
        del pool.in_flight[ref]
        outcome.failures[task.shard] = str(cause) if isinstance(cause, OSError | ValueError) else repr(cause)
        progress.update(1, failures={f"shard {task.shard}": 1})
    except ray.exceptions.RayError as error:  # the actor died, or its node, or the answer was lost with it
        if "creation task" in str(error):
            # It could not load its specialists or tokenizers; the next one could not either.
            raise ValueError(f"engine: a worker could not start: {str(error).strip().splitlines()[-1]}") from None
        ray.kill(actor)
        pool.bury(actor, str(error).strip().splitlines()[-1], outcome)


def _show(ray: Any, pool: _Pool, tallies: dict[Any, Any], progress: Progress, start: float) -> None:
    """Ask the actors how far they are and show it. Actors that do not answer at once are shown as they last were."""
    refs = {actor.tally.remote(): actor for actor in pool.actors}
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0.1) if refs else ([], [])
    for ref in ready:
        try:
            tallies[refs[ref]] = ray.get(ref)
        except ray.exceptions.RayError:
            continue  # it died; `_settle` sees that
    samples = sum(tally[0] for tally in tallies.values())
    rejects: Counter[str] = Counter()
    for _, counts in tallies.values():
        rejects.update(counts)
    progress.failures = rejects
    progress.update(notes=f"{samples:,} samples, {samples / (time.monotonic() - start):,.0f} samples/s")
