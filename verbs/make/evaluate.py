"""`fourmill evaluate`: what the trained model knows of validation samples; or, `--tokenizers`, what tokenizers lose."""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import TYPE_CHECKING

from .. import arguments
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...infra.progress import Progress
    from ...project import Project

ORDER = 120
HELP = "measure the trained model on validation samples, or what tokenizers lose"
EXAMPLES = (
    "fourmill evaluate recipe.yaml",
    "fourmill evaluate recipe.yaml --set evaluate.samples=1000",
    "fourmill evaluate recipe.yaml --tokenizers",
)
PACKAGES = ("matplotlib",)  # of the extra `evaluate`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    arguments.add_checkpoint(parser)
    text = "reconstruct validation crops with every fitted tokenizer, and write the table of their errors"
    parser.add_argument("--tokenizers", action="store_true", help=text)


def main(args: argparse.Namespace) -> int:
    project = arguments.load_project(args)
    return show([evaluate_tokenizers(project) if args.tokenizers else make(project)])


def make(project: Project) -> Summary:
    """Measure the trained model and write ROOT/reports. RecipeError if it is not trained or nothing is there."""
    from ...recipe import RecipeError

    start, summary = time.monotonic(), Summary("evaluate")
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise RecipeError(f"evaluate needs {', '.join(missing)}: pip install 'fourmill[evaluate]'")
    job = project.evaluate_job
    project.check_model()
    from ...infra import storage
    from ...report.draw.results import chart, heat_map
    from ...train.downstream.evaluation import matrix_files, table_files, tables
    from ...train.downstream.evaluation.evaluate import Evaluation
    from ...train.downstream.pool import Where

    storage.check_writable(project.root)  # better known before hours of answers
    evaluation = Evaluation(job, Where(project.recipe.engine, project.recipe.declares))
    matrix, table = evaluation.likelihoods(), evaluation.table()
    files = matrix_files.files(matrix) | {f"{tables.LIKELIHOODS}.png": heat_map(matrix)}
    files |= table_files.files(table) | {f"{tables.EVALUATION}.png": chart(table)}
    for name, data in files.items():
        storage.put(storage.join(project.root, tables.FOLDER, name), data)
    summary.made, summary.samples = len(matrix.cells) + len(table.columns), matrix.samples
    summary.notes += [storage.join(project.root, tables.FOLDER, name) for name in sorted(files) if name.endswith(".md")]
    summary.seconds = time.monotonic() - start
    return summary


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

        from ...train.downstream.evaluation import tables, tokenizers

        device = "cuda" if torch.cuda.is_available() else "cpu"
        job = project.fit_job(measured)
        with Progress("evaluate", len(measured), "tokenizers") as progress:
            rows, lacking = tokenizers.evaluate(job, device, _Board(progress))
        summary.missing |= {f"tokenizers/{name}": why for name, why in lacking.items()}
        summary.made, summary.samples = len(rows), sum(row.samples for row in rows)
        summary.notes = [tokenizers.line(row) for row in rows]
        summary.notes.append(storage.join(project.root, tables.FOLDER, f"{tokenizers.NAME}.md"))
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
