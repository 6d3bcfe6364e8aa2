"""The stages of the line, each one function of a recipe: label, fit, tokenize, train, generate, and all of them: run.

Every stage compares what the recipe asks for with the ledger and does only what is missing. What it could not make
comes back in its `Summary`; nothing raises for one bad shard.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import jobs
from . import recipe as recipes
from .infra import ledger, storage
from .infra.fingerprint import fingerprint
from .infra.ledger import SAMPLES
from .pipelines import plan as plans
from .pipelines.plan import Output
from .pipelines.specialists.base import Specialist
from .recipe import Recipe, RecipeError
from .summaries import Summary
from .tokenize.codecs import gist

if TYPE_CHECKING:
    pass


def label(recipe: Recipe, defer: bool = False) -> Summary:
    """Make the labels that the recipe keeps, and the list of each shard's samples.

    Args:
        defer: leave to `tokenize` those whose sources it makes anyway, see `plans.deferred`.
    """
    recipe, specialists = jobs.prepare(recipe)
    outputs = plans.label_outputs(recipe, specialists)
    if defer:
        later = plans.deferred(recipe, specialists)
        outputs = {name: output for name, output in outputs.items() if output.label not in later}
    return _mill("label", recipe, specialists, outputs, {})


def tokenize(recipe: Recipe) -> Summary:
    """Make every column, and kept labels that are missing, in one pass over each shard."""
    recipe, specialists = jobs.prepare(recipe)
    labels = plans.label_outputs(recipe, specialists)
    columns = plans.token_outputs(recipe, specialists, jobs.fitted(recipe, specialists))
    stored = {name: output for name, output in labels.items() if name != SAMPLES}
    return _mill("tokenize", recipe, specialists, {**labels, **columns}, stored)


def _mill(
    stage: str,
    recipe: Recipe,
    specialists: dict[str, Specialist],
    outputs: dict[str, Output],
    stored: dict[str, Output],
) -> Summary:
    start = time.monotonic()
    plan = plans.make(recipe, outputs, stored)
    summary = Summary(stage, existed=len(plan.done), missing={f"shard {s}": why for s, why in plan.absent.items()})
    records = list(plan.done.values())
    if plan.missing:
        from .pipelines.engine import driver as engine

        _start(recipe)
        job = jobs.mill_job(recipe, *plans.working(specialists, outputs, plan.missing))
        outcome = engine.run(job, plan.missing, stage)
        summary.made, summary.samples = len(outcome.records), outcome.samples
        summary.missing.update({f"shard {shard}": why for shard, why in outcome.failures.items()})
        records += outcome.records
    if summary.made:
        summary.notes += _shared_keys(recipe.root, records)
    for record in records:
        summary.rejects.update(f"{record.output}: {gist(reject['reason'])}" for reject in record.rejects)
    return _finish(recipe, summary, start, "samples", sorted(output.fingerprint for output in outputs.values()))


# Reading every key of a larger dataset after each stage would cost more than it tells.
MAX_KEYS_COMPARED = 2_000_000


def _shared_keys(root: str, records: Sequence[ledger.Record]) -> list[str]:
    """A note for each of the first keys that several shards have."""
    by_output: dict[str, list[ledger.Record]] = {}
    for record in records:
        if record.output != SAMPLES:
            by_output.setdefault(record.output, []).append(record)
    if not by_output:
        return []
    output, widest = max(by_output.items(), key=lambda item: len(item[1]))
    if sum(record.rows for record in widest) > MAX_KEYS_COMPARED:
        return []
    from .pipelines.checks import shared_keys

    found = shared_keys(root, output, [record.shard for record in widest])
    return [f"duplicate key {key!r}: in the shards {', '.join(names)}" for key, names in found]


def _start(recipe: Recipe) -> None:
    """Called when a stage has something to do: the root must be writable, and gets the resolved recipe."""
    storage.check_writable(recipe.root)
    storage.put(storage.join(recipe.root, "recipe.yaml"), recipes.dump(recipe).encode())


def _finish(recipe: Recipe, summary: Summary, start: float, unit: str, asked: Any) -> Summary:
    """Close a stage's summary. If it made something, its wall time is kept for the report.

    Args:
        asked: what the stage's outputs depend on; the times of several runs that ask for the same are added up.
    """
    summary.seconds = time.monotonic() - start
    if summary.made:
        url = storage.join(recipe.root, "ledger", "stages", f"{summary.stage}.json")
        told: dict[str, Any] = {"seconds": 0.0, "made": 0, "samples": 0, "unit": unit, "asked": fingerprint(asked)}
        before = json.loads(storage.read_bytes(url)) if storage.exists(url) else told
        if before.get("asked") == told["asked"]:
            told = before
        told["seconds"] = round(told["seconds"] + summary.seconds, 1)
        told["made"] += summary.made
        told["samples"] += summary.samples
        storage.put(url, json.dumps(told).encode())
    return summary


def fit(recipe: Recipe) -> Summary:
    """Fit the tokenizers that are missing or were fitted otherwise."""
    recipe, specialists = jobs.prepare(recipe)
    start = time.monotonic()
    prints = jobs.fit_fingerprints(recipe, specialists)
    there = jobs.fitted(recipe, specialists)
    missing = [name for name in prints if name not in there]
    summary = Summary("fit", existed=len(there))
    if missing:
        from .train.tokenizers import fit as fitting
        from .train.workers import Resources

        _start(recipe)
        resources = Resources(recipe.fit.workers, recipe.fit.cpus, recipe.fit.gpus)
        job, failure = jobs.fit_job(recipe, specialists, missing, prints), "it was not fitted"
        try:
            fitting.run(job, resources, recipe.engine.address)
        except RuntimeError as error:
            failure = str(error)
        there, told = jobs.fitted(recipe, specialists), fitting.reasons(failure, missing)
        for name in missing:
            if name not in there:
                summary.missing[f"tokenizers/{name}"] = told.get(name, failure)
        summary.made = len(missing) - len(summary.missing)
    for name, tokenizer in there.items():
        quality = ", ".join(f"{measure} {value:.4g}" for measure, value in tokenizer.quality.items())
        summary.notes.append(f"{name}: {tokenizer.vocab_size} entries{', ' + quality if quality else ''}")
    return _finish(recipe, summary, start, "tokenizers", prints)


def train(recipe: Recipe) -> Summary:
    """Train 4M on the columns of the shards that are complete."""
    recipe, specialists = jobs.prepare(recipe)
    start = time.monotonic()
    job = jobs.train_job(recipe, specialists)
    summary = Summary("train")
    output = f"runs/{recipe.train.name}"
    record = ledger.read(recipe.root, output, job.fingerprint)
    if record is None:
        from .train.pretrain import pretrain

        _start(recipe)
        try:
            pretrain.run(job)
        except RuntimeError as error:
            summary.missing[output] = str(error)
        record = ledger.read(recipe.root, output, job.fingerprint)
        summary.made = int(record is not None)
        if record is None:
            summary.missing.setdefault(output, "the workers ended without a model")
    else:
        summary.existed = 1
    if record is not None:
        metrics = record.identity["metrics"]
        losses = ", ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "val_loss") if name in metrics)
        told = record.identity
        summary.notes.append(f"{told['steps']} steps, {told['parameters']:,} parameters: {losses}")
        summary.notes += [job.folder, *told.get("notes", [])]
    return _finish(recipe, summary, start, "run", job.fingerprint)


def generate(recipe: Recipe) -> Summary:
    """Generate the recipe's chains with the trained model."""
    recipe, specialists = jobs.prepare(recipe)
    start = time.monotonic()
    summary = Summary("generate")
    if not recipe.generate.chains:
        summary.notes.append("the recipe has no generate.chains")
        return summary
    run_job = jobs.train_job(recipe, specialists)
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", run_job.fingerprint) is None:
        raise RecipeError("generate: the model of this recipe is not trained; run `fourmill train` first")
    job = jobs.generate_job(recipe, run_job)
    output = f"generated/{recipe.train.name}"
    if ledger.read(recipe.root, output, job.fingerprint) is not None:
        summary.existed = len(recipe.generate.chains)
    else:
        from .train.downstream import generation
        from .train.pretrain import weights

        _start(recipe)
        generation.run(job, weights.load_model)
        summary.made = len(recipe.generate.chains)
    summary.notes.append(job.folder)
    return _finish(recipe, summary, start, "chains", job.fingerprint)


