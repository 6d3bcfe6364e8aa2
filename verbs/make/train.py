"""`fourmill train`: 4M on the columns of the shards that are complete."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project

ORDER = 80
HELP = "train 4M on the columns"
EXAMPLES = ("fourmill train recipe.yaml", "fourmill train recipe.yaml --set train.steps=2000")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_project(args))])


def make(project: Project) -> Summary:
    """Train the run that the recipe asks for, or go on with it from its newest checkpoint."""
    start, job = time.monotonic(), project.train_job
    summary, output = Summary("train"), project.run_output
    record = project.run_record()
    if record is None:
        from ...train.pretrain import pretrain

        stage.prepare_root(project)
        try:
            pretrain.run(job)
        except RuntimeError as error:
            summary.missing[output] = str(error)
        record = project.run_record()
        summary.made = int(record is not None)
        if record is None:
            summary.missing.setdefault(output, "the workers ended without a model")
    else:
        summary.existed = 1
    if record is not None:
        metrics = record.identity["metrics"]
        losses = ", ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "val_loss") if name in metrics)
        trained = record.identity
        summary.notes.append(f"{trained['steps']} steps, {trained['parameters']:,} parameters: {losses}")
        summary.notes += [job.folder, *trained.get("notes", [])]
    return stage.finish(project, summary, start, "run", job.fingerprint)
