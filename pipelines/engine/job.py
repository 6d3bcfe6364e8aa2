"""What the engine asks of jobs and workers. They know nothing of Ray, and the engine nothing of what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .settings import Engine

Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class StopJob(RuntimeError):
    """Raised by a worker when no other task would go better: the driver stops the whole job with this error."""


@dataclass(frozen=True)
class Demand:
    """What one actor takes of its node: CPUs, GPUs (fractions of one too), and memory in bytes."""

    cpus: float
    gpus: float
    memory: int

    def as_ray(self) -> dict[str, float]:
        """By the names that Ray gives to the resources of a node."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}


@dataclass(frozen=True)
class Status:
    """How far a worker is: samples done, and rejects by reason."""

    samples: int
    rejects: Counter[str]


class Worker(Protocol[Task_contra, Result_co]):
    """What an actor runs. `run` is called from two threads, so that one task reads while the other computes."""

    def setup(self, device: str) -> None:
        """Load what all tasks need onto `device` ("cpu", "cuda"). Called once."""

    def run(self, task: Task_contra) -> Result_co:
        """Do one task. OSError and ValueError fail this task alone, with their text as the reason; StopJob ends all."""

    def status(self) -> Status:
        """Called from another thread while tasks run."""


class NodeSetup(Protocol):
    def setup_on_node(self) -> None:
        """Fetch files onto this machine. Called once for each node, before its actors start."""


class Job(Protocol):
    """Everything that actors need to know. It is pickled once for each actor, so it holds plain values alone."""

    @property
    def engine(self) -> Engine: ...

    def demand(self, gpu_there: bool) -> Demand:
        """What one actor takes. `gpu_there`: whether any node has a GPU."""

    def uses_torch(self) -> bool:
        """Whether a worker runs networks: torch takes seconds to import, and needs its threads set."""

    def node_setups(self) -> Sequence[NodeSetup]:
        """What is fetched onto each node before its actors start."""

    def advice_if_too_large(self) -> str:
        """What a user can do if an actor fits on no node."""
