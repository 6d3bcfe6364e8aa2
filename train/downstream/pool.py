"""A trained model at work on a cluster: each actor loads it once, and makes parts that it puts into the root.

Parts are chunks of an evaluation's answers, or chains of a generation. One that is there is whole, so that a run that
was killed goes on, and a part that two actors made is the same. Without a cluster, and with one GPU at most, the
command works by itself: an actor would take longer to start than most of it takes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from ...infra import cluster, storage
from ...modalities import Declares, import_modules
from ...pipelines.engine import driver
from ...pipelines.engine.job import Demand, Hints, NodeSetup, Status
from ...pipelines.engine.settings import Engine

_GIB = 2**30

Of = TypeVar("Of")
Task = TypeVar("Task")


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


class ModelWorker(Generic[Of, Task]):
    """Base of what an actor does with the model: subclasses load in `setup` and make a part in `make`."""

    def __init__(self, job: ModelJob[Of]) -> None:
        import_modules(job.where.modules)
        self.job, self.of = job, job.of
        self._done = 0
        self._lock = threading.Lock()

    def setup(self, device: str) -> None:
        """Load the model onto a device."""
        raise NotImplementedError

    def make(self, task: Task) -> int:
        """Put a part into the root; returns how many samples it has."""
        raise NotImplementedError

    def run(self, task: Task, hints: Hints) -> int:
        with self._lock:  # the engine calls from two threads, and the model is one
            made = self.make(task)
        self._done += made
        return made

    def status(self) -> Status:
        return Status(self._done, Counter())


def make(
    job: ModelJob[Of],
    worker: Callable[[ModelJob[Of]], ModelWorker[Of, Any]],
    tasks: Mapping[str, Any],
    stage: str,
    unit: str,
) -> None:
    """Let actors make all parts. ValueError if one could not be made; says why."""
    done = driver.run(job, worker, tasks, stage, unit)
    if done.failures:
        name, why = next(iter(done.failures.items()))
        raise ValueError(f"{stage}: {len(done.failures)} of {len(tasks)} {unit} could not be made; {name}: {why}")
