"""Run a function on Ray Train workers, and show their progress, which they post on a board (an actor).

Ray Train restarts workers that died. Checkpoints are ours (checkpoint.py): workers and driver may all die, the next
start resumes from the newest complete checkpoint. An error that would happen again (a bad setting, a loss that is not
finite, a missing file) ends the job at once. Why a board and not `ray.train.report`: docs/decisions.md.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..infra import faults, logs, scratch
from ..infra.cluster import cluster, draining, has_meters, started_here
from ..infra.progress import Progress, duration
from ..pipelines.engine import access
from ..pipelines.engine.meters import Meters
from ..pipelines.engine.nodes import Nodes
from ..pipelines.engine.room import GROW_SECONDS, Room, may_grow
from .board import BoardActor, BoardState, Reporter, Stopped, ask

logger = logging.getLogger(__name__)

Work = Callable[[dict[str, Any]], None]

MAX_FAILURES = 3  # of workers at the same work, before the job fails
# Ray Train gives up placing the workers after a minute: with 30 attempts the cluster has half an hour to become free.
MAX_PLACEMENTS = 30
POLL_SECONDS = 0.5
FINAL = (ValueError, FloatingPointError, FileNotFoundError)  # errors that another attempt would meet again
LASTING = ("full", "access")  # rows of infra/faults.py that do not end while a run is started again
GRACE_SECONDS = 120.0  # that a command which is asked to stop waits for a checkpoint; who kills it may be sooner
FEW = 16  # workers, at which Ray Train looks more often than every 2 s: it waits as long at each start and end
FEW_SECONDS = "0.5"
WAITING_SECONDS = 20.0  # between two lines while workers start
STALL_SECONDS = 60.0  # in which no worker gets on, until it is said where they are; between two such lines as well
LOOK_SECONDS = 30.0  # that a failure waits for two looks at the board
DRAIN_SECONDS = 2.0  # between two looks for nodes that are about to leave


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
    # Ray counts resources in steps of 1e-4; 1e-6 only corrects the rounding of the division (0.3 / 0.1 < 3).
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in bundle.items()) for node in nodes)


def bundle_of(resources: Resources, nodes: Sequence[dict[str, float]], stage: str) -> dict[str, float]:
    """What each worker asks Ray for: {"CPU": ...} and, if it has any, {"GPU": ...}.

    Args:
        nodes: resources of each node of the cluster.
        stage: "fit" or "train", the section of the recipe.

    Returns:
        With the CPUs of the recipe, else the largest whole number that all workers can have at the same time (the
        most workers of the range, or as many as fit with one CPU each). On one node: its CPUs over the workers.

    Raises:
        ValueError: the workers do not fit on the nodes. Ray would wait for more nodes without a message.
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


def final(error: BaseException) -> bool:
    """Whether another attempt would meet an error again: a wrong setting, a full disk, a folder that is not ours."""
    row = faults.find(error)
    return isinstance(error, FINAL) or (row is not None and row.name in LASTING)


def guard(work: Work) -> Work:
    """`work` that posts a final error on the board, so that it is not tried again.

    The worker then returns as if it were done. If it is in a process group it raises instead: others may wait for it in
    a collective, and Ray Train ends all. In the attempt that Ray Train then makes, every worker returns at once,
    because the board has the error.
    """

    def guarded(config: dict[str, Any]) -> None:
        logs.configure_worker()
        reporter: Reporter = config["reporter"]
        if reporter.begin():
            return
        try:
            work(config)
        except Stopped as stopped:
            logger.info("%s", stopped)
        except Exception as error:
            if not final(error):
                raise
            traceback.print_exc()  # in full into the worker's log; the user sees one line
            reporter.fail(_text(error))
            if _in_group():
                raise

    return guarded


