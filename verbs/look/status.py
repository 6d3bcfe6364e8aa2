"""`fourmill status`: what the recipe asks for, what of it exists, and what is missing."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .. import arguments, summary

if TYPE_CHECKING:
    from ...pipelines.specialists.base import Specialist
    from ...recipe import Recipe

ORDER = 10
HELP = "what the recipe asks for, what exists, what is missing"
EXAMPLES = ("fourmill status recipe.yaml", "fourmill status recipe.yaml --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    return show(describe(arguments.load_recipe(args)), as_json=args.json)


def describe(recipe: Recipe) -> dict[str, Any]:
    """{"root", "shards", "outputs": [...], "missing": {what: why}}.

    Looks only at the ledger; nothing is started and nothing is written.
    """
    from ... import jobs
    from ...pipelines import plan as plans

    recipe, specialists = jobs.prepare(recipe)
    tokenizers = jobs.fitted(recipe, specialists)
    prints = jobs.fit_fingerprints(recipe, specialists)
    missing = {f"tokenizers/{name}": "not fitted as the recipe asks" for name in prints if name not in tokenizers}
    outputs = plans.label_outputs(recipe, specialists)
    if not missing:
        outputs |= plans.token_outputs(recipe, specialists, tokenizers)
    plan = plans.make(recipe, outputs)
    rows: list[dict[str, Any]] = []
    for name in outputs:
        records = [record for (output, _), record in plan.done.items() if output == name]
        sums = {part: sum(getattr(record, part) for record in records) for part in ("rows", "nulls", "bytes")}
        rows.append({"output": name, "done": len(records), "asked": len(plan.shards), **sums})
    if missing:
        nothing = {"done": 0, "asked": len(plan.shards), "rows": 0, "nulls": 0, "bytes": 0}
        rows += [{"output": f"tokens/{name}", **nothing} for name in recipe.modalities]
    missing |= {f"shard {shard}": why for shard, why in plan.absent.items()}
    for task in plan.missing:
        missing[f"shard {task.shard}"] = f"lacks {', '.join(task.outputs)}"
    if not missing or any(name.startswith("tokens/") for name in outputs):
        missing |= _missing_runs(recipe, specialists)
    return {"root": recipe.root, "shards": len(plan.shards), "outputs": rows, "missing": missing}


def _missing_runs(recipe: Recipe, specialists: dict[str, Specialist]) -> dict[str, str]:
    from ... import jobs
    from ...infra import ledger
    from ...recipe import RecipeError

    try:
        job = jobs.train_job(recipe, specialists)
    except RecipeError as error:
        return {f"runs/{recipe.train.name}": str(error)}
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", job.fingerprint) is None:
        return {f"runs/{recipe.train.name}": "not trained as the recipe asks"}
    if recipe.generate.chains:
        generation = jobs.generate_job(recipe, job)
        if ledger.read(recipe.root, f"generated/{recipe.train.name}", generation.fingerprint) is None:
            return {f"generated/{recipe.train.name}": "not generated as the recipe asks"}
    return {}


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
    if missing:
        console.print(summary.reasons("missing", "what", missing))
    return 1 if missing else 0
