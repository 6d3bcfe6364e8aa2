"""`fourmill status`: what the recipe asks for, what of it exists, and what is missing."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ...infra import stopping
from .. import arguments, summary

if TYPE_CHECKING:
    from ...pipelines.plan import Plan
    from ...project import Project

ORDER = 10
HELP = "what the recipe asks for, what exists, what is missing"
EXAMPLES = (
    "fourmill status recipe.yaml",
    "fourmill status recipe.yaml --watch",
    "fourmill status recipe.yaml --json",
    "fourmill status s3://bucket/out",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_or_root(parser)
    arguments.add_json(parser)
    text = "look again every so many seconds (default: 10) until nothing is missing: rates, time left, rejects"
    parser.add_argument("--watch", nargs="?", const=10.0, type=float, metavar="SECONDS", help=text)


def main(args: argparse.Namespace) -> int:
    root = arguments.root_of(args)
    if args.watch is not None:
        if root:
            raise ValueError("--watch needs a recipe, which says what is asked for; a root has what there is")
        return _watch(args)
    if root:
        return show_stored(root, as_json=args.json)
    return show(describe(arguments.load_to_look(args)), as_json=args.json)


def _watch(args: argparse.Namespace) -> int:
    from .. import watch

    if not args.watch >= 1:
        raise ValueError(f"--watch: got {args.watch:g}, expected a second or more")
    try:
        watch.follow(watch.Watch(lambda: arguments.load_to_look(args), missing_runs), args.watch, args.json)
    except KeyboardInterrupt as interrupt:
        raise stopping.because_of(interrupt, "what is watched goes on") from None
    return 0 if args.json else show(describe(arguments.load_to_look(args)), as_json=False)


def describe(project: Project) -> dict[str, Any]:
    """{"root", "shards", "outputs": [...], "missing": {what: why}, "outdated": {what: why}, "removed", "unseen",
    "alarms": {output: what}}.

    Looks at the ledger, and at sizes and footers of files, and at some tokens of shards that came after a run began;
    nothing is started and nothing is written.
    """
    from ...pipelines import chunk_files
    from ...report.stats import stats

    recipe = project.recipe
    missing = {f"tokenizers/{name}": "not fitted as the recipe asks" for name in project.unfitted}
    outputs = dict(project.label_outputs)
    if not missing:
        outputs |= project.token_outputs
    plan = project.plan(outputs, footers=True)
    nothing = {"done": 0, "asked": len(plan.shards), "rows": 0, "nulls": 0, "bytes": 0}
    sums: dict[str, dict[str, Any]] = {name: {"output": name, **nothing} for name in outputs}
    for (name, _), record in plan.done.items():
        row = sums[name]
        row["done"] += 1
        row["rows"] += record.rows
        row["nulls"] += record.nulls
        row["bytes"] += record.bytes
    rows = list(sums.values())
    if missing:
        rows += [{"output": f"tokens/{name}", **nothing} for name in recipe.modalities]
    missing |= {f"shard {shard}": why for shard, why in plan.absent.items()}
    kept = set(chunk_files.shards(project.root)) if plan.missing else set()
    for task in plan.missing:
        count = chunk_files.rows_of(chunk_files.of_shard(project.root, task.shard)) if task.shard in kept else 0
        said = f"; {count:,} of its samples are in chunks, from which the next run goes on" if count else ""
        missing[f"shard {task.shard}"] = f"lacks {', '.join(task.outputs)}{said}"
    if not missing or any(name.startswith("tokens/") for name in outputs):
        missing |= missing_runs(project)
    outdated = _outdated(project, plan)
    return {
        "root": project.root, "shards": len(plan.shards), "outputs": rows, "missing": missing, "outdated": outdated,
        "removed": removed_from(project.root), "unseen": {} if project.unfitted else unseen(project),
        "alarms": stats.alarms(project.root, stats.by_output(plan.done)),
    }  # fmt: skip


def unseen(project: Project) -> dict[str, str]:
    """{run: which shards came after it began} and {modality: whether their tokens look like those that it has seen}; {}
    if it has seen all."""
    from ...infra.explain import listing
    from ...recipe import RecipeError
    from ...report import likeness

    try:
        shards = project.unseen_shards()
    except RecipeError:  # there is nothing to train on yet
        return {}
    if not shards:
        return {}

    job = project.train_job
    rows = dict(project.columns.shards["train"])
    said = (
        f"has not seen {len(shards)} of {len(rows)} shards ({sum(rows[one] for one in shards):,} of "
        f"{sum(rows.values()):,} samples), which came after it began: {listing(shards[:5])}"
        f"{', ...' if len(shards) > 5 else ''}; `fourmill train --update` begins a run on all of them, with this one's "
        f"weights by train.init={job.folder}"
    )
    found = likeness.compare(project.root, job.specs, [one.name for one in job.shards], shards)
    return {project.run_output: said} | {f"tokens/{one.modality}": str(one) for one in found}


def missing_runs(project: Project) -> dict[str, str]:
    """The run and the generations, if they are missing, and why."""
    from ...recipe import RecipeError

    try:
        record = project.run_record()
    except RecipeError as error:
        return {project.run_output: str(error)}
    if record is None:
        return {project.run_output: _unfinished(project)}
    if project.recipe.generate.chains and project.generated_record() is None:
        return {f"generated/{project.recipe.train.name}": "not generated as the recipe asks"}
    return {}


def _unfinished(project: Project) -> str:
    """Why the run that the recipe asks for counts as missing."""
    from ...infra import ledger
    from ...train import checkpoint

    job = project.train_job
    if ledger.read(project.root, project.run_output, job.fingerprint) is not None:
        return "its model was deleted; `fourmill train` makes it again"
    if saved := checkpoint.complete(job.checkpoints):
        return f"trained up to step {saved[-1].step} of {job.settings.steps}; `fourmill train` goes on from there"
    return "not trained as the recipe asks"


def _outdated(project: Project, plan: Plan) -> dict[str, str]:
    """What exists and was made by other versions than the recipe asks for, and why."""
    shards: dict[tuple[str, str], int] = {}
    for (output, _), reasons in plan.outdated.items():
        key = output, "; ".join(reasons)
        shards[key] = shards.get(key, 0) + 1
    outdated: dict[str, str] = {}
    for (output, why), count in shards.items():
        outdated[f"{output}, {count} of {len(plan.shards)} shards"] = why
    outdated |= {f"tokenizers/{name}": "; ".join(one.outdated) for name, one in project.fitted.items() if one.outdated}
    return outdated


def removed_from(root: str) -> dict[str, int]:
    """How many keys and URLs `fourmill remove` keeps out of a root."""
    from ...infra import removals

    removed = removals.read(root)
    rows = sum(len(keys - removed.keys) for keys in removed.rows.values())
    return {"keys": len(removed.keys), "urls": len(removed.urls), "found by url": rows} if removed else {}


def _say_removed(console: Any, removed: dict[str, int]) -> None:
    if removed:
        console.print(
            f"removed for good: {removed['keys']} keys and {removed['urls']} URLs ({removed['found by url']} samples "
            "found by these); their rows are null"
        )


def _say_alarms(console: Any, alarms: dict[str, str]) -> None:
    if alarms:
        console.print(summary.reasons("to look at", "what", alarms))


def show_stored(root: str, as_json: bool) -> int:
    """Print what a root holds, by its ledger alone: what was asked for is known to a recipe. Returns 0."""
    from ...infra import ledger, storage
    from ...infra.index import index
    from ...infra.ledger import SAMPLES
    from ...report.inspect import records
    from ...report.stats import stats

    known = index.read_many(root, [SAMPLES, *ledger.outputs(root)], None).entries
    outputs, rejects, remarks = records.summarize(storage.join(root, "ledger"), known)
    if not outputs:
        raise ValueError(f"{root}: this is no root, there is no ledger/ with records; name a recipe or a root")
    alarms = stats.alarms(root, stats.by_output(known))
    if as_json:
        shown = {"outputs": outputs, "rejects": rejects, "notes": remarks, "removed": removed_from(root)}
        shown["alarms"] = alarms
        print(json.dumps({"root": root, **shown}, indent=1))
        return 0
    from rich.table import Table

    console = summary.console(120)
    table = Table(title=summary.text(f"{root}: what is stored"), title_justify="left")
    for column in ("output", "records", "rows", "nulls", "bytes"):
        table.add_column(column, justify="left" if column == "output" else "right", overflow="fold")
    for row in outputs:
        table.add_row(summary.text(row["output"]), *(f"{row[n]:,}" for n in ("records", "rows", "nulls", "bytes")))
    console.print(table)
    _say_removed(console, removed_from(root))
    _say_alarms(console, alarms)
    for remark in remarks:
        console.print(summary.text(remark))
    return 0


def show(state: dict[str, Any], as_json: bool) -> int:
    """Print what `describe` returned. Returns 0 only if nothing is missing."""
    missing: dict[str, str] = state["missing"]
    if as_json:
        print(json.dumps(state, indent=1, ensure_ascii=False))
        return 1 if missing else 0
    from rich.table import Table

    console = summary.console(120)
    table = Table(title=summary.text(f"{state['root']}: {state['shards']} shards"), title_justify="left")
    for column in ("output", "shards", "rows", "nulls", "bytes", "state"):
        table.add_column(column, justify="left" if column in ("output", "state") else "right", overflow="fold")
    for row in state["outputs"]:
        done = "complete" if row["done"] == row["asked"] else f"{row['asked'] - row['done']} missing"
        numbers = [f"{row[name]:,}" for name in ("rows", "nulls", "bytes")]
        table.add_row(row["output"], f"{row['done']}/{row['asked']}", *numbers, done)
    console.print(table)
    _say_removed(console, state["removed"])
    if state["outdated"]:
        title = "out of date (`--update` of the verb that made it makes it again)"
        console.print(summary.reasons(title, "what", state["outdated"]))
    _say_alarms(console, state["alarms"])
    if state["unseen"]:
        console.print(summary.reasons("came after the run began", "what", state["unseen"]))
    if missing:
        console.print(summary.reasons("missing", "what", missing))
    return 1 if missing else 0