def _in_group() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def run(
    work: Work,
    config: dict[str, Any],
    resources: Resources,
    stage: str,
    address: str | None,
    root: str = "",
    sample: str = "",
) -> None:
    """Run `work(config)` on Ray Train workers and show their progress until they are done.

    `config` additionally gets "reporter" (a Reporter), and "threads", the CPU threads that each worker may use.

    Args:
        stage: the section of the recipe that has the resources; error messages name its fields.
        root, sample: that workers write and read, "" for none; whether every node reaches them is asked first.

    Raises:
        ValueError: the workers do not fit on the cluster; a node is unlike the driver, or has no access.
        RuntimeError: an error of `FINAL`, or the workers died more than `MAX_FAILURES` times without getting further;
            the text is the cause.
    """
    with cluster(address) as ray:
        if root and (reach := access.asked(root, sample, started_here())):
            Nodes(ray, reach)
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from .group import Trainer

        if resources.most <= FEW:
            os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", FEW_SECONDS)
        bundle = _bundle(ray, resources, stage)
        # Ray Train says nothing until its workers are up, which takes a quarter of a minute.
        print(f"{stage}: starting {_workers_text(resources, bundle)}", file=sys.stderr, flush=True)
        board = ray.remote(num_cpus=0, max_restarts=-1)(BoardActor).remote()
        config = {**config, "reporter": Reporter(board), "threads": max(1, int(bundle["CPU"]))}
        failures = FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_PLACEMENTS)
        with scratch.folder() as folder:
            scaling = ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=bundle,
            )

            def trainer() -> Trainer:
                return Trainer(
                    # Not as `train_loop_config`: the controller would read it, and import all that it is made of.
                    partial(guard(work), config),
                    scaling_config=scaling,
                    run_config=RunConfig(storage_path=folder, failure_config=failures),
                )

            screen = _Screen(resources.least < resources.most, stage, Meters(stage, root) if has_meters() else None)
            _watch(trainer, board, screen)


def _bundle(ray: Any, resources: Resources, stage: str) -> dict[str, float]:
    """`bundle_of` the nodes that stay. Where none has room, and nodes may come, they are asked for and waited for."""
    started = time.monotonic()
    room = Room(ray, {"CPU": resources.cpus or 1.0, "GPU": resources.gpus})
    try:
        while True:
            leaving = draining()
            nodes = [node for node in ray.nodes() if node["Alive"]]
            try:
                return bundle_of(resources, [n["Resources"] for n in nodes if n["NodeID"] not in leaving], stage)
            except ValueError:
                if not may_grow(nodes) or time.monotonic() - started > GROW_SECONDS:
                    raise
            if not room.is_asked:
                print(f"{stage}: no node of the cluster has room; waiting for one", file=sys.stderr, flush=True)
            room.ask(resources.most)
            time.sleep(DRAIN_SECONDS)
    finally:
        room.close()


def _workers_text(resources: Resources, bundle: dict[str, float]) -> str:
    """Such as "2 workers with 1 CPU and 1 GPU each"."""
    number = f"{resources.least} to {resources.most}" if resources.least < resources.most else str(resources.most)
    what = " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in bundle.items())
    return f"{number} worker{'s' if resources.most != 1 else ''} with {what} each"


def _watch(make_trainer: Callable[[], Any], board: Any, screen: _Screen) -> None:
    """Run the trainer in a thread and show the progress on the board.

    Ray Train counts failures of its whole life. On machines that come and go for weeks all that counts is whether the
    work gets on: as long as it does, there is a new trainer.
    """
    raised: list[BaseException] = []
    # Not `join`: a signal that interrupts it marks a thread that works as ended (Python 3.11).
    ended = threading.Event()

    notices = _Notices()

    def fit() -> None:
        try:
            while True:
                before = screen.progress
                try:
                    return make_trainer().fit()
                except Exception as error:
                    screen.wait_for_look()
                    if screen.failure or screen.progress <= before:
                        raise
                    logger.warning("workers failed %d times, and got further: %s", MAX_FAILURES + 1, _cause(error))
        except BaseException as error:  # raised in the caller's thread below
            raised.append(error)
        finally:
            ended.set()

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    alive = True
    try:
        while alive:
            # Before the board is read, so that it is read once more after the end.
            alive = not ended.wait(POLL_SECONDS)
            screen.show(ask(board.read) or BoardState())
            if notices.new():
                screen.close()
                print("a node is about to leave the cluster: saving a checkpoint", file=sys.stderr, flush=True)
                ask(board.ask, False)
    except KeyboardInterrupt:
        screen.close()
        _save(ended, board)
        raise
    screen.close()
    if screen.failure:
        raise RuntimeError(screen.failure) from (raised[0] if raised else None)
    if raised:
        raise RuntimeError(_cause(raised[0])) from raised[0]


def _save(ended: threading.Event, board: Any) -> None:
    """Have the workers save and stop, if they are at something that can be saved, and wait for it."""
    if not (ask(board.read) or BoardState()).in_steps:
        return
    print("saving a checkpoint before it stops (once more: stop at once)", file=sys.stderr, flush=True)
    ask(board.ask, True)
    ended.wait(GRACE_SECONDS)


