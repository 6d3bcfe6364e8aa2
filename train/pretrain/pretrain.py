"""Training 4M: the work of Ray Train workers, from columns to checkpoints and the finished model (trainer.py)."""

from __future__ import annotations

import os
from typing import Any

import torch

from ...modalities import import_modules
from ...model.fourm import FourM
from .. import trackers, workers
from ..cpu_memory import keep_freed_memory
from . import initial
from .job import TrainJob, masking_config, model_config
from .trainer import Trainer
from .weights import load_model

__all__ = ["TrainJob", "Trainer", "load_model", "masking_config", "model_config", "run", "work"]


def run(job: TrainJob) -> None:
    """Train under Ray Train.

    RuntimeError with the cause if the workers fail for good.
    """
    train = job.settings
    trackers.check(train.trackers)
    resources = workers.Resources(train.workers, train.cpus, train.gpus)
    config = {"job": job, "environment": trackers.environment(train.trackers) if train.trackers else {}}
    workers.run(work, config, resources, "train", job.address, job.root)


def work(config: dict[str, Any]) -> None:
    """One worker's part."""
    from ray import train

    context = train.get_context()
    os.environ.update(config.get("environment", {}))
    torch.set_num_threads(config["threads"])
    job: TrainJob = config["job"]
    import_modules(job.modules)  # modalities of the user's own
    device = train.torch.get_device()
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(job.seed)
    model = FourM(initial.config_of(job)).to(device)
    trainer = Trainer(job, model, context.get_world_rank(), context.get_world_size())
    trainer.run(config["reporter"])
