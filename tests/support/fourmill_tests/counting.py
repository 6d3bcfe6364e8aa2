"""A job of the engine that has nothing to do with shards: tasks are numbers, and each is doubled."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fourmill.pipelines.engine.job import Demand, NodeSetup, Status, StopJob
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

    def run(self, number: int) -> int:
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