def run(recipe: Recipe) -> list[Summary]:
    """Everything in order.

    Tokenizers are fitted and columns made from the shards that can be read; training waits until all are there, since
    a model of fewer shards would be another one, and a shard that could not be read today may be read tomorrow.
    """
    # What is wrong with the recipe itself is told at once, not in the closing table.
    jobs.check_training(jobs.prepare(recipe)[0])
    done: list[Summary] = []
    for stage in (label, fit, tokenize, train, generate):
        lacking = [summary.stage for summary in done if not summary.complete]
        if lacking and stage in (train, generate):
            why = f"waits for what is missing above; `fourmill {stage.__name__}` goes on with what is there"
            done.append(Summary(stage.__name__, missing={stage.__name__: why}))
            continue
        try:
            done.append(label(recipe, defer=True) if stage is label else stage(recipe))
        except (ValueError, OSError, RuntimeError) as error:  # the closing table must tell this and what came before
            done.append(Summary(stage.__name__, missing={stage.__name__: str(error)}))
            if stage is not label:
                break
    return done


def status(recipe: Recipe) -> dict[str, Any]:
    """What the recipe asks for and what of it exists: {"root", "shards", "outputs": [...], "missing": {what: why}}.

    Looks only at the ledger; nothing is started and nothing is written.
    """
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
