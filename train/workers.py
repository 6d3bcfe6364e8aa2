"""Ray Train workers and the board on which they say how far they are.

Checkpoints are ours (checkpoint.py): whatever dies, workers and driver alike, the next start finds the newest complete
one on storage and goes on from there. Ray Train restarts workers that died; we only tell it how often. An error that
would come again (a bad setting, a loss that is not finite, a missing file) is told once and not tried again.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..infra.cluster import cluster
from ..infra.progress import Progress

Work = Callable[[dict[str, Any]], None]

MAX_FAILURES = 3
# Each attempt to place the workers gives up after a minute: half an hour for the cluster to become free.
MAX_PLACEMENTS = 30
POLL_SECONDS = 0.5
BOARD_SECONDS = 10.0  # what a worker or the driver waits for the board before it goes on without
FINAL = (ValueError, FloatingPointError, FileNotFoundError)  # the same input would give the same error again


@dataclass(frozen=True)
class Resources:
    """Workers of one training job and what each of them gets.

    workers: how many, or (least, most): as many of these as the cluster has room for, more or fewer as it changes.
    cpus: None for an equal share of the cluster's nodes.
    """

    workers: int | tuple[int, int] = 1
    cpus: float | None = None
    gpus: float = 0.0

    @property
    def least(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def capacity(nodes: Sequence[dict[str, float]], bundle: dict[str, float]) -> int:
    """How many bundles of resources the nodes hold at the same time, each on one node."""
    # Ray counts in ten-thousandths; the small term only undoes the rounding of the division.
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in bundle.items()) for node in nodes)


def bundle_of(resources: Resources, nodes: Sequence[dict[str, float]], stage: str) -> dict[str, float]:
    """What each worker asks Ray for: {"CPU": ...} and, if it has any, {"GPU": ...}.

    Args:
        nodes: resources of each node of the cluster.
        stage: "fit" or "train", the section of the recipe.

    Returns:
        With the CPUs that were asked for, else the largest whole number that all workers get at the same time (the
        most that there may be, or as many as fit with one CPU each). On one node that is its CPUs over the workers.

    Raises:
        ValueError: the workers do not fit on the nodes; Ray would wait for other nodes and say nothing.
    """
    gpus = {"GPU": resources.gpus} if resources.gpus else {}
    most = int(max((node.get("CPU", 0.0) for node in nodes), default=0.0))
    sizes = [resources.cpus] if resources.cpus else range(max(most, 1), 0, -1)
    bundles = [{"CPU": float(cpus), **gpus} for cpus in sizes]
    wanted = min(resources.most, capacity(nodes, bundles[-1]))
    for bundle in bundles:
        if capacity(nodes, bundle) >= max(wanted, resources.least):
            return bundle
    asked = ", ".join(f"{amount:g} {name}" for name, amount in bundles[-1].items())
    largest = sorted(((n.get("CPU", 0.0), n.get("GPU", 0.0)) for n in nodes), reverse=True)[:3]
    there = "; ".join(f"{cpu:g} CPU, {gpu:g} GPU" for cpu, gpu in largest) or "none"
    raise ValueError(
        f"{stage}.workers: {resources.least} workers with {asked} each do not fit on the cluster "
        f"({len(nodes)} nodes, the largest: {there}); lower {stage}.workers, {stage}.cpus or {stage}.gpus"
    )


@dataclass
class Told:
    """What stands on the board: the last message of each worker, how often worker 0 began, the final errors."""

    last: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: int = 0
    failure: str = ""


class _Board:
    """An actor that holds what the workers tell. It may be lost: then work goes on, and the next messages fill it."""

    def __init__(self) -> None:
        self.told = Told()

    def begin(self, rank: int) -> str:
        self.told.attempts += rank == 0
        self.told.last.pop(rank, None)
        return self.told.failure

    def post(self, rank: int, message: dict[str, Any]) -> None:
        self.told.last[rank] = message

    def fail(self, failure: str) -> None:
        if failure not in self.told.failure:  # of workers that share nothing each may have its own
            self.told.failure = "; ".join(filter(None, (self.told.failure, failure)))

    def read(self) -> Told:
        return self.told


class Reporter:
    """A worker's way to the board. Posting never waits, and never fails a training step."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def begin(self) -> str:
        """Called by every worker first. Returns the final error of an earlier attempt, "" if there was none."""
        from ray import train

        return _ask(self._board.begin, train.get_context().get_world_rank()) or ""

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None:
        """Say how far this worker is."""
        from ray import train

        message = {"stage": stage, "done": done, "total": total, "unit": unit, "notes": notes}
        self._board.post.remote(train.get_context().get_world_rank(), message)

    def fail(self, failure: str) -> None:
        """Say why no attempt can succeed; returns when the board has it."""
        _ask(self._board.fail, failure)


