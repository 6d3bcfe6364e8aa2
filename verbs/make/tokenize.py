"""`fourmill tokenize`: every column of every shard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...recipe import Recipe

ORDER = 70
HELP = "label and tokenize every shard into columns"
EXAMPLES = ("fourmill tokenize recipe.yaml", "fourmill tokenize recipe.yaml --set engine.actors=4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_recipe(args))])


def make(recipe: Recipe) -> Summary:
    """Make every column, and kept labels that are missing, in one pass over each shard."""
    from ... import jobs
    from ...infra.ledger import SAMPLES
    from ...pipelines import plan as plans

    recipe, specialists = jobs.prepare(recipe)
    labels = plans.label_outputs(recipe, specialists)
    columns = plans.token_outputs(recipe, specialists, jobs.fitted(recipe, specialists))
    stored = {name: output for name, output in labels.items() if name != SAMPLES}
    return stage.process_shards("tokenize", recipe, specialists, {**labels, **columns}, stored)
