"""`fourmill evaluate --tokenizers`: how well each tokenizer reconstructs validation crops, measured in this process."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import arguments
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...infra.progress import Progress
    from ...project import Project

ORDER = 120
HELP = "measure what tokenizers lose"
EXAMPLES = ("fourmill evaluate recipe.yaml --tokenizers",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    text = "reconstruct validation crops with every fitted tokenizer, and write the table of their errors"
    parser.add_argument("--tokenizers", action="store_true", help=text)


def main(args: argparse.Namespace) -> int:
    if not args.tokenizers:
        raise ValueError("say what is measured: fourmill evaluate RECIPE --tokenizers")
    return show([evaluate_tokenizers(arguments.load_project(args))])


def evaluate_tokenizers(project: Project) -> Summary:
    """Measure every tokenizer that is fitted as the recipe asks, on crops of the validation shards (of the training
    shards, if there are none), and write ROOT/reports/tokenizers.{md,json,csv}. Each call measures again."""
    from ...infra import storage
    from ...infra.progress import Progress

    start, needed = time.monotonic(), project.recipe.tokenizers_needed
    measured = [name for name in needed if name in project.fitted]
    summary = Summary("evaluate")
    summary.missing = {
        f"tokenizers/{name}": "not fitted as the recipe asks; run `fourmill fit`"
        for name in needed
        if name not in measured
    }
    if measured:
        import torch

        from ...train.downstream import evaluate

        device = "cuda" if torch.cuda.is_available() else "cpu"
        job = project.fit_job(measured)
        with Progress("evaluate", len(measured), "tokenizers") as progress:
            rows, lacking = evaluate.evaluate(job, device, _Board(progress))
        summary.missing |= {f"tokenizers/{name}": why for name, why in lacking.items()}
        summary.made, summary.samples = len(rows), sum(row.samples for row in rows)
        summary.notes = [evaluate.line(row) for row in rows]
        summary.notes.append(storage.join(project.root, evaluate.FOLDER, f"{evaluate.NAME}.md"))
    summary.seconds = time.monotonic() - start
    return summary


class _Board:
    """Counts tokenizers on a line of progress; its note says how many crops are made."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None:
        if unit == self.progress.unit:
            self.progress.update(done - self.progress.done, notes="")
        else:
            self.progress.update(notes=f"{done:,.0f} of {total:,.0f} {unit}")
