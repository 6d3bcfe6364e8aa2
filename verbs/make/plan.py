"""`fourmill plan`: what a recipe will do, before it is done: labels in their order, what makes each and from which
weights, tokenizers, columns, what an actor takes, what is left to do, and time and memory of every stage."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...infra.progress import duration
from .. import arguments, bars, checkup, costs, estimates, machines, selected, summary
from ..prepare import download
from ..stage import shardwise

if TYPE_CHECKING:
    from ...pipelines.plan import Plan, ShardTask
    from ...pipelines.specialists.base import Specialist
    from ...pipelines.worker.job import Job
    from ...pipelines.worker.shard_worker import ShardWorker
    from ...project import Project
    from ...recipe import Recipe
    from ..machines import Machine

ORDER = 30
HELP = "what the recipe will do: labels, weights, tokenizers, actors, time"
EXAMPLES = (
    "fourmill plan recipe.yaml",
    "fourmill plan recipe.yaml --measure 32",
    "fourmill plan recipe.yaml --for h200x8",
    "fourmill plan recipe.yaml --price gpu_hour=2.5 --price gib_month=0.023 --keep",
    "fourmill plan recipe.yaml --node node.json",
)

LOOKED_AT = 50  # images of the first shard, for bars
MEASURED = 8  # samples: a second or two of classical specialists
ACTOR_GB = 0.5  # of an actor without specialists: Ray, Arrow, OpenCV and the images of a batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    text = (
        "label and tokenize so many samples here, and throw them away, for the times of these stages (default: 8, or 0 "
        "if that would fetch weights)"
    )
    parser.add_argument("--measure", type=int, default=None, metavar="N", help=text)
    text = "the machine that it will run on, as of `fourmill init` (default: this one)"
    parser.add_argument("--for", dest="machine", metavar="MACHINE", help=text)
    text = "a file of `plan --measure N --json` on another machine, whose measurements count instead of this one's"
    parser.add_argument("--node", metavar="FILE", help=text)
    text = f"what you pay, for the money of each stage: {', '.join(costs.PRICES)}; several times"
    parser.add_argument("--price", action="append", default=[], metavar="NAME=NUMBER", help=text)
    text = "keep the figures in the root: once a stage is done, `plan` says beside them what it took"
    parser.add_argument("--keep", action="store_true", help=text)
    arguments.add_borders(parser)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.measure is not None and args.measure < 0:
        raise ValueError(f"--measure: got {args.measure}, expected 0 or more samples")
    machine = machines.named(args.machine) if args.machine else None
    prices = costs.parsed(args.price)
    node = costs.of_node(args.node) if args.node else None
    if node and args.measure:
        raise ValueError("--measure and --node: one of them says what labelling takes; leave the other one out")
    if args.borders:
        bars.check(args.borders)
    recipe = arguments.load_recipe(args)
    fetched, there = download.first_of_plan(recipe, args.json)
    if not there:
        return 0
    # Before the recipe is resolved, which ends at the first thing that is wrong.
    report = checkup.examine(recipe, args.machine, checkup.PLAN_SECONDS)
    if not args.json:
        for line in checkup.lines(report):
            print(summary.text(line).plain)
    taken = {fit.stage: fit.gib for fit in report.fits}
    project = arguments.load_project(args)
    described = describe(project, args.measure, machine, args.borders or "", taken, prices, node)
    if args.keep:
        costs.keep(project.root, described["stages"], described["samples"])
    return show({**fetched, **described, "doctor": report.as_json()}, as_json=args.json)


def describe(
    project: Project, measure: int | None = None, machine: Machine | None = None, borders: str = "",
    taken: Mapping[str, float] | None = None, prices: Mapping[str, float] | None = None,
    node: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The plan as plain values, for people (`show`) and programs.

    Args:
        measure: samples of the first shard to label and tokenize here, on this machine, and throw away; 0 for none,
            None for a few if no weights need be fetched for them.
        machine: that the recipe will run on; None for this one.
        borders: where a picture of images with bars is written, if there are some; "" for none.
        taken: GiB of a GPU that a stage takes, as `doctor` has counted them.
        prices: see `costs.PRICES`. node: the plan of another machine, whose measurements count.
    """
    recipe, specialists = project.recipe, project.specialists
    notes = project.check_training() + checkup.endless_fits(project, machine)
    fitted, unfitted = project.fitted, project.unfitted
    project.check_fits(unfitted)
    outputs = dict(project.label_outputs)
    if not unfitted:
        outputs |= project.token_outputs
    plan = project.plan(outputs)
    called = {label: one for label, one in specialists.items() if not one.of_whole_set}
    job = project.shard_job(called, shardwise(project, outputs))
    rows = {shard: record.rows for (_, shard), record in plan.done.items()}
    done = Counter(name for name, _ in plan.done)
    described: dict[str, Any] = {
        "root": recipe.root,
        "shards": len(plan.shards),
        "samples": sum(rows.values()) if len(rows) == len(plan.shards) else None,
        "labels": [_label(recipe, label, specialist, specialists) for label, specialist in specialists.items()],
        "tokenizers": [_tokenizer(recipe, name, name in fitted) for name in (*fitted, *unfitted)],
        "columns": [_column(recipe, name) for name in recipe.modalities],
        "actors": _actors(recipe, job, len(plan.shards), machine),
        "missing": {name: len(plan.shards) - done[name] for name in outputs},
        "absent": plan.absent,
        "notes": notes,
    }
    reads = not all(output.imported for output in outputs.values())  # nothing is read of what is imported
    of_sample, measured = None, None
    if reads:
        measured = node.get("measured") if node else _measured_if_asked(job, plan, measure, described)
    problems, described["bars"] = _first_shard(job, plan, borders) if reads else ({}, "")
    described["problems"] = measured["problems"] if measured else problems
    if measured:
        described["measured"] = measured
        described["samples"] = described["samples"] or measured["dataset_samples"]
        if not measured["all_rejected"]:
            of_columns = sum(t for name, t in measured["by_output"].items() if name.startswith("tokens/"))
            seconds, columns = measured["seconds_per_sample"], frozenset(measured["columns"])
            of_sample = estimates.Measured(seconds, seconds - of_columns, columns)
    inputs = (described["samples"], described["actors"], described["missing"], of_sample, taken)
    described["selected"] = selected.describe(project, plan.done)
    estimator = estimates.Estimator(project, machine, *inputs, node and node["node"])
    described["stages"] = [stage.as_json() for stage in estimator.all()]
    described["prices"] = dict(prices or {})
    costs.add(described["stages"], project, described, plan.done, described["prices"])
    described["compared"] = costs.compared(project.root, described["stages"])
    described["node"] = node["node"] if node else {"machine": str(machines.here()), "flops": estimator.flops()}
    return described


