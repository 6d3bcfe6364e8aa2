"""The driver of the engine: schedules tasks on Ray actors, requeues the tasks of an actor that died, collects results.

It takes any job with tasks (see `job.Job`). Nothing here may change a result: that is a function of job and task alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from ...infra.cluster import cluster, has_meters, started_here
from ...infra.progress import Progress
from ...infra.secrets import hide
from . import access
from .actor import actor_class, start_shared
from .calls import Calls
from .claims import Claims
from .job import Demand, HandedBack, Job, PlaceError, Status, StopJob, Worker
from .meters import Meters
from .nodes import Nodes
from .pool import Pool, Task
from .resources import no_place, places
from .room import GROW_SECONDS, Room

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SAY_SECONDS = 30.0  # between two lines that say why nothing goes on
NO_ROOM = "no node of the cluster has room; waiting for one"
IDLE_SECONDS = 60.0  # that an actor without a task is kept on a cluster
ELSEWHERE = "another job is at what is left; waiting for it"
SAID_SHARE = 0.2  # of the time that workers wait, from which it is said
STATUS_SECONDS = 0.1  # that actors have to say how far they are at the end
MAX_GIVEN_UP = 10  # tasks in a row that are given up, for errors of the place or deaths, until the job stops
GUESSES = " Some common causes include"  # of Ray, at the end of every such reason
# Of Ray, beside a node that has died: the actor may live, or what it gave was lost on the way.
OF_MACHINE = frozenset({"ActorUnavailableError", "NodeDiedError", "ObjectLostError"})

Result = TypeVar("Result")
AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass
class Outcome(Generic[Result]):
    """Results and failures, with the reason, by the names of their tasks.

    ready_seconds: of `seconds`, those until actors were ready, the mean of all that were started.
    """

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    ready_seconds: float = 0.0


def run(
    job: AnyJob,
    make_worker: Callable[[AnyJob], Worker[Task, Result]],
    tasks: Mapping[str, Task],
    stage: str,
    unit: str,
    root: str = "",
    sample: str = "",
    shared: Callable[[], Any] | None = None,
    taken: Callable[[Result], Result] | None = None,
) -> Outcome[Result]:
    """Do all tasks on the cluster.

    Args:
        make_worker: called with the job in each actor's process; a class or function of a module, since it is pickled.
        tasks: by name; the names stand in logs and in `Outcome`.
        stage: the verb, for the progress line. unit: what a task is, in the plural ("shards").
        root: of tasks that another job may be at as well, see `Claims`; "" for none.
        sample: a file that tasks read; whether every node reaches it and the root is asked first.
        shared: makes an object that all workers may call; each gets `share(call)` before `setup`, and what
            `call(method, *arguments)` returns comes from the one object.
        taken: makes of each result what is kept of it until the end: results of all tasks are in memory then.

    Raises:
        StopJob: raised by a worker, or too many tasks in a row met errors of the place; results of tasks that were done
            before are lost, what they wrote stays.
        ValueError: an actor fits on no node, and none comes; it cannot start; a node is unlike the driver, or has no
            access.
    """
    outcome: Outcome[Result] = Outcome()
    if not tasks:
        return outcome
    start = time.monotonic()
    claiming = Claims(root) if root else nullcontext()
    with cluster(job.engine.address) as ray, claiming as claims, Progress(stage, len(tasks), unit) as progress:
        reach = access.asked(root, sample, started_here()) if root else ()
        # First, since the sizes of files that are here say what an actor takes.
        nodes = Nodes(ray, [*reach, *job.node_setups()])
        demand = job.demand(any(node.get("GPU") for node in nodes.resources()))
        common = start_shared(ray, shared) if shared else None
        pool = _pool(ray, job, make_worker, tasks, nodes, demand, common)
        pool.claims, pool.calls = claims, Calls(root)
        room = None if started_here() else Room(ray, demand.as_ray())
        meters = Meters(stage, root) if has_meters() else None
        status: dict[Any, Status] = {}
        asked, said = _Asked(status), 0.0
        keep: Callable[[Result], Result] = taken or (lambda result: result)
        try:
            while pool.pending or pool.in_flight:
                if room is not None:
                    room.ask(pool.lacking(job.engine.actors))
                    pool.spare(IDLE_SECONDS)
                if nodes.have_changed():
                    pool.resize(_places(job, nodes, demand, len(tasks)), status)
                    logger.warning(
                        "the cluster has %d nodes, and room for %d actors", len(nodes.resources()), pool.size
                    )
                _let_go(pool, nodes, progress)
                waiting = next((one.waiting for one in status.values() if one.waiting), "")
                if not waiting:  # what is made could not be kept
                    pool.assign()
                said = _say(progress, waiting, said)
                if not pool.in_flight:  # all that is left waits a little
                    if not (pool.size or status) and time.monotonic() - start > GROW_SECONDS:
                        raise ValueError(no_place(nodes.resources(), demand, job.advice_if_too_large()))
                    progress.update(notes=(ELSEWHERE if pool.pending and claims else "") if pool.size else NO_ROOM)
                    time.sleep(POLL_SECONDS)
                    asked.look(ray, pool)  # what was waited for may be there
                    continue
                ready, _ = ray.wait([*pool.in_flight, *asked.new()], num_returns=1, timeout=POLL_SECONDS)
                for ref in ready:
                    _handle_result(ray, pool, nodes, ref, outcome, progress, keep)
                asked.look(ray, pool)
                _tell(progress, meters, pool, _Far.of(status, start), outcome)
            asked.look_last(ray, pool)
            _tell(progress, meters, pool, _Far.of(status, start), outcome)
        finally:
            if room is not None:
                room.close()
            for actor in (*pool.actors, *([common] if common else [])):
                ray.kill(actor)
            for attempt in pool.careful.values():
                pool.calls.forget(attempt)
    outcome.failures = {name: hide(why) for name, why in outcome.failures.items()}
    outcome.seconds = time.monotonic() - start
    if asked.ready:
        outcome.ready_seconds = sum(asked.ready) / len(asked.ready) - start
    return outcome


def _places(job: Job, nodes: Nodes, demand: Demand, tasks: int) -> int:
    """How many actors there may be: no more than fit, since Ray lets one that cannot be placed wait for ever."""
    fits = places(nodes.resources(), demand)
    return min(job.engine.actors or fits, fits, tasks)


def _pool(
    ray: Any,
    job: AnyJob,
    make_worker: Callable[[AnyJob], Worker[Task, Result]],
    tasks: Mapping[str, Task],
    nodes: Nodes,
    demand: Demand,
    shared: Any = None,
) -> Pool[Task]:
    size = _places(job, nodes, demand, len(tasks))
    if size < 1 and not nodes.may_grow():
        raise ValueError(no_place(nodes.resources(), demand, job.advice_if_too_large()))
    logger.info("%d tasks on %d actors of %s, on %d nodes", len(tasks), size, demand, len(nodes.resources()))
    remote, threads = actor_class(ray, demand), max(1, int(demand.cpus))

    def start(avoid: set[str]) -> Any:
        placed = remote.options(scheduling_strategy=strategy) if (strategy := nodes.elsewhere(avoid)) else remote
        return placed.remote(job, make_worker, threads, shared)

    return Pool(tasks, deque(tasks), size, start, job.engine.attempts, ray.kill)


def _handle_result(
    ray: Any,
    pool: Pool[Task],
    nodes: Nodes,
    ref: Any,
    outcome: Outcome[Result],
    progress: Progress,
    keep: Callable[[Result], Result],
) -> None:
    """Note what became of one call: a result, a task that failed, or an actor that died."""
    if ref not in pool.in_flight:
        return  # its actor died in this round, and the task is requeued
    actor, name = pool.in_flight[ref]
    try:
        outcome.results[name] = keep(ray.get(ref))
        pool.succeed(ref)
        progress.update(1)
    except ray.exceptions.RayTaskError as error:  # the worker raised; its actor lives on
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, StopJob):
            raise cause from None
        if isinstance(cause, HandedBack):
            pool.hand_back(ref)
            return
        if isinstance(cause, PlaceError):
            given_up = pool.displace(ref, cause)
            outcome.failures |= given_up
            progress.update(len(given_up))
            _check_given_up(pool, progress, str(cause))
            return
        pool.fail(ref)
        outcome.failures[name] = str(cause) if isinstance(cause, OSError | ValueError) else repr(cause)
        logger.error("task %s failed: %s", name, outcome.failures[name])
        progress.update(1)
    except ray.exceptions.RayError as error:  # the actor died, or its node, or the result was lost with it
        reason = str(error).strip().splitlines()[-1].partition(GUESSES)[0]
        if "creation task" in str(error):
            if pool.lose_place(actor, reason):
                return
            # It could not load what it needs; the next one could not either.
            raise ValueError(f"engine: a worker could not start: {reason}") from None
        ray.kill(actor)
        failed = pool.requeue(actor, reason, _of_machine(error) or nodes.is_leaving(pool.nodes.get(id(actor), "")))
        outcome.failures |= failed
        progress.update(len(failed))
        _check_given_up(pool, progress, reason)


def _let_go(pool: Pool[Task], nodes: Nodes, progress: Progress) -> None:
    """Have actors on nodes that are about to leave hand back their tasks."""
    for actor in pool.leave(nodes.leaving) if nodes.leaving else ():
        names = " and ".join(pool.held(actor)) or "nothing"
        progress.say(f"a node is about to leave the cluster; what goes on elsewhere: {names}")
        actor.hand_back.remote()


def _of_machine(error: BaseException) -> bool:
    """Whether an actor is lost for a reason of its machine or network, and not by its own death."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(getattr(error, "preempted", False)) or bool(names & OF_MACHINE)


