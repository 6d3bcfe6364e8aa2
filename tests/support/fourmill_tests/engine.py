"""A job of the engine that has nothing to do with shards: tasks are numbers, and each is doubled.

And the engine without Ray, `inline`: the driver as it is, with actors that are objects of this process.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourmill.pipelines.engine import driver
from fourmill.pipelines.engine.calls import Call, Calls
from fourmill.pipelines.engine.job import Demand, HandsBack, Hints, NodeSetup, PlaceError, Status, StopJob
from fourmill.pipelines.engine.nodes import Nodes
from fourmill.pipelines.engine.settings import Engine


@dataclass(frozen=True)
class Fetch:
    """Leaves a file for each time that it is called."""

    folder: str

    def setup_on_node(self) -> None:
        Path(self.folder, f"fetched-{os.getpid()}").touch()


@dataclass(frozen=True)
class Doubling:
    """kills: numbers whose first attempt (every attempt with `always`) takes the actor's process down."""

    folder: str
    kills: tuple[int, ...] = ()
    always: bool = False
    broken: bool = False
    engine: Engine = field(default_factory=lambda: Engine(actors=1))

    def uses_torch(self) -> bool:
        return False

    def demand(self, gpu_there: bool) -> Demand:
        return Demand(self.engine.cpus or 1.0, 0.0, 1 << 20)

    def node_setups(self) -> list[NodeSetup]:
        return [Fetch(self.folder)]

    def advice_if_too_large(self) -> str:
        return "double less"


class Doubler:
    def __init__(self, job: Doubling) -> None:
        self.job, self.done = job, 0

    def setup(self, device: str) -> None:
        if self.job.broken:
            raise ValueError("there are no weights")

    def run(self, number: int, hints: Hints) -> int:
        with Path(self.job.folder, f"log-{number}").open("a") as log:
            log.write(f"{os.getpid()}\n")
            log.flush()
        attempts = len(Path(self.job.folder, f"log-{number}").read_text().splitlines())
        if number in self.job.kills and (self.job.always or attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 13:
            raise ValueError("13 is not doubled")
        if number == 666:
            raise StopJob("the whole job is wrong")
        self.done += 1
        return 2 * number

    def status(self) -> Status:
        return Status(self.done, Counter())


class TaskError(Exception):
    """As Ray's: the worker raised `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Dead(BaseException):
    """As Ray's RayError: the actor died. Raised by a worker, it takes the actor down: nothing on the way stops it, and
    its other threads write nothing any more."""

    happened = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        Dead.happened = True


class _Reference:
    """What came of a call."""

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error = value, error


class Actor:
    """node: one of the places of `inline`, in turn."""

    def __init__(self, worker: Any, node: str) -> None:
        self.worker, self.node = worker, node
        self.run, self.status = self, SimpleNamespace(remote=lambda: _Reference(worker.status(), None))
        self.hand_back = SimpleNamespace(remote=worker.hand_back if isinstance(worker, HandsBack) else lambda: None)

    def remote(self, task: Any, hints: Any) -> _Reference:
        Dead.happened = False
        try:
            return _Reference(self.worker.run(task, hints), None)
        except Dead as error:
            return _Reference(None, error)
        except Exception as error:
            if isinstance(error, PlaceError):
                error.node = self.node
            return _Reference(None, TaskError(error))


class _Ray:
    """What the driver asks of Ray."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=Dead)

    def __init__(self, places: int) -> None:
        holds = {"CPU": 1.0, "memory": 1e15}
        self._nodes = [{"Alive": True, "NodeID": f"node-{i}", "Resources": holds} for i in range(places)]
        self.actors: list[Actor] = []
        self.killed: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Any], list[Any]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: _Reference) -> Any:
        if ref.error is not None:
            raise ref.error
        return ref.value

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def start(self, job: Any, make_worker: Callable[[Any], Any], threads: int, shared: Any = None) -> Actor:
        worker = make_worker(pickle.loads(pickle.dumps(job)))  # as Ray does: actors share nothing
        if shared is not None:
            worker.share(lambda method, *arguments: getattr(shared, method)(*arguments))
        worker.setup("cpu")
        self.actors.append(Actor(worker, f"node-{len(self.actors) % len(self._nodes)}"))
        return self.actors[-1]


def inline(monkeypatch: pytest.MonkeyPatch, places: int = 1) -> _Ray:
    """From now on stages run here. Returns what stands for Ray, with the actors that were started and killed.

    Args:
        places: how many actors there may be at a time.
    """
    ray, note = _Ray(places), Calls.note

    def noted(calls: Calls, attempt: str, call: Call) -> None:
        if Dead.happened:
            raise Dead
        note(calls, attempt, call)

    monkeypatch.setattr(Calls, "note", noted)

    @contextmanager
    def cluster(address: str | None = None) -> Iterator[_Ray]:
        yield ray

    monkeypatch.setattr(driver, "cluster", cluster)
    monkeypatch.setattr(driver, "started_here", lambda: True)  # no autoscaler
    monkeypatch.setattr(driver, "has_meters", lambda: False)
    monkeypatch.setattr("fourmill.pipelines.engine.nodes.draining", lambda: set[str]())
    monkeypatch.setattr(driver, "start_shared", lambda _, make: make())
    monkeypatch.setattr(driver, "actor_class", lambda *_: SimpleNamespace(remote=ray.start))
    monkeypatch.setattr(driver, "Nodes", lambda ray, setups: Nodes(ray, []))
    monkeypatch.setattr(Nodes, "elsewhere", lambda *_: None)
    monkeypatch.setattr("fourmill.pipelines.engine.pool.WAIT_SECONDS", 0.0)
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    return ray
