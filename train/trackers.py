"""Experiment trackers that a recipe may name in `train.trackers`: Weights & Biases and MLflow.

They watch and nothing else: each is started and fed by a thread of its own, whatever it does. One that fails, is not
installed or answers slowly leaves a gap in its own curves; the run's log is metrics.jsonl.

Addresses, keys and places come from the environment (WANDB_*, MLFLOW_*). A run that is resumed continues the tracker's
run of the same fingerprint.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from .pretrain.job import TrainJob

logger = logging.getLogger(__name__)

PROJECT = "fourmill"
VARIABLES = ("WANDB_", "MLFLOW_")  # of the environment, by their beginning
WAITING = 10_000  # lines that wait for a slow tracker; more are dropped
CLOSE_SECONDS = 20.0  # that the end of a run waits for each of its trackers


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step; their names are KIND/NAME, as in "train/loss/caption"."""

    def close(self) -> None:
        """The run is complete."""


class Wandb:
    """A run of Weights & Biases, in the project of WANDB_PROJECT or "fourmill"; offline ones lie below WANDB_DIR."""

    def __init__(self, job: TrainJob) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=job.settings.name,
            id=job.fingerprint,
            resume="allow",  # the id is the run's fingerprint: a resumed run adds to its own curves
            config=job.recipe,
        )
        # Our own step as the x axis: after a resume some steps come again, and wandb drops values of an earlier step.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run of MLflow, in the experiment of MLFLOW_EXPERIMENT_NAME or "fourmill"."""

    def __init__(self, job: TrainJob) -> None:
        self._mlflow = mlflow = importlib.import_module("mlflow")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = mlflow.set_experiment(name)
        query = f"tags.fourmill = '{job.fingerprint}'"
        runs = mlflow.search_runs([experiment.experiment_id], filter_string=query, output_format="list")
        if runs:  # an earlier attempt of this run
            mlflow.start_run(run_id=runs[0].info.run_id)
            return
        mlflow.start_run(run_name=job.settings.name, tags={"fourmill": job.fingerprint})
        mlflow.log_dict(job.recipe, "recipe.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # MLflow allows no "@" in names, as in loss/tok_rgb@448.
        self._mlflow.log_metrics({name.replace("@", "-"): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[TrainJob], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


class Watcher:
    """A tracker in a thread of its own. No error and no delay of it reaches the run; each kind of error is logged once.

    Args:
        name: of the tracker, for messages.
        start: gives it; called in the thread, as all of its methods are.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self.name = name
        self._start, self._complete = start, False
        self._tracker: Tracker | None = None
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._failed: set[str] = set()
        # A daemon: a tracker that never answers must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self._lines.put_nowait((step, dict(values)))
        except queue.Full:
            self._say("is too slow; lines are left out")

    def finish(self, complete: bool) -> None:
        """No more lines come; the run is complete, or may go on later."""
        self._complete = complete
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            self._say("is too slow; its last lines are left out")

    def wait(self, seconds: float) -> None:
        """Return when it has all lines, or after some time."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"has not taken all lines within {seconds:.0f} s")

    def _work(self) -> None:
        self._attempt(self._started)
        while (line := self._lines.get()) is not None:
            self._attempt(partial(self._log, line))
        if self._complete and self._tracker is not None:
            self._attempt(self._tracker.close)

    def _started(self) -> Tracker:
        # Tried again at each line until it succeeds: an outage may be over by then.
        self._tracker = self._tracker or self._start()
        return self._tracker

    def _log(self, line: tuple[int, dict[str, float]]) -> None:
        self._started().log(*line)

    def _attempt(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, what: str) -> None:
        kind = what.partition(":")[0]
        if kind not in self._failed:
            self._failed.add(kind)
            logger.warning("train.trackers: %s: %s; the run goes on, its log is metrics.jsonl", self.name, what)


def check(names: Iterable[str]) -> None:
    """Say which of these trackers are not installed: the run goes on without them."""
    # Before Ray starts, where it is seen. On workers of a cluster only the log has it.
    for name in names:
        if importlib.util.find_spec(name) is None:
            text = f"train.trackers: {name} is not installed, so that nothing is sent to it; `pip install {name}`"
            print(text, file=sys.stderr, flush=True)


def environment(names: Collection[str]) -> dict[str, str]:
    """The variables that say where trackers are and who asks, for workers, which a cluster may have started elsewhere.

    Only ever in memory: they hold keys.
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    if "wandb" in names:
        found["WANDB_DIR"] = os.path.abspath(found.get("WANDB_DIR", "."))
    return found


def trackers(job: TrainJob) -> list[Watcher]:
    """The trackers of a run, each in its thread."""
    return [Watcher(name, partial(TRACKERS[name], job)) for name in job.settings.trackers]
