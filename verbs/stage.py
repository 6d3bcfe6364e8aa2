"""What the stages share: the shards that lack outputs are processed, and what came of it is summed up.

A stage compares what the recipe asks for with the ledger and makes only what is missing. What it could not make stands
in its `Summary`; one bad shard raises nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .summary import Summary

if TYPE_CHECKING:
    from ..infra.ledger import Entry
    from ..pipelines.outputs import Output
    from ..pipelines.specialists.base import Specialist
    from ..project import Project

# Reading every key of a larger dataset after each stage would cost more than it shows.
MAX_KEYS_COMPARED = 2_000_000
FEW = 0.01  # share of images with bars that is not worth a note


def process_shards(
    stage: str, project: Project, outputs: dict[str, Output], stored: dict[str, Output] | None = None
) -> Summary:
    """Make what is missing of `outputs` on the engine.

    Args:
        stored: labels that may be read from storage instead of made again.
    """
    from ..infra.index import index
    from ..pipelines import plan as plans
    from ..pipelines import stops

    start = time.monotonic()
    outputs = shardwise(project, outputs)
    plan = project.plan(outputs, stored, footers=True)
    summary = Summary(stage, existed=len(plan.done), missing={f"shard {s}": why for s, why in plan.absent.items()})
    if plan.unseen:
        summary.notes.append(f"{len(plan.unseen)} shards cannot be looked at; all that is asked for was made of them")
    records = list(plan.done.values())
    project.inventory.keep_index()
    if plan.missing:
        from ..pipelines.worker import stage as shard_stage
        from ..pipelines.worker.reject_run import RejectRun

        prepare_root(project)
        specialists, lacking = plans.working(project.specialists, outputs, plan.missing)
        pin_weights(project, specialists, records)
        job = replace(project.shard_job(specialists, lacking), doubted=frozenset(plan.stops))
        try:
            outcome = shard_stage.run(job, plan.missing, stage)
        except BaseException as error:
            project.refresh_all()  # what was committed before the error stays, and no result says what
            if isinstance(error, RejectRun) and error.output:
                stops.keep(
                    project.root, {**outputs, **(stored or {})}, error.output, error.run, error.shards, error.said
                )
            raise
        summary.made, summary.samples = len(outcome.records), outcome.samples
        summary.missing.update({f"shard {shard}": why for shard, why in outcome.failures.items()})
        records += outcome.records
        if outcome.failures:
            project.refresh_all()  # shards that failed may have committed some of their outputs
        else:
            project.refresh(outcome.records)
        if len(outcome.records) >= index.LEAST:
            project.inventory.renew_index(lacking, outcome.lines)
    for label, stop in plan.stops.items():
        if doubted := {record.shard for record in records if stop.doubts(record)}:
            summary.missing[f"labels/{label}"] = (
                f"{len(doubted)} shards are null again; an earlier job stopped: {stop.said}"
            )
        elif not summary.missing:
            stops.drop(project.root, label)
    if summary.made:
        summary.notes += _shared_keys(project.root, records)
        summary.notes += bars_noted(records, project.recipe.images.trim_borders)
    summary.notes += [f"to look at, {output}: {why}" for output, why in _alarms(records).items()]
    for record in records:
        for reason, count in record.reasons.items():
            summary.rejects[f"{record.output}: {reason}"] += count
    if plan.outdated:
        summary.notes.append(
            f"{len(plan.outdated)} outputs are of other versions (`fourmill status`); --update makes them again"
        )
    return finish(project, summary, start, "samples", sorted(output.fingerprint for output in outputs.values()))


def _alarms(records: Sequence[Entry]) -> dict[str, str]:
    """What is odd about the values of sensors, by output."""
    from ..report.stats import stats

    return stats.noted(stats.by_output({(record.output, record.shard): record for record in records}))


def shardwise(project: Project, outputs: Mapping[str, Output]) -> dict[str, Output]:
    """Without those that are made over the whole set."""
    whole = {label for label, specialist in project.specialists.items() if specialist.of_whole_set}
    return {name: output for name, output in outputs.items() if output.spec or output.label not in whole}


def _shared_keys(root: str, records: Sequence[Entry]) -> list[str]:
    """A note for each of the first keys that several shards have."""
    from ..infra.ledger import SAMPLES

    by_output: dict[str, list[Entry]] = {}
    for record in records:
        if record.output != SAMPLES:
            by_output.setdefault(record.output, []).append(record)
    if not by_output:
        return []
    output, widest = max(by_output.items(), key=lambda item: len(item[1]))
    if sum(record.rows for record in widest) > MAX_KEYS_COMPARED:
        return []
    from ..pipelines.checks import shared_keys

    shared = shared_keys(root, output, [record.shard for record in widest])
    return [f"duplicate key {key!r}: in the shards {', '.join(names)}" for key, names in shared]


def bars_noted(records: Sequence[Entry], trimmed: bool) -> list[str]:
    """A note on images that have bars, if there are more than a few."""
    from ..pipelines.borders.find import BARS

    rows = {record.shard: record.rows for record in records}
    barred = sum({record.shard: made[BARS] for record in records if BARS in (made := record.made)}.values())
    if barred < max(1, FEW * sum(rows.values())):
        return []
    found = f"{barred:,} of {sum(rows.values()):,} images have bars of one colour"
    if trimmed:
        return [f"{found}, which were cut off (the label window says where)"]
    return [
        f"{found}, which are labelled like the photo; images.trim_borders: true cuts them off, and "
        "`fourmill plan recipe.yaml --borders bars.jpg` shows some"
    ]


def prepare_root(project: Project) -> None:
    """Called when a stage has something to do: the root must be writable, and gets the resolved recipe and the names of
    its shards.

    Raises:
        ValueError: the root cannot be written.
    """
    from .. import recipe as recipes
    from ..infra import storage
    from ..pipelines import shard_names
    from ..pipelines.sensors import places

    storage.check_writable(project.root)
    shards, stats = project.shards, project.inventory.stats
    urls = {name: places.first(url) for name, url in shards.urls.items()}
    shard_names.keep(project.root, urls, shards.known, lambda name: getattr(stats()[name], "size", -1))
    storage.put(storage.join(project.root, "recipe.yaml"), recipes.dump(project.recipe).encode())


def keep_selection(project: Project) -> None:
    """Keep in the root which samples `train.select` selects, so that nobody works it out again."""
    from ..pipelines.curation import selection as selections

    found = project.selection([name for name, _ in project.columns.shards["train"]])
    if found is not None:
        selections.keep(project.root, found)


def pin_weights(project: Project, specialists: Mapping[str, Specialist], records: Iterable[Entry]) -> None:
    """Keep in the root which commits of hub repositories its labels are made with, and their files for all nodes.

    Args:
        records: of the root, which may say what was read before.
    """
    from ..pipelines.specialists import pins, shared_weights

    made = (one for record in records for one in record.circumstances.get("specialists", {}).values())
    used = {one["weights"]: str(one.get("revision")) for one in made if isinstance(one.get("weights"), str)}
    pins.keep(project.root, specialists.values(), used)
    pins.apply(project.root, specialists.values())
    shared_weights.keep(project.weights_place, specialists.values())


def finish(project: Project, summary: Summary, start: float, unit: str, depends_on: Any) -> Summary:
    """Close a stage's summary. If it made something, its wall time is kept for the report.

    Args:
        start: `time.monotonic()` when the stage began.
        unit: what the stage counts, "samples".
        depends_on: what the stage's outputs depend on; the times of several runs with the same value are added up.
    """
    from ..infra import side_files, storage
    from ..infra.fingerprint import fingerprint

    summary.seconds = time.monotonic() - start
    if summary.made:
        url = storage.join(project.root, "ledger", "stages", f"{summary.stage}.json")
        asked = fingerprint(depends_on)
        totals: dict[str, Any] = {"seconds": 0.0, "made": 0, "samples": 0, "unit": unit, "asked": asked}
        before = side_files.read_object(url, ("seconds", "made", "samples"))
        if before is not None and before.get("asked") == asked:
            totals = before
        totals["seconds"] = round(totals["seconds"] + summary.seconds, 1)
        totals["made"] += summary.made
        totals["samples"] += summary.samples
        storage.put(url, json.dumps(totals).encode())
    return summary
