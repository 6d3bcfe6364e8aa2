"""Duplicates of a recipe's set: the label `duplicate` of the shards that lack it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from .summary import Summary

if TYPE_CHECKING:
    from ..project import Project


def make(project: Project) -> Summary:
    """Decide the shards that have the labels which are compared; nothing if the recipe keeps no `duplicate`."""
    from ..infra import ledger
    from ..modalities import DUPLICATE
    from ..pipelines.curation.duplicates import join
    from ..pipelines.specialists.curation.duplicates import Duplicates
    from . import stage

    start, summary = time.monotonic(), Summary("duplicates")
    name, specialist = f"labels/{DUPLICATE}", project.specialists.get(DUPLICATE)
    output = project.label_outputs.get(name)
    if output is None or not isinstance(specialist, Duplicates):
        return summary
    methods = [join.Method(label, specialist.least(label)) for label in specialist.by]
    wanted = {f"labels/{one.label}": project.label_outputs[f"labels/{one.label}"] for one in methods}
    plan = project.plan({**wanted, name: output}, footers=True)
    there = dict.fromkeys(shard for shard in plan.shards if all((of, shard) in plan.done for of in wanted))
    done = {shard: record for (of, shard), record in plan.done.items() if of == name and shard in there}
    kept, new = join.ordered(list(there), done, plan.done, methods)
    lost = [shard for shard in plan.shards if shard not in there and (name, shard) not in plan.done]
    summary.missing = {f"{name}, shard {shard}": f"it has no {', '.join(wanted)} yet" for shard in lost}
    summary.existed = len(kept)
    if new:
        stage.prepare_root(project)
        records = join.decide(project.root, output, kept, new, plan.done, methods)
        project.refresh(ledger.entry(record) for record in records)
        summary.made = len(records)
    summary.seconds = time.monotonic() - start
    return summary


def added(project: Project, summary: Summary, later: Collection[str] = ()) -> Summary:
    """The summary of a stage that has made labels, with the duplicates by these.

    Args:
        later: labels that another stage makes, which will look for duplicates then.
    """
    from ..modalities import DUPLICATE

    specialist = project.specialists.get(DUPLICATE)
    if specialist is None or not set(specialist.needs).isdisjoint(later):
        return summary
    found = make(project)
    summary.made, summary.existed = summary.made + found.made, summary.existed + found.existed
    summary.missing |= found.missing
    summary.seconds += found.seconds
    summary.notes += found.notes
    return summary


def write_page(project: Project, count: int, out: str | None = None) -> str:
    """Write the page of pairs; returns where it is.

    Args:
        count: pairs on it. out: a local file or any URL; ROOT/duplicates.html unless given.
    """
    from ..infra import storage
    from ..report.duplicates import collect
    from ..report.html.pairs import render_pairs
    from . import pages

    collector, plan = pages.collect(project)
    found = collect(project.root, plan, collector, count)
    return pages.write(render_pairs(project.root, found), out or storage.join(project.root, "duplicates.html"))
