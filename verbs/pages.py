"""The pages that people look at, written from what a root holds: the gallery and the report of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..infra import storage
from ..infra.fingerprint import fingerprint
from ..infra.ledger import SAMPLES
from ..pipelines.plan import Plan
from ..project import Project
from ..recipe import RecipeError

if TYPE_CHECKING:
    from ..report.html.gallery import GallerySample
    from ..report.probe import Probed
    from ..report.samples import Collector
    from ..report.stats.outliers import Outlier
    from ..report.stats.stats import Stats

OUTLIERS_SHOWN = 24
REPORT_VERSION = 4


def check_place(out: str | None) -> None:
    """ValueError if a page cannot be written to a local file: better known before its samples are read."""
    if out is None or not storage.is_local(out):
        return
    path = storage.local_path(out).absolute()
    if path.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it, such as {path / 'page.html'}")
    above = next(one for one in path.parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"--out {out}: cannot write in {above}; name another file")


def write_gallery(project: Project, count: int = 60, out: str | None = None) -> str:
    """Write the gallery of a recipe's dataset; returns where it is.

    Args:
        count: samples, evenly from all shards that are labelled.
        out: a local file or any URL; ROOT/gallery.html unless given.
    """
    from ..report import bands
    from ..report.html.gallery import Gallery, render_gallery
    from ..report.samples import spread

    check_place(out)
    collector, plan = collect(project)
    rows = {shard: record.rows for (output, shard), record in plan.done.items() if output == SAMPLES}
    if not rows:
        raise RecipeError("no shard is labelled yet; run `fourmill label` or `fourmill run` first")
    tasks = list(plan.tasks.values())
    samples = collector.samples(tasks, spread(tasks, rows, count))
    facts = [("root", project.root), ("shards", f"{len(rows):,}"), ("samples", f"{sum(rows.values()):,}")]
    known = list(filter(all, (bands.table(project.root, name) for name in sorted(project.fitted))))
    page = render_gallery(Gallery(f"fourmill: {Path(project.root).name}", samples, sum(rows.values()), facts, known))
    return write(page, out or storage.join(project.root, "gallery.html"))


def write_stored(root: str, count: int = 60, out: str | None = None) -> str:
    """Write the gallery of what a root holds, by its files alone: no recipe is read, no specialist, no code of its own.

    Args:
        count: samples, evenly from all shards. out: as in `write_gallery`.
    """
    from ..report import bands
    from ..report.html.gallery import Gallery, render_gallery
    from ..report.inspect.root import stored

    check_place(out)
    samples, total, shards = stored(root, count)
    if not samples:
        raise ValueError(f"{root}: it has no columns and no labels; run `fourmill label` first")
    facts = [
        ("root", root),
        ("shards", f"{shards:,}"),
        ("samples", f"{total:,}"),
        ("read", "as stored, without its code"),
    ]
    names = sorted(storage.list_names(storage.join(root, "tokenizers")))
    known = list(filter(all, (bands.table(root, name) for name in names)))
    page = render_gallery(Gallery(f"fourmill: {Path(root).name}", samples, total, facts, known))
    return write(page, out or storage.join(root, "gallery.html"))


def write_probe(project: Project, what: str, out: str | None = None) -> tuple[Probed, str]:
    """Ask the recipe's model of `what`, "normals" or "depth", about a room that is known; what it said, and its page.

    ValueError if the recipe has no such model, or it cannot be asked.
    """
    import torch

    from ..report import probe
    from ..report.html.probe import render_probe

    check_place(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probed = probe.probe(probe.LABELS[what], project.specialists, device)
    return probed, write(render_probe(probed), out or storage.join(project.root, f"probe-{what}.html"))


def write_stats(stats: Stats, out: str | None = None) -> str:
    """Write the page of a root's statistics; returns where it is. `out` as in `write_gallery`."""
    from ..report.html.stats import StatsPage, render_stats
    from ..report.inspect.root import gather
    from ..report.stats.stats import PAGE

    outliers: list[tuple[Outlier, GallerySample | None]] = []
    for one in stats.outliers[:OUTLIERS_SHOWN]:
        try:
            outliers.append((one, gather(stats.root, one.shard, one.row)))
        except (OSError, ValueError, AssertionError):  # what is wrong with it is said by `check`
            outliers.append((one, None))
    codes = {name: of.codes for name, of in stats.merged.items() if of.codes is not None}
    shown = StatsPage(stats.root, stats.made, stats.findings, stats.outputs, codes, stats.distances, outliers)
    return write(render_stats(shown), out or storage.join(stats.root, PAGE))


def collect(project: Project) -> tuple[Collector, Plan]:
    """What both pages need: a collector of samples, and the plan of all outputs."""
    from ..report.samples import Collector  # torch, which a page that is up to date does not need

    columns = {} if project.unfitted else project.token_outputs
    # Of imported ones those can be shown whose tokenizer the recipe names.
    columns = {name: one for name, one in columns.items() if not one.imported or one.is_decodable}
    plan = project.plan({**project.label_outputs, **columns}, project.stored_labels)
    # Captions that specialists only pass through are in the shards.
    labels = tuple(label for label, specialist in project.specialists.items() if specialist.name != "captions")
    images, options = project.recipe.images, project.codec_options()
    keys = project.recipe.keys
    return Collector(project.root, images, options, labels, columns, plan.done, project.classes, *keys), plan


def write_report(project: Project, out: str | None = None, extras: dict[str, Any] | None = None) -> str:
    """Write the report of a run; returns where it is.

    Args:
        out: a local file or any URL; ROOT/report.html unless given.
        extras: fields of `report.html.report.ReportData` that only the caller knows (title, photos, commands, ...).
    """
    from ..report import results
    from ..report.html.report import render_report

    check_place(out)
    recipe = project.recipe
    collector, plan = collect(project)
    if not collector.columns:
        raise RecipeError("the tokenizers are not fitted yet; run `fourmill run` first")
    generation = project.generate_job if recipe.generate.chains else None
    evaluation = project.evaluate_job if recipe.evaluate.truth and recipe.samples.val else None
    jobs = project.train_job, generation, evaluation
    data = results.collect(recipe, collector, plan, project.fitted, *jobs, extras or {})
    return write(render_report(data), out or storage.join(project.root, "report.html"))


def current_report(project: Project, extras: dict[str, Any] | None = None) -> str:
    """Where the report of a complete run is.

    It is written if there is none yet, or if the one there shows another state of the root: the fingerprint of all that
    it shows is kept. `extras` as in `write_report`.
    """
    from ..report.stats import stats
    from ..train.downstream.evaluation.tables import results

    generation = project.generate_job.fingerprint if project.recipe.generate.chains else ""
    labels = [output.fingerprint for output in project.label_outputs.values()]
    # A root without an evaluation has the mark that it had before there were any.
    measured = [storage.sha256(one) for one in results(project.root)]
    records = project.inventory.records({**project.label_outputs, **project.token_outputs})  # a run has read them
    measured += [f"{output}: {said}" for output, said in stats.alarms(project.root, stats.by_output(records)).items()]
    parts = [REPORT_VERSION, project.train_job.fingerprint, generation, labels, *([measured] if measured else [])]
    shows = fingerprint(*parts).encode()
    url, mark = storage.join(project.root, "report.html"), storage.join(project.root, "ledger", "report")
    if not (storage.exists(url) and storage.exists(mark) and storage.read_bytes(mark) == shows):
        write_report(project, extras=extras)
        storage.put(mark, shows)
    return url


def write(page: str, url: str) -> str:
    """Put a page; returns where it is."""
    storage.put(url, page.encode("utf-8", "replace"))
    return url
