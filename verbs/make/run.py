"""`fourmill run`: all stages of a recipe, one after the other, and the report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, checkup
from ..prepare import download
from ..summary import Summary, show
from . import fit, generate, label, tokenize, train

if TYPE_CHECKING:
    from ...project import Project

ORDER = 40
HELP = "label, fit, tokenize, train and generate, in order, and the report; before them the download"
EXAMPLES = ("fourmill run recipe.yaml", "fourmill run recipe.yaml --set train.steps=2000")

add_arguments = arguments.add_stage


def main(args: argparse.Namespace) -> int:
    from ...project import Project

    recipe = arguments.load_recipe(args)
    # What it makes must be there before the samples can be listed.
    downloaded = [download.make(recipe)[0]] if recipe.download else []
    if any(not summary.complete for summary in downloaded):
        return show(downloaded)
    project = Project(recipe, args.update)
    return close(project, [*downloaded, *make(project)])


def close(project: Project, summaries: list[Summary]) -> int:
    """Print the closing tables and, if all is there, where the report is; returns the exit status."""
    from .. import pages

    status = show(summaries)
    if status == 0:
        print(f"report: {pages.current_report(project)}")
    return status


def make(project: Project) -> list[Summary]:
    """Every stage in order.

    Tokenizers are fitted and columns made from the shards that can be read; training waits until all are there, since
    a model of fewer shards would be another one, and a shard that could not be read today may be read tomorrow.
    """
    # What is wrong with the recipe itself is an error at once, not a row of the closing table.
    project.check_training()
    project.check_fits(project.unfitted)
    checkup.refuse_endless_fits(project)
    done: list[Summary] = []
    for stage in (label, fit, tokenize, train, generate):
        name = stage.__name__.rpartition(".")[2]
        if stage in (train, generate) and not all(summary.complete for summary in done):
            why = f"waits for what is missing above; `fourmill {name}` goes on with what is there"
            done.append(Summary(name, missing={name: why}))
            continue
        try:
            done.append(label.make(project, defer=True) if stage is label else stage.make(project))
        except (ValueError, OSError, RuntimeError) as error:
            # The closing table must show this error beside what the stages before it did.
            done.append(Summary(name, missing={name: str(error)}))
            if stage is not label:
                break
    return done
