"""The driver of the engine: schedules tasks on Ray actors, requeues the tasks of an actor that died, collects results.

It takes any job with tasks (see `job.Job`). Nothing here may change a result: that is a function of job and task alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...infra.cluster import cluster
from ...infra.progress import Progress
from .actor import TASKS_AT_ONCE, actor_class, set_up_nodes
from .job import Job, Status, StopJob, Worker
from .resources import no_place, places

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
STATUS_SECONDS = 0.1  # that actors have to say how far they are

Task = TypeVar("Task")
Result = TypeVar("Result")
AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass
class Outcome(Generic[Result]):
    """Results and failures, with the reason, by the names of their tasks.

    ready_seconds: of `seconds`, those until the first actor was ready.
    """

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    ready_seconds: float = 0.0


@dataclass
class Pool(Generic[Task]):
    """Which actor has which task, and which tasks wait. It calls actors, and knows nothing else of Ray.

    tasks: by name. pending: names of those that wait, the next one first. size: how many actors there may be.
    attempts: how often a task died with its actor. in_flight: reference of a call -> (actor, name of its task).
    """

    tasks: Mapping[str, Task]
    pending: deque[str]
    size: int
    start_actor: Any  # () -> actor
    attempts_allowed: int
    actors: list[Any] = field(default_factory=list)
    in_flight: dict[Any, tuple[Any, str]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)

    def assign(self) -> None:
        """Start the actors that are missing; give each a task, and a second one while there are enough for all."""
        busy = len({id(actor) for actor, _ in self.in_flight.values()})
        while len(self.actors) < min(self.size, len(self.pending) + busy):
            self.actors.append(self.start_actor())
        for depth in range(1, TASKS_AT_ONCE + 1):
            for actor in self.actors:
                held = self.held(actor)
                if not self.pending or len(held) >= depth or (depth > 1 and not self._may_share(held)):
                    continue
                name = self.pending.popleft()
                self.in_flight[actor.run.remote(self.tasks[name])] = (actor, name)

    def held(self, actor: Any) -> list[str]:
        """The tasks that an actor is at."""
        return [name for owner, name in self.in_flight.values() if owner is actor]

    def _may_share(self, held: list[str]) -> bool:
        """Whether an actor with these tasks may take the next one as well."""
        if len(self.pending) < len(self.actors):
            return False
        # After a crash each of the actor's tasks runs alone: only so is it clear which of them causes it.
        return not any(self.attempts[name] for name in [*held, self.pending[0]])

    def requeue(self, actor: Any, reason: str) -> dict[str, str]:
        """Drop a dead actor and requeue its tasks; returns those that crashed too often, with the reason."""
        if actor in self.actors:
            self.actors.remove(actor)
        failed = {}
        for ref, (owner, name) in list(self.in_flight.items()):
            if owner is not actor:
                continue
            del self.in_flight[ref]
            self.attempts[name] += 1
            if self.attempts[name] >= self.attempts_allowed:
                failed[name] = f"its worker died {self.attempts_allowed} times: {reason}"
                logger.error("task %s failed: %s", name, failed[name])
            else:
                self.pending.append(name)
                logger.warning(
                    "an actor died, attempt %d of %d; task %s is requeued: %s",
                    self.attempts[name], self.attempts_allowed, name, reason,
                )  # fmt: skip
        return failed


def run(
    job: AnyJob, make_worker: Callable[[AnyJob], Worker[Task, Result]], tasks: Mapping[str, Task], stage: str, unit: str
) -> Outcome[Result]:
    """Do all tasks on the cluster.

    Args:
        make_worker: called with the job in each actor's process; a class or function of a module, since it is pickled.
        tasks: by name; the names stand in logs and in `Outcome`.
        stage: the verb, for the progress line. unit: what a task is, in the plural ("shards").

    Raises:
        StopJob: raised by a worker; results of tasks that were done before are lost, what they wrote stays.
        ValueError: an actor fits on no node, or cannot start.
    """
    outcome: Outcome[Result] = Outcome()
    if not tasks:
        return outcome
    start = time.monotonic()
    with cluster(job.engine.address) as ray, Progress(stage, len(tasks), unit) as progress:
        pool = _start(ray, job, make_worker, tasks)
        status: dict[Any, Status] = {}
        try:
            while pool.pending or pool.in_flight:
                pool.assign()
                ready, _ = ray.wait(list(pool.in_flight), num_returns=1, timeout=POLL_SECONDS)
                for ref in ready:
                    _handle_result(ray, pool, ref, outcome, progress)
                _show(ray, pool, status, progress, start)
                if status and not outcome.ready_seconds:
                    outcome.ready_seconds = time.monotonic() - start
        finally:
            for actor in pool.actors:
                ray.kill(actor)
    outcome.seconds = time.monotonic() - start
    return outcome


def _start(
    ray: Any, job: AnyJob, make_worker: Callable[[AnyJob], Worker[Task, Result]], tasks: Mapping[str, Task]
) -> Pool[Task]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    set_up_nodes(ray, job.node_setups(), nodes)  # first, since the sizes of files that are here say what an actor takes
    resources = [node["Resources"] for node in nodes]
    demand = job.demand(any(node.get("GPU") for node in resources))
    fits = places(resources, demand)
    if fits < 1:
        raise ValueError(no_place(resources, demand, job.advice_if_too_large()))
    # No more than fit: Ray lets an actor that cannot be placed wait for ever, without an error.
    size = min(job.engine.actors or fits, fits, len(tasks))
    logger.info("%d tasks on %d actors of %s, on %d nodes", len(tasks), size, demand, len(nodes))
    remote, threads = actor_class(ray, demand), max(1, int(demand.cpus))
    return Pool(tasks, deque(tasks), size, lambda: remote.remote(job, make_worker, threads), job.engine.attempts)


def _handle_result(ray: Any, pool: Pool[Task], ref: Any, outcome: Outcome[Result], progress: Progress) -> None:
    """Note what became of one call: a result, a task that failed, or an actor that died."""
    if ref not in pool.in_flight:
        return  # its actor died in this round, and the task is requeued
    actor, name = pool.in_flight[ref]
    try:
        outcome.results[name] = ray.get(ref)
        del pool.in_flight[ref]
        progress.update(1)
    except ray.exceptions.RayTaskError as error:  # the worker raised; its actor lives on
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, StopJob):
            raise cause from None
        del pool.in_flight[ref]
        outcome.failures[name] = str(cause) if isinstance(cause, OSError | ValueError) else repr(cause)
        logger.error("task %s failed: %s", name, outcome.failures[name])
        progress.update(1)
    except ray.exceptions.RayError as error:  # the actor died, or its node, or the result was lost with it
        reason = str(error).strip().splitlines()[-1]
        if "creation task" in str(error):
            # It could not load what it needs; the next one could not either.
            raise ValueError(f"engine: a worker could not start: {reason}") from None
        ray.kill(actor)
        outcome.failures |= pool.requeue(actor, reason)


def _show(ray: Any, pool: Pool[Task], status: dict[Any, Status], progress: Progress, start: float) -> None:
    """Ask the actors how far they are and show it. One that does not answer at once is shown as it last was."""
    refs = {actor.status.remote(): actor for actor in pool.actors}
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=STATUS_SECONDS) if refs else ([], [])
    for ref in ready:
        try:
            status[refs[ref]] = ray.get(ref)
        except ray.exceptions.RayError:
            continue  # it died; `_handle_result` sees that
    samples = sum(one.samples for one in status.values())
    progress.failures = sum((one.rejects for one in status.values()), Counter())
    progress.update(notes=f"{samples:,} samples, {samples / (time.monotonic() - start):,.0f} samples/s")
