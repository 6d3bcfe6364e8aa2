"""Ray Train workers and the board on which they say how far they are.

Checkpoints are ours (checkpoint.py): whatever dies, workers and driver alike, the next start finds the newest complete
one on storage and goes on from there. Ray Train restarts dead workers; we only tell it how often.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..infra.cluster import cluster
from ..infra.progress import Progress

MAX_FAILURES = 3
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Resources:
    """Workers of one training job and what each of them gets."""

    workers: int = 1
    cpus: float | None = None
    gpus: float = 0.0


class _Board:
    """An actor that holds the last message of each worker."""

    def __init__(self) -> None:
        self.last: dict[int, dict[str, Any]] = {}

    def post(self, rank: int, message: dict[str, Any]) -> None:
        self.last[rank] = message

    def read(self) -> dict[int, dict[str, Any]]:
        return self.last


class Reporter:
    """A worker's way to the board. Posting never waits, and never fails a training step."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None:
        """Say how far this worker is."""
        from ray import train

        message = {"stage": stage, "done": done, "total": total, "unit": unit, "notes": notes}
        self._board.post.remote(train.get_context().get_world_rank(), message)


def run(
    work: Callable[[dict[str, Any]], None], config: dict[str, Any], resources: Resources, address: str | None
) -> None:
    """Run `work(config)` on Ray Train workers and show their progress until they are done.

    `config` additionally gets "reporter" (a Reporter), and "threads", the CPU threads that each worker may use.

    Raises:
        RuntimeError: the workers failed more often than they may; the text is the cause.
    """
    with cluster(address) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        total = ray.cluster_resources().get("CPU", 1)
        cpus = resources.cpus or max(1, total // resources.workers)
        board = ray.remote(num_cpus=0)(_Board).remote()
        config = {**config, "reporter": Reporter(board), "threads": max(1, int(cpus))}
        bundle = {"CPU": cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
        with tempfile.TemporaryDirectory(prefix="fourmill-train-") as scratch:
            trainer = TorchTrainer(
                work,
                train_loop_config=config,
                scaling_config=ScalingConfig(
                    num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=bundle
                ),
                run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=MAX_FAILURES)),
            )
            _watch(ray, trainer, board)


def _watch(ray: Any, trainer: Any, board: Any) -> None:
    """Let the trainer run in a thread and show what the board says."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to the caller below
            failure.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    progress: Progress | None = None
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        progress = _show(progress, ray.get(board.read.remote()))
    progress = _show(progress, ray.get(board.read.remote()))
    if progress:
        progress.__exit__(None, None, None)
    if failure:
        raise RuntimeError(_cause(failure[0])) from failure[0]


def _show(progress: Progress | None, messages: dict[int, dict[str, Any]]) -> Progress | None:
    """Show the first worker that is not done; what others do at the same time goes into its notes."""
    busy = {rank: m for rank, m in sorted(messages.items()) if m["done"] < m["total"]}
    shown = busy or dict(sorted(messages.items())[-1:])
    if not shown:
        return progress
    rank, message = next(iter(shown.items()))
    if progress is None or progress.stage != message["stage"]:
        if progress is not None:
            progress.__exit__(None, None, None)
        # What an earlier attempt had done must not count into this one's rate.
        progress = Progress(message["stage"], message["total"], message["unit"], start=message["done"])
    others = [f"{m['stage']} {m['done']:,.0f}/{m['total']:,.0f}" for other, m in busy.items() if other != rank]
    progress.update(message["done"] - progress.done, notes="; ".join([message["notes"], *others]).strip("; "))
    return progress


def _cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    return f"{type(inner).__name__}: {inner}"
