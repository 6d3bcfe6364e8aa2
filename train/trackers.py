"""Experiment trackers that a recipe may name in `train.trackers`: Weights & Biases and MLflow.

Addresses and keys come from the environment (WANDB_*, MLFLOW_*). A run that is resumed continues the tracker's run of
the same fingerprint.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .pretrain.job import TrainJob

PROJECT = "fourmill"


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step; their names are KIND/NAME, as in "train/loss/caption"."""

    def close(self) -> None:
        """The run is complete."""


class Wandb:
    """A run of Weights & Biases, in the project of WANDB_PROJECT or "fourmill"."""

    def __init__(self, job: TrainJob) -> None:
        wandb = importlib.import_module("wandb")
        self._scratch = tempfile.TemporaryDirectory(prefix="fourmill-wandb-")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=job.settings.name,
            id=job.fingerprint,
            resume="allow",  # the id is the run's fingerprint: a resumed run adds to its own curves
            dir=self._scratch.name,
            config=job.recipe,
        )
        # Our own step as the x axis: after a resume some steps come again, and wandb drops values of an earlier step.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()
        self._scratch.cleanup()


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


TRACKERS: dict[str, type[Any]] = {"wandb": Wandb, "mlflow": Mlflow}


def check(names: Iterable[str]) -> None:
    """ValueError if the package of one of these trackers is not installed."""
    # Checked before Ray starts: a missing package would be found after minutes, on a worker.
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"train.trackers: {name} is not installed; `pip install {name}`, or leave it out")


def trackers(job: TrainJob) -> list[Tracker]:
    """The trackers of a run, started."""
    check(job.settings.trackers)
    return [TRACKERS[name](job) for name in job.settings.trackers]