def _first_shard(job: Job, plan: Plan, borders: str) -> tuple[dict[str, int], str]:
    """What is wrong with the tar of the first shard, each reason counted, and what bars its first images have, if it is
    a file here: nothing is fetched."""
    from ...infra import removals, storage
    from ...infra.explain import reason_class
    from ...pipelines.borders.look import look
    from ...pipelines.sensors import parallel

    task = next(iter(plan.tasks.values()), None)
    if task is None or not storage.is_local(task.url):
        return {}, ""
    try:
        with parallel.open_shard(task.url, job.scratch, job.every_key, job.key) as shard:
            shard.withhold(removals.read(job.root), task.shard)
            seen = look(shard, shard.samples[:LOOKED_AT], job.images.max_pixels)
            problems = dict(Counter(reason_class(reason) for _, reason in shard.problems(job.reads)))
    except (OSError, ValueError) as error:
        return {str(error): 1}, ""
    does = "they are cut off" if job.images.trim_borders else "images.trim_borders: true would cut them off"
    said = [f"{seen.finding}; {does}"] if seen.barred else []
    return problems, "; ".join([*said, bars.write(seen, borders)] if borders else said)


def _label(recipe: Recipe, label: str, specialist: Specialist, specialists: Mapping[str, Specialist]) -> dict[str, Any]:
    from ...modalities import MODALITIES
    from ...pipelines.specialists.pretrained import Pretrained

    pretrained = isinstance(specialist, Pretrained)
    serves = [name for name in recipe.modalities if MODALITIES[name].label == label]
    serves += [name for name, other in specialists.items() if label in (*other.needs, *other.looks_at())]
    serves += ["kept"] if label in recipe.labels.keep else []
    return {
        "label": label,
        "specialist": specialist.identity()["specialist"],
        "weights": getattr(specialist, "weights", ""),
        "revision": getattr(specialist, "revision", None),
        "licence": specialist.weights_licence() if isinstance(specialist, Pretrained) else "",
        "from": [need for need in (*specialist.needs, *specialist.looks_at()) if need in specialists],
        "without": [used for used in specialist.looks_at() if used not in specialists],
        "for": serves,
        "device": "GPU" if pretrained and specialist.gpus else "CPU",
        "memory_gb": round(specialist.resident_gb(), 2),
    }


def _tokenizer(recipe: Recipe, name: str, fitted: bool) -> dict[str, Any]:
    from ...modalities import MODALITIES, TOKENIZERS

    label = TOKENIZERS[name].label if name in TOKENIZERS else "caption"
    serves = [modality for modality in recipe.modalities if name in MODALITIES[modality].tokenizers]
    weights = (recipe.tokenizer(name) if name in TOKENIZERS else recipe.tokenizers.text).weights
    return {"tokenizer": name, "label": label, "for": serves, "fitted": fitted, "weights": weights}


