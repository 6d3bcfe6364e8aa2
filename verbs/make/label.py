"""`fourmill label`: the labels that the recipe keeps, and the list of each shard's samples."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, duplicates, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project

ORDER = 50
HELP = "make the raw labels that the recipe keeps"
EXAMPLES = ("fourmill label recipe.yaml", "fourmill label recipe.yaml --set engine.batch_size=16")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_project(args))])


def make(project: Project, defer: bool = False) -> Summary:
    """Label every shard.

    Args:
        defer: leave to `tokenize` those labels whose sources it makes anyway, see `outputs.deferred`.
    """
    from ...pipelines.outputs import deferred

    outputs, later = project.label_outputs, set[str]()
    if defer:
        later = deferred(project.recipe.labels.keep, project.recipe.modalities, project.specialists)
        outputs = {name: output for name, output in outputs.items() if output.label not in later}
    summary = stage.process_shards("label", project, outputs)
    return duplicates.added(project, summary, later)
