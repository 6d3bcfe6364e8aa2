"""`fourmill generate`: the recipe's chains, with the trained model."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project

ORDER = 90
HELP = "generate modalities from others with the trained model"
EXAMPLES = ("fourmill generate recipe.yaml", "fourmill generate recipe.yaml --set generate.seed=1")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_project(args))])


def make(project: Project) -> Summary:
    """Generate every chain. RecipeError if the model is not trained."""
    from ...recipe import RecipeError

    start, chains = time.monotonic(), project.recipe.generate.chains
    summary = Summary("generate")
    if not chains:
        summary.notes.append("the recipe has no generate.chains")
        return summary
    if project.run_record() is None:
        raise RecipeError("the model of this recipe is not trained; run `fourmill train` first")
    job = project.generate_job
    if project.generated_record() is not None:
        summary.existed = len(chains)
    else:
        from ...train.downstream import generation
        from ...train.pretrain import weights

        stage.prepare_root(project)
        generation.run(job, weights.load_model)
        summary.made = len(chains)
    summary.notes.append(job.folder)
    return stage.finish(project, summary, start, "chains", job.fingerprint)