def _check_given_up(pool: Pool[Task], progress: Progress, reason: str) -> None:
    """StopJob if so many tasks in a row could not be done that no other would go better."""
    if pool.given_up >= MAX_GIVEN_UP:
        raise StopJob(f"{pool.given_up} {progress.unit} in a row could not be done, the last: {reason}") from None


def _say(progress: Progress, waiting: str, said: float) -> float:
    """Say what is waited for, every so often. Returns when it was said last, 0 if nothing is waited for."""
    now = time.monotonic()
    if waiting and (not said or now - said >= SAY_SECONDS):
        progress.say(waiting)
        return now
    return said if waiting else 0.0


@dataclass
class _Asked:
    """Actors are asked how far they are, from time to time, and nothing waits for what they say: on a result the next
    task follows at once, however many actors there are.

    status: what each has said last. ready: when each answered first, by `time.monotonic`.
    """

    status: dict[Any, Status]
    ready: list[float] = field(default_factory=list)
    _open: dict[Any, Any] = field(default_factory=dict)  # reference of a question -> the actor
    _next: float = 0.0

    def new(self) -> list[Any]:
        """Questions to actors that have never answered, which do once they are ready."""
        return [ref for ref, actor in self._open.items() if actor not in self.status]

    def look_last(self, ray: Any, pool: Pool[Task]) -> None:
        """All is done: what is said at the end is of all of it."""
        self.look(ray, pool)
        self._next = 0.0
        self.look(ray, pool, STATUS_SECONDS)

    def look(self, ray: Any, pool: Pool[Task], seconds: float = 0.0) -> None:
        """Note the answers that are there, or come within so many seconds, and ask those again that have answered."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + POLL_SECONDS
            there, silent = set(map(id, pool.actors)), set(map(id, self._open.values()))
            for gone in [actor for actor in self.status if id(actor) not in there]:
                self.status[gone] = replace(self.status[gone], waiting="")
            self._open |= {actor.status.remote(): actor for actor in pool.actors if id(actor) not in silent}
        refs = list(self._open)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=seconds) if refs else ([], [])
        for ref in ready:
            actor = self._open.pop(ref)
            try:
                said = ray.get(ref)
            except ray.exceptions.RayError:
                continue  # it died; `_handle_result` sees that
            if actor not in self.status:
                self.ready.append(time.monotonic())
            self.status[actor] = said
            pool.known |= said.known
            pool.works |= said.works
            pool.nodes[id(actor)] = said.node


@dataclass(frozen=True)
class _Far:
    """How far all workers are together: samples, how many a second, rejects by reason.

    waits: the mean share of their time that workers wait, by what for.
    """

    samples: int
    rate: float
    rejects: Counter[str]
    waits: dict[str, float]

    @classmethod
    def of(cls, status: Mapping[Any, Status], start: float) -> _Far:
        waits, rejects = Counter[str](), Counter[str]()
        for one in status.values():
            waits.update(dict(one.shares))
            rejects.update(one.rejects)
        samples = sum(one.samples for one in status.values())
        shares = {what: total / len(status) for what, total in waits.items()}
        return cls(samples, samples / (time.monotonic() - start), rejects, shares)


def _tell(progress: Progress, meters: Meters | None, pool: Pool[Task], far: _Far, outcome: Outcome[Any]) -> None:
    """Say how far the job is, to who looks at the terminal and to Ray's metrics."""
    progress.failures = far.rejects
    notes = [f"{far.samples:,} samples, {far.rate:,.0f} samples/s"]
    notes += [f"waits for {what} {share:.0%} of the time" for what, share in far.waits.items() if share > SAID_SHARE]
    progress.update(notes=", ".join(notes))
    if meters is not None:
        meters.tasks(len(pool.pending), len(pool.in_flight), len(outcome.results), len(outcome.failures))
        meters.show("workers", len(pool.actors))
        meters.samples(far.samples, far.rate, far.rejects, far.waits)