def _column(recipe: Recipe, name: str) -> dict[str, Any]:
    from ...modalities import MODALITIES

    (spec,) = (spec for spec in recipe.specs() if spec.name == name)
    modality = MODALITIES[name]
    return {
        "modality": name,
        "label": modality.label,
        "tokenizers": list(modality.tokenizers),
        "tokens": spec.max_tokens,
        "vocabulary": spec.vocab_size,
        "crops": recipe.images.crops if modality.spatial else 1,
    }


def _actors(recipe: Recipe, job: Job, shards: int, machine: Machine | None) -> dict[str, Any]:
    """What one actor takes, and how many run at once: on `machine`, the cluster of engine.address, or here."""
    from ...pipelines.engine.resources import places

    nodes = _nodes(recipe.engine.address, machine)
    demand = job.demand(any(node.get("GPU") for node in nodes))
    fits = places(nodes, demand)
    return {
        "cpus": demand.cpus,
        "gpus": demand.gpus,
        "memory_gb": round(demand.memory / 2**30 + ACTOR_GB, 2),
        "where": str(machine.name if machine else recipe.engine.address or "this machine"),
        "cluster": {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")},
        "at_once": min(recipe.engine.actors or fits, fits, shards),
    }


def _nodes(address: str | None, machine: Machine | None) -> list[dict[str, float]]:
    """Resources of the nodes; of this machine without starting Ray."""
    if machine is None and address is not None:
        from ...infra.cluster import cluster

        with cluster(address) as ray:
            return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    there = machine or machines.here()
    # Ray leaves 30 % of the memory to its object store.
    return [{"CPU": there.cores, "GPU": there.gpus, "memory": 0.7 * there.memory * machines.GIB}]


def _measured_if_asked(job: Job, plan: Plan, measure: int | None, described: dict[str, Any]) -> dict[str, Any] | None:
    """What `measure` samples took; None if none is to be measured, or nobody has asked and it cannot be done."""
    asked = measure is not None
    if measure is None:
        measure = 0 if any(row["weights"] for row in described["labels"]) else MEASURED
    if not measure or not plan.tasks.keys() - plan.unseen.keys():
        return None
    try:
        return _measured(job, plan, measure, described)
    except Exception as error:
        # Of any kind, as of a user's specialist that only a worker can load: the rest of the plan holds without it.
        if asked:
            raise
        described["not_measured"] = str(error)
        return None


def _measured(job: Job, plan: Plan, count: int, described: dict[str, Any]) -> dict[str, Any]:
    import torch

    from ...infra.ledger import SAMPLES
    from ...pipelines.worker.shard_worker import ShardWorker

    task = next(task for shard, task in plan.tasks.items() if shard not in plan.unseen)
    worker = ShardWorker(job)
    worker.setup("cuda" if torch.cuda.is_available() else "cpu")
    labels = {row["label"] for row in described["columns"]}
    samples, wall = worker.measure(task, list(job.outputs), count, labels)
    tally = worker.tally
    per_sample = {name: seconds / max(samples, 1) for name, seconds in tally.seconds.items()}
    columns = [output.spec.name for output in job.outputs.values() if output.spec is not None]
    outputs = [output for name, output in job.outputs.items() if name != SAMPLES]
    others = {*labels, *job.specialists} - {output.label for output in outputs}
    cells = samples * (len(outputs) + len(others))  # each is a value or a reject
    return {
        "samples": samples,
        "shard": task.shard,
        "device": "GPU" if torch.cuda.is_available() else "CPU",
        "seconds_per_sample": wall / max(samples, 1),
        "dataset_samples": described["samples"] or _estimated_samples(plan, task, worker),
        "columns": columns,
        "without": [row["modality"] for row in described["columns"] if row["modality"] not in columns],
        "rejects": dict(tally.rejects),
        "problems": dict(tally.problems),
        # What is rejected at once takes no time, and says nothing of the samples that are not.
        "all_rejected": not samples or 0 < cells <= tally.rejects.total(),
        "by_output": dict(sorted(per_sample.items(), key=lambda item: -item[1])),
    }


def _estimated_samples(plan: Plan, task: ShardTask, worker: ShardWorker) -> int:
    """All shards are taken to be like the first one."""
    return worker.samples_of(task) * len(plan.tasks)


def show(described: dict[str, Any], as_json: bool) -> int:
    """Print a plan. Returns the exit status, 0 unless a shard cannot be read."""
    if as_json:
        print(json.dumps(described, indent=1, ensure_ascii=False))
        return 1 if described["absent"] else 0
    console = summary.console(140)
    samples = f", {described['samples']:,} samples" if described["samples"] is not None else ""
    labels = [_label_row(row) for row in described["labels"]]
    rows: list[tuple[str, ...]]
    columns = ("label", "made by", "weights", "licence", "from", "for", "on", "GiB")
    console.print(
        summary.table(
            f"{described['root']}: {described['shards']} shards{samples}\nlabels, in this order", columns, labels
        )
    )
    for row in described["labels"]:
        if row["without"]:
            console.print(f"{row['label']} does without {', '.join(row['without'])}: the recipe does not make them")
    rows = [(t["tokenizer"], t["label"], ", ".join(t["for"]), _fit_state(t)) for t in described["tokenizers"]]
    console.print(summary.table("tokenizers", ("tokenizer", "fitted on", "for", "state"), rows))
    rows = [_column_row(row, described["missing"]) for row in described["columns"]]
    console.print(
        summary.table("columns", ("modality", "from", "tokenizers", "tokens", "vocabulary", "shards missing"), rows)
    )
    actors = described["actors"]
    console.print(
        f"an actor takes {actors['cpus']:g} CPUs, {actors['gpus']:g} GPUs and {actors['memory_gb']:g} GiB; "
        f"{actors['where']} has {actors['cluster']['CPU']:g} CPUs and {actors['cluster']['GPU']:g} GPUs: "
        f"{actors['at_once']} at once"
    )
    if not actors["at_once"]:
        console.print("no actor fits: lower engine.cpus or engine.gpus, or label in several runs (labels.keep)")
    for note in described["notes"]:
        console.print(summary.text(note))
    if described["selected"]:
        selected.show(console, described["selected"])
    for reason, count in described["problems"].items():
        console.print(summary.text(f"in the first shard, {count} of them: {reason}"))
    if described["bars"]:
        console.print(summary.text(f"in the first shard {described['bars']}"))
    if "measured" in described:
        _show_measured(console, described["measured"])
    if "not_measured" in described:
        console.print(summary.text(f"no sample could be measured here: {described['not_measured']}"))
    if fits := described.get("doctor", {}).get("fits"):
        console.print(checkup.fits_table(actors["where"], fits))
    _show_stages(console, described["stages"])
    costs.show(console, described)
    for shard, why in described["absent"].items():
        console.print(f"shard {shard}: {why}")
    return 1 if described["absent"] else 0


def _show_measured(console: Any, measured: dict[str, Any]) -> None:
    rows = [(name, f"{1000 * seconds:,.1f}") for name, seconds in measured["by_output"].items()]
    rows.append(("all, with reading and decoding", f"{1000 * measured['seconds_per_sample']:,.1f}"))
    title = f"measured on {measured['samples']} samples of shard {measured['shard']}, on one {measured['device']}"
    console.print(summary.table(title, ("output", "ms a sample"), rows))
    if measured["without"]:
        console.print(f"not measured, since their tokenizers are not fitted: {', '.join(measured['without'])}")
    for reason, count in measured["rejects"].items():
        console.print(summary.text(f"rejected, {count} of them: {reason}"))
    if measured["all_rejected"]:
        console.print("every sample was rejected: nothing can be said about the others")


def _show_stages(console: Any, stages: list[dict[str, Any]]) -> None:
    rows = []
    for stage in stages:
        time = "unknown" if stage["seconds"] is None else duration(stage["seconds"])
        memory = f"{stage['memory_gb']:g}" if stage["memory_gb"] else ""
        rows.append((stage["stage"], time, str(stage["workers"] or ""), memory, stage["rests_on"]))
    console.print(
        summary.table("about how long each stage takes", ("stage", "time", "workers", "GiB each", "rests on"), rows)
    )
    known = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    more = "" if len(known) == len(stages) else ", and what is unknown"
    console.print(f"in all about {duration(sum(known))}{more}")


def _label_row(row: dict[str, Any]) -> tuple[str, ...]:
    weights = row["weights"] + (f"@{row['revision']}" if row["revision"] else "")
    memory = f"{row['memory_gb']:g}"
    made = row["specialist"]
    chain = ", ".join(row["from"]), ", ".join(row["for"])
    return row["label"], made, weights, row["licence"], *chain, row["device"], memory


def _column_row(row: dict[str, Any], missing: Mapping[str, int]) -> tuple[str, ...]:
    lacking = missing.get(f"tokens/{row['modality']}")
    tokens = f"{row['crops']} x {row['tokens']}" if row["crops"] > 1 else str(row["tokens"])
    state = "all (no tokenizer yet)" if lacking is None else f"{lacking:,}"
    vocabulary = f"{row['vocabulary']:,}" if row["vocabulary"] else ""
    return row["modality"], row["label"], ", ".join(row["tokenizers"]), tokens, vocabulary, state


def _fit_state(row: dict[str, Any]) -> str:
    if row["fitted"]:
        return "there"
    return f"`fourmill fit` will copy it from {row['weights']}" if row["weights"] else "`fourmill fit` will fit it"
