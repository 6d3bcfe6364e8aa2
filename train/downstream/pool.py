"""A trained model at work on a cluster: each actor loads it once, and makes parts.

Parts are chunks of an evaluation's answers, or chains of a generation: one that is there is whole, so that a run that
was killed goes on, and a part that two actors made is the same. Vectors of a retrieval are sent back instead. Without a
cluster, and with one GPU at most, the command works by itself: an actor would take longer to start than most of it
takes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from ...infra import cluster, storage
from ...modalities import Declares, import_modules
from ...pipelines.engine import driver
from ...pipelines.engine.job import Demand, HandedBack, Hints, NodeSetup, Status
from ...pipelines.engine.settings import Engine

_GIB = 2**30

Of = TypeVar("Of")
Task = TypeVar("Task")
Part = TypeVar("Part", bound=int | Sized)


@dataclass(frozen=True)
class Where:
    """Where work is done: the section `engine` of a recipe, and the user's own modules and
    sensors, which actors declare."""

    engine: Engine = field(default_factory=Engine)
    modules: tuple[str | Declares, ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether there is more than this process can use."""
        return bool(cluster.address_of(self.engine.address)) or torch.cuda.device_count() > 1


HERE = Where()


@dataclass(frozen=True)
class ModelJob(Generic[Of]):
    """What actors need to know.

    of: the generation or evaluation. weights: the folder of the run whose model they load.
    """

    of: Of
    weights: str
    where: Where

    @property
    def engine(self) -> Engine:
        return self.where.engine

    def demand(self, gpu_there: bool) -> Demand:
        gpus = float(gpu_there) if self.engine.gpus is None else self.engine.gpus
        sizes = storage.list_below(storage.join(self.weights, "model"))
        # The weights as they are read and as they are used, torch and the activations of a batch.
        return Demand(self.engine.cpus or 1.0, gpus, 2 * sum(sizes.values()) + 2 * _GIB)

    def uses_torch(self) -> bool:
        return True

    def node_setups(self) -> tuple[NodeSetup, ...]:
        return ()

    def advice_if_too_large(self) -> str:
        return "use machines with more memory: each actor holds the whole model"


class ModelWorker(Generic[Of, Task, Part]):
    """Base of what an actor does with the model: subclasses load in `setup` and make a part in `make`."""

    def __init__(self, job: ModelJob[Of]) -> None:
        import_modules(job.where.modules)
        self.job, self.of = job, job.of
        self._done = 0
        self._lock, self._leaving = threading.Lock(), threading.Event()

    def setup(self, device: str) -> None:
        """Load the model onto a device."""
        raise NotImplementedError

    def make(self, task: Task) -> Part:
        """Make a part; what is put into the root is the number of its samples."""
        raise NotImplementedError

    def hand_back(self) -> None:
        self._leaving.set()

    def run(self, task: Task, hints: Hints) -> Part:
        with self._lock:  # the engine calls from two threads, and the model is one
            if self._leaving.is_set():
                raise HandedBack("its node is about to leave")
            made = self.make(task)
        self._done += made if isinstance(made, int) else len(made)
        return made

    def status(self) -> Status:
        return Status(self._done, Counter())


def make(
    job: ModelJob[Of],
    worker: Callable[[ModelJob[Of]], ModelWorker[Of, Any, Part]],
    tasks: Mapping[str, Any],
    stage: str,
    unit: str,
) -> dict[str, Part]:
    """Let actors make all parts; returns them by the names of their tasks. ValueError if one could not be made; says
    why."""
    done = driver.run(job, worker, tasks, stage, unit)
    if done.failures:
        name, why = next(iter(done.failures.items()))
        raise ValueError(f"{stage}: {len(done.failures)} of {len(tasks)} {unit} could not be made; {name}: {why}")
    return done.results