def _ask(method: Any, *arguments: Any) -> Any:
    """The answer of the board, or None while it is lost: it only tells, and must not fail the work."""
    import ray

    try:
        return ray.get(method.remote(*arguments), timeout=BOARD_SECONDS)
    except ray.exceptions.RayError:
        return None


def guard(work: Work) -> Work:
    """`work` that tells the board of an error that would come again, so that nobody tries again.

    The worker then ends as if it were done, and workers that share nothing with it go on. If others may wait for it in
    a collective, the error is raised, so that Ray Train ends them; of the attempt that follows, every worker returns at
    once, since the board says why.
    """

    def guarded(config: dict[str, Any]) -> None:
        reporter: Reporter = config["reporter"]
        if reporter.begin():
            return
        try:
            work(config)
        except FINAL as error:
            traceback.print_exc()  # the whole of it, for the worker's log
            reporter.fail(_text(error))
            if _in_group():
                raise

    return guarded


def _in_group() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def run(work: Work, config: dict[str, Any], resources: Resources, stage: str, address: str | None) -> None:
    """Run `work(config)` on Ray Train workers and show their progress until they are done.

    `config` additionally gets "reporter" (a Reporter), and "threads", the CPU threads that each worker may use.

    Args:
        stage: the section of the recipe that has the resources; error messages name its fields.

    Raises:
        ValueError: the workers do not fit on the cluster.
        RuntimeError: an error that would come again, or the workers died more often than they may; the text is the
            cause.
    """
    with cluster(address) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        bundle = bundle_of(resources, [node["Resources"] for node in ray.nodes() if node["Alive"]], stage)
        board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        config = {**config, "reporter": Reporter(board), "threads": max(1, int(bundle["CPU"]))}
        # mypy sees the classes of the Ray Train before this one, without limits of placements and ranges of workers.
        failures = FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_PLACEMENTS)  # type: ignore[call-arg]
        with tempfile.TemporaryDirectory(prefix="fourmill-train-") as scratch:
            scaling = ScalingConfig(
                num_workers=resources.workers,  # type: ignore[arg-type]
                use_gpu=resources.gpus > 0,
                resources_per_worker=bundle,
            )
            trainer = TorchTrainer(
                guard(work),
                train_loop_config=config,
                scaling_config=scaling,
                run_config=RunConfig(storage_path=scratch, failure_config=failures),
            )
            _watch(trainer, board, resources.least < resources.most)


def _watch(trainer: Any, board: Any, elastic: bool) -> None:
    """Let the trainer run in a thread and show what the board says."""
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to the caller below
            raised.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    screen = _Screen(elastic)
    alive = True
    while alive:
        thread.join(POLL_SECONDS)
        alive = thread.is_alive()  # before the board is read: the last look comes after the end
        screen.show(_ask(board.read) or Told())
    screen.close()
    if screen.failure:
        raise RuntimeError(screen.failure) from (raised[0] if raised else None)
    if raised:
        raise RuntimeError(_cause(raised[0])) from raised[0]


class _Screen:
    """Progress of the workers, and what was seen on the board so far, should it be lost."""

    def __init__(self, elastic: bool = False) -> None:
        self.failure = ""
        self._why = "workers failed, or their number changed; started again"
        if not elastic:
            self._why = "workers failed and were started again"
        self._attempts = 0
        self._progress: Progress | None = None

    def show(self, told: Told) -> None:
        """Show the first worker that is not done; what others do at the same time goes into its notes."""
        self.failure = told.failure or self.failure
        if told.attempts > self._attempts and not self.failure:
            if self._attempts:
                self.close()
                print(f"{self._why} (attempt {told.attempts})", file=sys.stderr, flush=True)
            self._attempts = told.attempts
        busy = {rank: m for rank, m in sorted(told.last.items()) if m["done"] < m["total"]}
        shown = busy or dict(sorted(told.last.items())[-1:])
        if not shown:
            return
        rank, message = next(iter(shown.items()))
        if self._progress is None or self._progress.stage != message["stage"]:
            self.close()
            # What an earlier attempt had done must not count into this one's rate.
            self._progress = Progress(message["stage"], message["total"], message["unit"], start=message["done"])
        others = [f"{m['stage']} {m['done']:,.0f}/{m['total']:,.0f}" for other, m in busy.items() if other != rank]
        notes = "; ".join([message["notes"], *others]).strip("; ")
        self._progress.update(message["done"] - self._progress.done, notes=notes)

    def close(self) -> None:
        """End the line that is shown."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


def _cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    return _text(next(iter(failures.values())) if failures else error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
