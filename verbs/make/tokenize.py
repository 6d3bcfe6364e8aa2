"""`fourmill tokenize`: every column of every shard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, duplicates, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...project import Project

ORDER = 70
HELP = "label and tokenize every shard into columns"
EXAMPLES = ("fourmill tokenize recipe.yaml", "fourmill tokenize recipe.yaml --set engine.actors=4")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    return show([make(arguments.load_project(args))])


def make(project: Project) -> Summary:
    """Make every column, and kept labels that are missing, in one pass over each shard."""
    outputs = {**project.label_outputs, **project.token_outputs}
    summary = stage.process_shards("tokenize", project, outputs, project.stored_labels)
    return duplicates.added(project, summary)
