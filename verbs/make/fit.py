"""`fourmill fit`: the tokenizers that are missing or were fitted with other settings."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...recipe import Recipe

ORDER = 60
HELP = "fit the tokenizers that are missing"
EXAMPLES = ("fourmill fit recipe.yaml", "fourmill fit recipe.yaml --set fit.workers=4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_recipe(args))])


def make(recipe: Recipe) -> Summary:
    """Fit on crops of the training shards that can be read."""
    from ... import jobs

    recipe, specialists = jobs.prepare(recipe)
    start = time.monotonic()
    prints = jobs.fit_fingerprints(recipe, specialists)
    fitted = jobs.fitted(recipe, specialists)
    missing = [name for name in prints if name not in fitted]
    summary = Summary("fit", existed=len(fitted))
    if missing:
        from ...train.tokenizers import fit as fitting
        from ...train.workers import Resources

        stage.prepare_root(recipe)
        resources = Resources(recipe.fit.workers, recipe.fit.cpus, recipe.fit.gpus)
        job, failure = jobs.fit_job(recipe, specialists, missing, prints), "it was not fitted"
        try:
            fitting.run(job, resources, recipe.engine.address)
        except RuntimeError as error:
            failure = str(error)
        fitted, reasons = jobs.fitted(recipe, specialists), fitting.reasons(failure, missing)
        for name in missing:
            if name not in fitted:
                summary.missing[f"tokenizers/{name}"] = reasons.get(name, failure)
        summary.made = len(missing) - len(summary.missing)
    for name, tokenizer in fitted.items():
        quality = ", ".join(f"{measure} {value:.4g}" for measure, value in tokenizer.quality.items())
        summary.notes.append(f"{name}: {tokenizer.vocab_size} entries{', ' + quality if quality else ''}")
    return stage.finish(recipe, summary, start, "tokenizers", prints)
