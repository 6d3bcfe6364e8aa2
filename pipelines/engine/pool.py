"""The pool: which actor has which task, which tasks wait, and which actors are replaced.

It calls actors, and knows nothing else of Ray: tests give it plain objects.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from .actor import TASKS_AT_ONCE
from .calls import Call, Calls
from .claims import Claims
from .deaths import Deaths
from .job import Hints, PlaceError, Sign, StopJob

logger = logging.getLogger(__name__)

# As Ray says it: a node has died, or an actor was placed on one of which it was not known yet that it had.
OF_MACHINE = ("its node has died", "The actor never ran")
WAIT_SECONDS = 1.0  # times the attempts so far, before a task that met an error of the place is tried again
FATAL = ("device",)  # rows of `infra.faults` from which no process recovers
MAX_RUN = 2  # errors of the place in a row after which an actor is replaced
MOVES = 2  # to other actors beyond the attempts, to find out whether samples or actors fail
MOST_UNPROVEN = 3  # samples that each kill a worker alone, with a specialist that has never worked, until the job stops

Task = TypeVar("Task")


@dataclass
class Pool(Generic[Task]):
    """Which actor has which task, and which tasks wait. It calls actors, and knows nothing else of Ray.

    tasks: by name. pending: names of those that wait, the next one first. size: how many actors there may be.
    attempts: how often a task met an error of the place. deaths: of actors at a task, and what is known of them.
    in_flight: reference of a call -> (actor, name of its task). tried: the actors that failed at a task. suspects:
    of a task, see `Hints`. wait: until when a task is not given out. proven: actors that have done a task.
    failed_runs: errors of the place since then. retiring: actors that get no more tasks. leaving: those of them
    whose nodes are about to leave. bad_nodes: where actors were replaced. claims: of which only claimed tasks are
    given out; None where no other job can be at them. calls: what actors note of tasks at which one has died.
    works: names of what has made something of a sample. nodes: of actors.
    """

    tasks: Mapping[str, Task]
    pending: deque[str]
    size: int
    start_actor: Any  # (nodes to avoid) -> actor
    attempts_allowed: int
    stop_actor: Any = lambda actor: None
    actors: list[Any] = field(default_factory=list)
    in_flight: dict[Any, tuple[Any, str]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    deaths: dict[str, Deaths] = field(default_factory=dict)
    tried: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    suspects: defaultdict[str, set[Sign]] = field(default_factory=lambda: defaultdict(set))
    known: set[Sign] = field(default_factory=set)
    wait: dict[str, float] = field(default_factory=dict)
    bad_nodes: set[str] = field(default_factory=set)
    proven: list[Any] = field(default_factory=list)
    failed_runs: Counter[int] = field(default_factory=Counter)
    retiring: list[Any] = field(default_factory=list)
    leaving: list[Any] = field(default_factory=list)
    given_up: int = 0  # tasks in a row
    lost_places: int = 0  # that are not filled again
    claims: Claims | None = None
    calls: Calls = field(default_factory=Calls)
    works: set[str] = field(default_factory=set)
    nodes: dict[int, str] = field(default_factory=dict)  # by id(actor)
    careful: dict[str, str] = field(default_factory=dict)  # task in flight -> its attempt
    _idle: dict[int, float] = field(default_factory=dict)  # since when, by id(actor)
    _killed: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _died_on: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # nodes, by task

    def assign(self) -> None:
        """Start the actors that are missing; give each a task, and a second one while there are enough for all."""
        ready = self._ready()
        self._make_room(ready)
        busy = len({id(actor) for actor, _ in self.in_flight.values()})
        while self._places < min(self.size, len(ready) + busy):
            self._start()
        for depth in range(1, TASKS_AT_ONCE + 1):
            for actor in self.actors:
                held = self.held(actor)
                name = self._next(actor, ready)
                if name is None or len(held) >= depth or (depth > 1 and not self._may_share(held, name)):
                    continue
                ready.remove(name)
                self.pending.remove(name)
                self.in_flight[actor.run.remote(self.tasks[name], self._hints(name))] = (actor, name)

    @property
    def _places(self) -> int:
        """Those that actors have on nodes that stay."""
        return len(self.actors) - len(self.leaving)

    def _start(self) -> None:
        # Not where a task has killed an actor, if there is another node: it might be the node.
        killing = (self._died_on[name] for name in self.pending if name in self.deaths)
        self.actors.append(self.start_actor(self.bad_nodes.union(*killing)))

    def _hints(self, name: str) -> Hints:
        care = None
        if name in self.deaths:
            self.careful[name] = secrets.token_hex(8)
            care = self.deaths[name].care(self.careful[name])
        return Hints(frozenset(self.suspects[name]), frozenset(self.known), care)

    def _end(self, ref: Any) -> tuple[Any, str]:
        """An attempt has ended: its actor and its task."""
        actor, name = self.in_flight.pop(ref)
        self.calls.forget(self.careful.pop(name, ""))
        return actor, name

    def _ready(self) -> list[str]:
        """The pending tasks that this job may do. More are claimed, for all actors and as many ahead: a claim is a file
        that is written and others that are read."""
        if self.claims is None:
            return list(self.pending)
        at_work = {name for _, name in self.in_flight.values()}
        ready = self.claims.held - at_work
        if len(ready) < min(self.size, len(self.pending)):
            self.claims.take(self.pending, TASKS_AT_ONCE * self.size - len(ready))
            ready = self.claims.held - at_work
        # Not all of `pending` at each look, which would be quadratic in the tasks.
        return list(islice((name for name in self.pending if name in ready), len(ready)))

    def _leave(self, name: str) -> None:
        """A task is done, or given up."""
        if self.claims is not None:
            self.claims.release(name)

    def held(self, actor: Any) -> list[str]:
        """The tasks that an actor is at."""
        return [name for owner, name in self.in_flight.values() if owner is actor]

    def _next(self, actor: Any, ready: Sequence[str]) -> str | None:
        """The first of these tasks that an actor may have."""
        if actor in self.retiring:
            return None
        now = time.monotonic()
        for name in ready:
            new = name not in self.tried and name not in self.deaths
            if self.wait.get(name, 0.0) <= now and (new or self._may_try(actor, name)):
                return name
        return None

    def _may_try(self, actor: Any, name: str) -> bool:
        """Whether an actor may have a task that failed: another one, on a node where no actor has died at it, and one
        that is known to work, as far as there are any."""
        usable = [one for one in self.actors if one not in self.tried[name] and one not in self.retiring]
        usable = [one for one in usable if self.nodes.get(id(one)) not in self._died_on[name]] or usable
        return actor in ([one for one in usable if one in self.proven] or usable)

    def _may_share(self, held: list[str], name: str) -> bool:
        """Whether an actor with these tasks may take this one as well."""
        if len(self.pending) < len(self.actors):
            return False
        # After a crash each of the actor's tasks runs alone: only so is it clear which of them causes it.
        return not any(self.attempts[one] or one in self.deaths for one in [*held, name])

    def _make_room(self, ready: Sequence[str]) -> None:
        """See to it that there is an actor for each task that failed at all others; end retiring ones that are idle."""
        for name in [name for name in ready if name in self.tried] if self.tried else ():
            usable = [one for one in self.actors if one not in self.retiring]
            if any(one not in self.tried[name] for one in usable):
                continue
            if self._places < self.size:
                self._start()
            elif usable:
                idle = [one for one in usable if not self.held(one)]
                self.retiring.append((idle or usable)[0])
        for actor in [one for one in self.retiring if not self.held(one)]:
            self._drop(actor)
            self.stop_actor(actor)

    def _drop(self, actor: Any) -> None:
        for actors in (self.actors, self.retiring, self.leaving, self.proven):
            if actor in actors:
                actors.remove(actor)

    def succeed(self, ref: Any) -> None:
        """A task is done."""
        actor, name = self._end(ref)
        self._leave(name)
        self.deaths.pop(name, None)
        self.given_up = self.failed_runs[id(actor)] = 0
        if actor not in self.proven:
            self.proven.append(actor)

    def displace(self, ref: Any, error: PlaceError) -> dict[str, str]:
        """A task met an error of the place and goes to another actor; returned with the reason if it did too often."""
        actor, name = self._end(ref)
        self.tried[name].append(actor)
        self.suspects[name] |= error.suspects
        if error.in_doubt:  # the actor may be well, and the task is nearly done
            if len(self.tried[name]) < self.attempts_allowed + MOVES:
                self.pending.append(name)
                return {}
        else:
            self._blame(actor, error)
            self.attempts[name] += 1
            if self.attempts[name] < self.attempts_allowed:
                if error.fault not in ("", *FATAL):  # time may help
                    self.wait[name] = time.monotonic() + self.attempts[name] * WAIT_SECONDS
                self.pending.append(name)
                logger.warning("attempt %d of %d: %s", self.attempts[name], self.attempts_allowed, error)
                return {}
        self._leave(name)
        self.given_up += 1
        logger.error("task %s is given up: %s", name, error)
        return {name: f"tried {len(self.tried[name])} times: {error}"}

    def _blame(self, actor: Any, error: PlaceError) -> None:
        """Replace an actor whose device failed, or that had a run of errors."""
        self.failed_runs[id(actor)] += 1
        if actor in self.retiring or (error.fault not in FATAL and self.failed_runs[id(actor)] < MAX_RUN):
            return
        self.retiring.append(actor)
        if error.node:
            self.bad_nodes.add(error.node)
        # What replaces it may get the same accelerator: a place that never did anything is not filled again.
        if actor not in self.proven and any(one not in self.retiring for one in self.proven) and self.size > 1:
            self._lose_place()
            logger.warning("a place is given up, %d actors are left: %s", self.size, error)
        else:
            logger.warning("an actor is replaced: %s", error)

    def lose_place(self, actor: Any, reason: str) -> bool:
        """An actor could not start: go on without it, if others have shown that they can work. Else False."""
        if not self.proven:
            return False
        self._lose_place()
        self._take_back(actor)
        logger.warning("an actor could not start, %d are left: %s", self.size, reason)
        return True

    def _lose_place(self) -> None:
        if self.size > 1:
            self.lost_places += 1
            self.size -= 1

    def _take_back(self, actor: Any) -> None:
        """Drop an actor whose tasks are not to blame for that."""
        self._drop(actor)
        for ref, (owner, name) in list(self.in_flight.items()):
            if owner is actor:
                self._end(ref)
                self.pending.appendleft(name)

    def resize(self, places: int, started: Collection[Any]) -> None:
        """The cluster has so many places for actors now. Those that have not started and have no place are dropped.

        Args:
            started: actors that have answered, which have a place as long as they live.
        """
        self.size = max(0, places - self.lost_places)
        for actor in [one for one in self.actors if one not in started][::-1]:
            if self._places > self.size:
                self._take_back(actor)
                self.stop_actor(actor)

    def leave(self, nodes: Collection[str]) -> list[Any]:
        """Actors on these nodes get no more tasks. Returns those that are to hand back what they have."""
        new = [one for one in self.actors if self.nodes.get(id(one)) in nodes and one not in self.leaving]
        self.leaving += new
        self.retiring += [one for one in new if one not in self.retiring]
        return new

    def spare(self, seconds: float) -> None:
        """End actors that have had nothing to do for so long, so that a cluster may give their nodes back."""
        now, held = time.monotonic(), {id(actor) for actor, _ in self.in_flight.values()}
        idle = [] if self.pending else [one for one in self.actors if id(one) not in held]
        self._idle = {id(one): self._idle.get(id(one), now) for one in idle}
        for actor in [one for one in idle if now - self._idle[id(one)] >= seconds]:
            self._drop(actor)
            self.stop_actor(actor)

    def lacking(self, most: int | None) -> int:
        """For how many more actors there is work.

        Args:
            most: actors that there may be; None for as many as there are tasks.
        """
        tasks = len(self.pending) + len(self.in_flight)
        return min(most or tasks, tasks) - self.lost_places - self.size

    def hand_back(self, ref: Any) -> None:
        """A task was not done to its end by an actor whose node is about to leave: the next one goes on with it."""
        _, name = self._end(ref)
        self.pending.appendleft(name)

    def fail(self, ref: Any) -> None:
        """A task raised an error of its own."""
        _, name = self._end(ref)
        self._leave(name)

    def requeue(self, actor: Any, reason: str, of_machine: bool = False) -> dict[str, str]:
        """Drop a dead actor and requeue its tasks; returns those that are given up, with the reason.

        Args:
            of_machine: its node was lost or taken back, or cannot be reached: that says nothing of its tasks.

        Raises:
            StopJob: a specialist kills the worker of every sample.
        """
        if of_machine or any(said in reason for said in OF_MACHINE):
            logger.warning("a node died; requeued is %s: %s", " and ".join(self.held(actor)) or "nothing", reason)
            self._take_back(actor)
            return {}
        self._drop(actor)
        failed = {}
        for ref, (owner, name) in list(self.in_flight.items()):
            if owner is not actor:
                continue
            call = self.calls.read(self.careful.get(name, ""))
            self._end(ref)
            deaths = self.deaths.setdefault(name, Deaths(self.attempts_allowed))
            deaths.add(call)
            self._died_on[name] |= {node} if (node := self.nodes.get(id(actor))) else set()
            self._check_proven(name, call, reason)
            if why := deaths.why_hopeless(reason):
                failed[name] = why
                self._leave(name)
                self.given_up += 1
                logger.error("task %s failed: %s", name, why)
            else:
                self.pending.append(name)
                logger.warning("an actor died at the task %s (%s): %s", name, reason, deaths)
        return failed

    def _check_proven(self, task: str, call: Call | None, reason: str) -> None:
        """StopJob if what killed kills at each sample, as far as it was tried with one alone."""
        if call is None:
            return
        self.works |= {call.spot.name} if call.worked else set()
        if call.spot.size > 1 or call.spot.name in self.works:
            return
        killed = self._killed[call.spot.name]
        killed.add(call.spot.key)
        if len(killed) >= MOST_UNPROVEN:
            raise StopJob(
                f"{call.spot.name}: its worker died at each of {len(killed)} samples that it had alone, the last in "
                f"shard {task}, key {call.spot.key}, and it has worked at none: {reason}. Look at what makes it (its "
                "weights, memory, native libraries), and run the same command again"
            )
