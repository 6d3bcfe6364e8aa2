"""`fourmill generate`: the recipe's chains, with the trained model."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...recipe import Recipe

ORDER = 90
HELP = "generate modalities from others with the trained model"
EXAMPLES = ("fourmill generate recipe.yaml", "fourmill generate recipe.yaml --set generate.seed=1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_recipe(args))])


def make(recipe: Recipe) -> Summary:
    """Generate every chain. RecipeError if the model is not trained."""
    from ... import jobs
    from ...infra import ledger
    from ...recipe import RecipeError

    recipe, specialists = jobs.prepare(recipe)
    start = time.monotonic()
    summary = Summary("generate")
    if not recipe.generate.chains:
        summary.notes.append("the recipe has no generate.chains")
        return summary
    run_job = jobs.train_job(recipe, specialists)
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", run_job.fingerprint) is None:
        raise RecipeError("the model of this recipe is not trained; run `fourmill train` first")
    job = jobs.generate_job(recipe, run_job)
    output = f"generated/{recipe.train.name}"
    if ledger.read(recipe.root, output, job.fingerprint) is not None:
        summary.existed = len(recipe.generate.chains)
    else:
        from ...train.downstream import generation
        from ...train.pretrain import weights

        stage.prepare_root(recipe)
        generation.run(job, weights.load_model)
        summary.made = len(recipe.generate.chains)
    summary.notes.append(job.folder)
    return stage.finish(recipe, summary, start, "chains", job.fingerprint)
