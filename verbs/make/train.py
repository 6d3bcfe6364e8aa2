"""`fourmill train`: 4M on the columns of the shards that are complete."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ...infra import stopping
from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project
    from ...train.pretrain.job import TrainJob

ORDER = 80
HELP = "train 4M on the columns"
EXAMPLES = ("fourmill train recipe.yaml", "fourmill train recipe.yaml --set train.steps=2000")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_stage(parser)
    text = "go on from the checkpoint of this step and delete later ones (default: go on from the newest)"
    parser.add_argument("--checkpoint", type=int, default=None, metavar="STEP", help=text)


def main(args: argparse.Namespace) -> int:
    from ...project import Project

    project = Project(arguments.load_recipe(args), args.update)
    return show([make(project, args.checkpoint)])


def make(project: Project, checkpoint: int | None = None) -> Summary:
    """Train the run that the recipe asks for, or go on with it.

    Args:
        checkpoint: the step of the one to go on from; the newest if None.
    """
    from ...runs import licences

    start, job = time.monotonic(), project.train_job
    summary, output, inherited = Summary("train"), project.run_output, list[str]()
    record = project.run_record()
    if checkpoint is not None:
        summary.notes += _gone_back(job, checkpoint, record is not None)
    if record is None:
        from ...infra import storage
        from ...train.pretrain import pretrain
        from ...train.pretrain.job import MODEL

        project.check_training()
        stage.prepare_root(project)
        stage.keep_selection(project)
        licences.keep(said := licences.of_run(job, project.recipe), job.folder)
        try:
            pretrain.run(job)
        except KeyboardInterrupt as interrupt:
            raise stopping.because_of(interrupt, _kept(job)) from None
        except RuntimeError as error:
            summary.missing[output] = str(error)
        record = project.run_record()
        summary.made = int(record is not None)
        if record is None:
            summary.missing.setdefault(output, "the workers ended without a model")
        else:
            inherited = licences.keep(said, storage.join(job.folder, MODEL))
    else:
        summary.existed = 1
        licences.complete(job)
    if record is not None:
        metrics = record.identity["metrics"]
        losses = ", ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "val_loss") if name in metrics)
        trained = record.identity
        summary.notes.append(f"{trained['steps']} steps, {trained['parameters']:,} parameters: {losses}")
        summary.notes += [job.folder, *trained.get("notes", []), *inherited]
    if shards := project.unseen_shards():
        summary.notes.append(
            f"{len(shards)} shards came after this run began, which goes on without them; `fourmill status` says more, "
            "`fourmill train --update` begins a run on all"
        )
    return stage.finish(project, summary, start, "run", job.fingerprint)


def _gone_back(job: TrainJob, step: int, finished: bool) -> list[str]:
    """Take the checkpoints after a step away; what was done, for people. ValueError if the run cannot go on from it."""
    from ...train import checkpoint

    if finished:
        place = checkpoint.at_step(job.checkpoints, step).url
        raise ValueError(f"the run is finished; train.init={place} begins another one with the weights of step {step}")
    later = checkpoint.go_back(job.checkpoints, step)
    return [f"went on from step {step}; later checkpoints were deleted: {', '.join(map(str, later)) or 'none'}"]


def _kept(job: TrainJob) -> str:
    """Where the next start of a run that was stopped goes on, for people."""
    step = job.model_step()
    if step is None:
        return f"nothing of the run is saved yet: the same command begins at step 0 ({job.folder})"
    return f"step {step} of {job.settings.steps} is saved: the same command goes on from there ({job.folder})"