class _Notices:
    """Nodes that are about to leave the cluster: a cloud takes them back, or `ray drain-node` does."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._looked = 0.0

    def new(self) -> bool:
        """Whether there are some that were not there at the last look; looks every few seconds."""
        if time.monotonic() - self._looked < DRAIN_SECONDS:
            return False
        self._looked = time.monotonic()
        found = draining() - self._known
        self._known |= found
        return bool(found)


class _Screen:
    """Shows the progress of the workers. Keeps the last error of the board, in case the board is lost."""

    def __init__(self, elastic: bool = False, stage: str = "", meters: Meters | None = None) -> None:
        self._meters = meters
        self.failure = ""
        self._furthest: dict[str, float] = {}  # by what is done
        self._looks = 0
        self._stage, self._begun = stage, time.monotonic()
        self._said = self._begun
        self._reason = "workers failed, or their number changed; started again"
        if not elastic:
            self._reason = "workers failed and were started again"
        self._attempts = 0
        self._progress: Progress | None = None
        self._stall_said = self._begun

    def wait_for_look(self) -> None:
        """Until another thread has shown what is on the board now; not for ever, since that thread may have ended."""
        before, end = self._looks, time.monotonic() + LOOK_SECONDS
        while self._looks < before + 2 and time.monotonic() < end:  # one may have begun before
            time.sleep(POLL_SECONDS / 2)

    @property
    def progress(self) -> float:
        """A number that grows as long as the work gets further than it was before."""
        return sum(self._furthest.values())

    def show(self, board: BoardState) -> None:
        """Show the first worker that is not done, and the other busy ones in its notes."""
        self.failure = board.failure or self.failure
        if board.attempts > self._attempts and not self.failure:
            if self._attempts:
                self.close()
                logger.warning("%s (attempt %d)", self._reason, board.attempts)
                print(f"{self._reason} (attempt {board.attempts})", file=sys.stderr, flush=True)
            self._attempts = board.attempts
        self._measure(board)
        for message in board.last.values():
            self._furthest[message["stage"]] = max(self._furthest.get(message["stage"], 0.0), message["done"])
        self._looks += 1
        busy = {rank: m for rank, m in sorted(board.last.items()) if m["done"] < m["total"]}
        shown = busy or dict(sorted(board.last.items())[-1:])
        if not shown:
            return self._wait()
        rank, message = next(iter(shown.items()))
        before = (self._progress.stage, self._progress.done) if self._progress is not None else ("", 0.0)
        if before[0] != message["stage"] or message["done"] < before[1] or self._progress is None:
            self.close()
            # What was done by an earlier attempt, or in another reading of the same name, is not of this one's rate.
            self._progress = Progress(message["stage"], message["total"], message["unit"], start=message["done"])
        others = [f"{m['stage']} {m['done']:,.0f}/{m['total']:,.0f}" for other, m in busy.items() if other != rank]
        notes = "; ".join([message["notes"], *others]).strip("; ")
        self._progress.update(message["done"] - self._progress.done, notes=notes)
        if busy and (stall := stalled(board)) and time.monotonic() - self._stall_said >= STALL_SECONDS:
            self._stall_said = time.monotonic()
            self._progress.say(stall)

    def _measure(self, board: BoardState) -> None:
        if self._meters is None:
            return
        for message in board.last.values():
            self._meters.show("progress", message["done"] / max(message["total"], 1), what=message["stage"])
            for name, value in message.get("values", {}).items():
                self._meters.show("value", value, what=name)

    def _wait(self) -> None:
        """Say now and then that nothing has begun: Ray Train itself is silent until its workers are up."""
        now = time.monotonic()
        if now - self._said >= WAITING_SECONDS:
            self._said = now
            waited = duration(now - self._begun)
            print(f"{self._stage}: its workers are still starting ({waited})", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line that is shown."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


def stalled(board: BoardState) -> str:
    """Where workers are if none of them gets on, "" if one does."""
    if not board.beats or any(board.now - one.since < STALL_SECONDS for one in board.beats.values()):
        return ""
    places: dict[str, list[int]] = {}
    for rank, beat in sorted(board.beats.items()):
        silent = board.now - beat.heard
        where = f"not heard of for {duration(silent)}" if silent > STALL_SECONDS / 2 else beat.at
        places.setdefault(where, []).append(rank)
    longest = min(board.now - one.since for one in board.beats.values())
    each = "; ".join(f"{where}: worker {', '.join(map(str, ranks))}" for where, ranks in places.items())
    return f"no worker gets on since {duration(longest)}: {each}"


def _cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    return _text(next(iter(failures.values())) if failures else error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
