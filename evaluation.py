"""`fourmill evaluate --tokenizers`: the reconstruction table of a root's tokenizers, made in this process."""

from __future__ import annotations

import time

from . import jobs
from .infra import storage
from .infra.progress import Progress
from .recipe import Recipe
from .summaries import Summary


def tokenizers(recipe: Recipe) -> Summary:
    """Measure every tokenizer that is fitted as the recipe asks, on crops of the validation shards (of the training
    shards, if there are none), and write ROOT/reports/tokenizers.{md,json,csv}. It is measured anew each time."""
    recipe, specialists = jobs.prepare(recipe)
    start, prints = time.monotonic(), jobs.fit_fingerprints(recipe, specialists)
    fitted = jobs.fitted(recipe, specialists)
    there = [name for name in recipe.tokenizers_needed if name in fitted]
    summary = Summary("evaluate")
    summary.missing = {
        f"tokenizers/{name}": "not fitted as the recipe asks; run `fourmill fit`"
        for name in recipe.tokenizers_needed
        if name not in there
    }
    if there:
        import torch

        from .train.downstream import evaluate

        device = "cuda" if torch.cuda.is_available() else "cpu"
        job = jobs.fit_job(recipe, specialists, there, prints)
        with Progress("evaluate", len(there), "tokenizers") as progress:
            rows, lacking = evaluate.evaluate(job, device, _Board(progress))
        summary.missing |= {f"tokenizers/{name}": why for name, why in lacking.items()}
        summary.made, summary.samples = len(rows), sum(row.samples for row in rows)
        summary.notes = [evaluate.line(row) for row in rows]
        summary.notes.append(storage.join(recipe.root, evaluate.FOLDER, f"{evaluate.NAME}.md"))
    summary.seconds = time.monotonic() - start
    return summary


class _Board:
    """Counts tokenizers on a line of progress; how many crops are made is its note."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None:
        if unit == self.progress.unit:
            self.progress.update(done - self.progress.done, notes="")
        else:
            self.progress.update(notes=f"{done:,.0f} of {total:,.0f} {unit}")
