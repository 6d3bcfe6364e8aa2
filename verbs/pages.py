"""The pages that people look at, written from what a root holds: the gallery and the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import jobs
from ..infra import storage
from ..infra.fingerprint import fingerprint
from ..infra.ledger import SAMPLES
from ..pipelines import plan as plans
from ..pipelines.plan import Plan
from ..recipe import Recipe, RecipeError
from ..report.samples import Collector, spread

REPORT_VERSION = 1


def write_gallery(recipe: Recipe, count: int = 60, out: str | None = None) -> str:
    """Write the gallery of a recipe's dataset; returns where it is.

    Args:
        count: samples, evenly from all shards that are labelled.
        out: a local file or any URL; ROOT/gallery.html unless given.
    """
    from ..report.html.gallery import Gallery, render_gallery

    recipe, collector, plan = collect(recipe)
    rows = {shard: record.rows for (output, shard), record in plan.done.items() if output == SAMPLES}
    if not rows:
        raise RecipeError("no shard is labelled yet; run `fourmill label` or `fourmill run` first")
    tasks = list(plan.tasks.values())
    samples = collector.samples(tasks, spread(tasks, rows, count))
    facts = [("root", recipe.root), ("shards", f"{len(rows):,}"), ("samples", f"{sum(rows.values()):,}")]
    page = render_gallery(Gallery(f"fourmill: {Path(recipe.root).name}", samples, sum(rows.values()), facts))
    return _write(page, out or storage.join(recipe.root, "gallery.html"))


def collect(recipe: Recipe) -> tuple[Recipe, Collector, Plan]:
    """What both pages need: the recipe as stages see it, a collector of samples, and the plan of all outputs."""
    recipe, specialists = jobs.prepare(recipe)
    labels = plans.label_outputs(recipe, specialists)
    tokenizers = jobs.fitted(recipe, specialists)
    columns = {}
    if set(tokenizers) >= set(jobs.fit_fingerprints(recipe, specialists)):
        columns = plans.token_outputs(recipe, specialists, tokenizers)
    stored = {name: output for name, output in labels.items() if name != SAMPLES}
    plan = plans.make(recipe, {**labels, **columns}, stored)
    return recipe, Collector(jobs.mill_job(recipe, specialists, {}), columns, plan.done), plan


def write_report(recipe: Recipe, out: str | None = None, extras: dict[str, Any] | None = None) -> str:
    """Write the report of a run; returns where it is.

    Args:
        out: a local file or any URL; ROOT/report.html unless given.
        extras: fields of `report.html.report.ReportData` that only the caller knows (title, photos, commands, ...).
    """
    from ..report import results
    from ..report.html.report import render_report

    recipe, collector, plan = collect(recipe)
    specialists = collector.job.specialists
    tokenizers = jobs.fitted(recipe, specialists)
    if not collector.columns:
        raise RecipeError("the tokenizers are not fitted yet; run `fourmill run` first")
    run = jobs.train_job(recipe, specialists)
    generation = jobs.generate_job(recipe, run) if recipe.generate.chains else None
    data = results.collect(recipe, collector, plan, tokenizers, run, generation, extras or {})
    return _write(render_report(data), out or storage.join(recipe.root, "report.html"))


def current_report(recipe: Recipe, extras: dict[str, Any] | None = None) -> str:
    """Where the report of a complete run is.

    It is written if there is none yet, or if the one there shows another state of the root: the fingerprint of all that
    it shows is kept. `extras` as in `write_report`.
    """
    recipe, specialists = jobs.prepare(recipe)
    run = jobs.train_job(recipe, specialists)
    generation = jobs.generate_job(recipe, run).fingerprint if recipe.generate.chains else ""
    labels = [output.fingerprint for output in plans.label_outputs(recipe, specialists).values()]
    shows = fingerprint(REPORT_VERSION, run.fingerprint, generation, labels).encode()
    url, mark = storage.join(recipe.root, "report.html"), storage.join(recipe.root, "ledger", "report")
    if not (storage.exists(url) and storage.exists(mark) and storage.read_bytes(mark) == shows):
        write_report(recipe, extras=extras)
        storage.put(mark, shows)
    return url


def _write(page: str, url: str) -> str:
    storage.put(url, page.encode("utf-8", "replace"))
    return url
