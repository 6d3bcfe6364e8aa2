"""The Ray side of a worker: its process and its threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...infra import logs
from .job import Demand, HandsBack, Hints, Job, PlaceError, Status, Worker

logger = logging.getLogger(__name__)

TASKS_AT_ONCE = 2  # in one actor: one task is read and decoded while the other one computes


class _Actor:
    """A worker in an actor's process."""

    def __init__(
        self, job: Job, make_worker: Callable[[Any], Worker[Any, Any]], threads: int, shared: Any = None
    ) -> None:
        import cv2

        logs.configure_worker()
        # One core an actor: OpenCV and torch must not each start a thread for every core of the machine. It also makes
        # sums come out in the same order everywhere, so that tokens are equal bit for bit.
        cv2.setNumThreads(1)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        device = "cpu"
        if job.uses_torch():
            import torch

            torch.set_num_threads(threads)
            device = "cuda" if torch.cuda.is_available() else "cpu"  # Ray shows an actor the GPUs that it has asked for
        self.worker = make_worker(job)
        if shared is not None:
            self.worker.share(partial(_call, shared))  # type: ignore[attr-defined]
        self.worker.setup(device)
        logger.info("actor %d is ready on %s with %d threads", os.getpid(), device, threads)

    def run(self, task: Any, hints: Hints) -> Any:
        try:
            return self.worker.run(task, hints)
        except PlaceError as error:
            error.node = _node()
            raise

    def status(self) -> Status:
        return replace(self.worker.status(), node=_node())

    def hand_back(self) -> None:
        if isinstance(self.worker, HandsBack):
            self.worker.hand_back()


class _Shared:
    """An object that all workers of a job call."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.it = make()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.it, method)(*arguments)


def start_shared(ray: Any, make: Callable[[], Any]) -> Any:
    """An actor with what `make` makes. It begins from nothing on another node if its own is lost."""
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Shared)
    return remote.remote(make)


def _call(shared: Any, method: str, *arguments: Any) -> Any:
    import ray

    return ray.get(shared.call.remote(method, *arguments))


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def actor_class(ray: Any, demand: Demand) -> Any:
    """The remote class. Its two groups of threads let `status` and `hand_back` answer while both tasks are at work."""

    # Here and not at the top, since the decorator needs Ray, which takes a second to import.
    class Actor(_Actor):
        @ray.method(concurrency_group="tasks")  # type: ignore[untyped-decorator]
        def run(self, task: Any, hints: Hints) -> Any:
            return super().run(task, hints)

        @ray.method(concurrency_group="status")  # type: ignore[untyped-decorator]
        def status(self) -> Status:
            return super().status()

        @ray.method(concurrency_group="status")  # type: ignore[untyped-decorator]
        def hand_back(self) -> None:
            super().hand_back()

    # max_restarts: the driver replaces an actor that died, since it must count which task was there when it did.
    options = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "memory": demand.memory, "max_restarts": 0}
    return ray.remote(**options, concurrency_groups={"tasks": TASKS_AT_ONCE, "status": 1})(Actor)
