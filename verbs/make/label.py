"""`fourmill label`: the labels that the recipe keeps, and the list of each shard's samples."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...recipe import Recipe

ORDER = 50
HELP = "make the raw labels that the recipe keeps"
EXAMPLES = ("fourmill label recipe.yaml", "fourmill label recipe.yaml --set engine.batch_size=16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_recipe(args))])


def make(recipe: Recipe, defer: bool = False) -> Summary:
    """Label every shard.

    Args:
        defer: leave to `tokenize` those labels whose sources it makes anyway, see `plans.deferred`.
    """
    from ... import jobs
    from ...pipelines import plan as plans

    recipe, specialists = jobs.prepare(recipe)
    outputs = plans.label_outputs(recipe, specialists)
    if defer:
        later = plans.deferred(recipe, specialists)
        outputs = {name: output for name, output in outputs.items() if output.label not in later}
    return stage.process_shards("label", recipe, specialists, outputs, {})
