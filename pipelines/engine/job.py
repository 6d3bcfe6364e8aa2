"""What the engine asks of jobs and workers. They know nothing of Ray, and the engine nothing of what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from ...infra import faults
from .calls import Spot
from .settings import Engine

Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class StopJob(RuntimeError):
    """Raised by a worker when no other task would go better: the driver stops the whole job with this error."""


Sign = tuple[str, str]  # (label, key) of a sample under suspicion; (label, class of the reason) of an error


class PlaceError(RuntimeError):
    """Raised by a worker when its place failed, or may have: the driver gives the task to another actor.

    fault: the row of `infra.faults`, "" if it is unknown. suspects: samples that failed here: the next actor decides
    whether it was them or this place. in_doubt: the task was done but for them. node: where it happened.
    """

    def __init__(
        self, reason: str, fault: str = "", suspects: frozenset[Sign] = frozenset(), in_doubt: bool = False
    ) -> None:
        super().__init__(reason, fault, suspects, in_doubt)  # all of them, so that it can be pickled
        self.reason, self.fault, self.suspects, self.in_doubt = reason, fault, suspects, in_doubt
        self.node = ""

    def __str__(self) -> str:
        return self.reason

    @classmethod
    def of(cls, error: BaseException, where: str, suspects: frozenset[Sign] = frozenset()) -> PlaceError:
        """An error of the place, or an unknown one, with where it was met."""
        said = f"{where}: {type(error).__name__}: {faults.sentence(error)}"
        return cls(said, faults.name(error), suspects)


class HandedBack(PlaceError):
    """Raised by a worker that was asked to hand back its tasks: what is made of this one is kept, others go on."""


@dataclass(frozen=True)
class Care:
    """How a task is done at which a worker died: one call at a time, each noted before it, see deaths.py.

    attempt: the name of the note. spots: where workers died: their samples come in smaller calls first.
    apart: their samples come one by one. killers: samples that come in no call, and how many workers each has killed.
    """

    attempt: str
    spots: tuple[Spot, ...] = ()
    apart: tuple[Spot, ...] = ()
    killers: tuple[tuple[Sign, int], ...] = ()


@dataclass(frozen=True)
class Hints:
    """What other actors have found.

    suspects: samples of this task that failed at another actor. known: errors that have followed a sample from one
    actor to another, so that they are the sample's. care: of a task at which a worker died.
    """

    suspects: frozenset[Sign] = frozenset()
    known: frozenset[Sign] = frozenset()
    care: Care | None = None


NO_HINTS = Hints()


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
    """How far a worker is: samples done, and rejects by reason.

    known: errors that it knows to be of samples, see `Hints`. waiting: what it waits for, "" if it works.
    works: names of specialists, codecs, ... that have made something of a sample. node: where it runs.
    shares: of the time that it worked, by what it waited for ("images").
    """

    samples: int
    rejects: Counter[str]
    known: frozenset[Sign] = frozenset()
    waiting: str = ""
    works: frozenset[str] = frozenset()
    node: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)


class Worker(Protocol[Task_contra, Result_co]):
    """What an actor runs. `run` is called from two threads, so that one task reads while the other computes."""

    def setup(self, device: str) -> None:
        """Load what all tasks need onto `device` ("cpu", "cuda"). Called once."""

    def run(self, task: Task_contra, hints: Hints) -> Result_co:
        """Do one task. OSError and ValueError fail this task alone, with their text as the reason; PlaceError sends it
        to another actor; StopJob ends all."""

    def status(self) -> Status:
        """Called from another thread while tasks run."""


@runtime_checkable
class HandsBack(Protocol):
    """A worker whose tasks can go on elsewhere from their middle."""

    def hand_back(self) -> None:
        """Its node is about to leave: `run` raises `HandedBack` as soon as it can, and at once for another task. Called
        from another thread while tasks run."""


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
