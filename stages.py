"""The stages of the line, each one function of a recipe: label, fit, tokenize, train, generate, and all of them: run.

Every stage compares what the recipe asks for with the ledger and does only what is missing. What it could not make
comes back in its `Summary`; nothing raises for one bad shard.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import recipe as recipes
from .infra import ledger, storage
from .infra.fingerprint import fingerprint
from .infra.ledger import SAMPLES
from .modalities import MODALITIES
from .pipelines import plan as plans
from .pipelines.plan import Fitted, Output
from .pipelines.specialists import registry
from .pipelines.specialists.base import Specialist
from .recipe import Recipe, RecipeError
from .summaries import Summary
from .tokenize.codecs import CODEC_VERSION, TEXT_TOKENIZER, Options, gist, unsupported

if TYPE_CHECKING:
    from .pipelines.mill import Job
    from .train.fit import FitJob
    from .train.generation import GenerateJob
    from .train.pretrain import TrainJob


def prepare(recipe: Recipe) -> tuple[Recipe, dict[str, Specialist]]:
    """Everything that can be wrong is found here, before any process starts.

    Returns the recipe with an absolute root, and its specialists. RecipeError if it cannot be run.
    """
    recipe = recipe.model_copy(update={"root": storage.absolute(recipe.root)})
    specialists = registry.build(recipe)
    for modality in recipe.modalities:
        if why := unsupported(modality):
            raise RecipeError(why)
    plans.shards(recipe)
    return recipe, specialists


def label(recipe: Recipe) -> Summary:
    """Make the labels that the recipe keeps, and the list of each shard's samples."""
    recipe, specialists = prepare(recipe)
    outputs = plans.label_outputs(recipe, specialists)
    return _mill("label", recipe, specialists, outputs, {})


def tokenize(recipe: Recipe) -> Summary:
    """Make every column, and kept labels that are missing, in one pass over each shard."""
    recipe, specialists = prepare(recipe)
    labels = plans.label_outputs(recipe, specialists)
    columns = plans.token_outputs(recipe, specialists, fitted(recipe, specialists))
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
        from .pipelines import engine

        _start(recipe)
        outcome = engine.run(mill_job(recipe, specialists, outputs), plan.missing, stage)
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


def mill_job(recipe: Recipe, specialists: dict[str, Specialist], outputs: dict[str, Output]) -> Job:
    """What an actor needs to know to make `outputs`."""
    from .pipelines.mill import Job

    scratch = os.path.join(tempfile.gettempdir(), f"fourmill-{os.getuid()}")
    return Job(recipe.root, scratch, recipe.images, codec_options(recipe), recipe.engine, specialists, outputs)


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


def codec_options(recipe: Recipe) -> Options:
    """What the recipe says about tokens beyond the sizes of modalities."""
    images = recipe.images
    return Options(
        recipe.seed,
        images.size,
        images.crops,
        images.pixel_format,
        images.jpeg_quality,
        recipe.tokenizers.min_box_score,
    )


def fit_fingerprints(recipe: Recipe, specialists: dict[str, Specialist]) -> dict[str, str]:
    """Fingerprint of the settings of every tokenizer the recipe fits. Shards do not count: adding some must not make
    every token of the others worthless."""
    labels = plans.label_fingerprints(recipe, specialists)
    prints = {}
    if recipe.has_text:
        prints[TEXT_TOKENIZER] = fingerprint("fit", CODEC_VERSION, recipe.tokenizers.text.model_dump(mode="json"))
    for name in recipe.grids:
        settings = recipe.tokenizers.of(name).model_dump(mode="json", exclude={"checkpoint_every"})
        spec = next(s for s in recipe.specs() if s.name == name)
        parts = [settings, labels[MODALITIES[name].label], recipe.images.size, spec.max_tokens, recipe.seed]
        prints[name] = fingerprint("fit", CODEC_VERSION, *parts)
    return prints


def fitted(recipe: Recipe, specialists: dict[str, Specialist]) -> dict[str, Fitted]:
    """The tokenizers that are fitted as the recipe asks, by name."""
    good = {}
    for name, print_ in fit_fingerprints(recipe, specialists).items():
        record = ledger.read(recipe.root, "tokenizers", name)
        if record is None or record.fingerprint != print_:
            continue
        if storage.exists(storage.join(recipe.root, "tokenizers", name, "config.json")):
            identity = record.identity
            good[name] = Fitted(record.sha256, identity["vocab_size"], identity["quality"])
    return good


def fit(recipe: Recipe) -> Summary:
    """Fit the tokenizers that are missing or were fitted otherwise."""
    recipe, specialists = prepare(recipe)
    start = time.monotonic()
    prints = fit_fingerprints(recipe, specialists)
    there = fitted(recipe, specialists)
    missing = [name for name in prints if name not in there]
    summary = Summary("fit", existed=len(there))
    if missing:
        from .train import fit as fitting
        from .train.workers import Resources

        _start(recipe)
        resources = Resources(recipe.fit.workers, recipe.fit.cpus, recipe.fit.gpus)
        job = _fit_job(recipe, specialists, missing, prints)
        try:
            fitting.run(job, resources, recipe.engine.address)
        except RuntimeError as error:
            summary.notes.append(str(error))
        there = fitted(recipe, specialists)
        for name in missing:
            if name not in there:
                summary.missing[f"tokenizers/{name}"] = summary.notes[-1] if summary.notes else "it was not fitted"
        summary.made = len(missing) - len(summary.missing)
    for name, tokenizer in there.items():
        quality = ", ".join(f"{measure} {value:.4g}" for measure, value in tokenizer.quality.items())
        summary.notes.append(f"{name}: {tokenizer.vocab_size} entries{', ' + quality if quality else ''}")
    return _finish(recipe, summary, start, "tokenizers", prints)


def _fit_job(recipe: Recipe, specialists: dict[str, Specialist], missing: list[str], prints: dict[str, str]) -> FitJob:
    from .pipelines.fit_data import FitData
    from .train.fit import FitJob

    labels = plans.label_outputs(recipe, specialists)
    job = mill_job(recipe, specialists, {})
    plan = plans.make(recipe, {}, {name: o for name, o in labels.items() if name != SAMPLES})

    def data(split: str) -> FitData | None:
        mine = tuple(plan.tasks[name] for name in plan.splits[split] if name in plan.tasks)
        return FitData(job, mine) if mine else None

    train = data("train")
    if train is None:
        raise RecipeError("fit: none of the training shards can be read: " + "; ".join(plan.absent.values()))
    return FitJob(
        root=recipe.root,
        seed=recipe.seed,
        image_size=recipe.images.size,
        text=recipe.tokenizers.text if TEXT_TOKENIZER in missing else None,
        grids={name: recipe.tokenizers.of(name) for name in missing if name != TEXT_TOKENIZER},
        specs={spec.name: spec for spec in recipe.specs()},
        prints=prints,
        train=train,
        val=data("val"),
        share=recipe.fit.share,
    )


def train(recipe: Recipe) -> Summary:
    """Train 4M on the columns of the shards that are complete."""
    recipe, specialists = prepare(recipe)
    start = time.monotonic()
    job = train_job(recipe, specialists)
    summary = Summary("train")
    output = f"runs/{recipe.train.name}"
    record = ledger.read(recipe.root, output, job.fingerprint)
    if record is None:
        from .train import pretrain

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
        summary.notes.append(job.folder)
    return _finish(recipe, summary, start, "run", job.fingerprint)


def train_job(recipe: Recipe, specialists: dict[str, Specialist]) -> TrainJob:
    """The training run that the recipe asks for. RecipeError if no training shard has all of its columns."""
    from .train.groups import Shard
    from .train.pretrain import TrainJob

    if not any(MODALITIES[name].is_target for name in recipe.modalities):
        raise RecipeError("train: none of the modalities can be predicted; add grids or text, for example tok_rgb")
    tokenizers = fitted(recipe, specialists)
    outputs = plans.token_outputs(recipe, specialists, tokenizers)
    plan = plans.make(recipe, outputs)

    def complete(split: str) -> tuple[Shard, ...]:
        names = [name for name in plan.splits[split] if name in plan.tasks and not plan.tasks[name].outputs]
        rows = {name: plan.done[next(iter(outputs)), name].rows for name in names}
        return tuple(Shard(name, rows[name]) for name in names if rows[name])

    shards = complete("train")
    if not shards:
        raise RecipeError("train: no training shard has all of its columns; run `fourmill tokenize` first")
    sources = {shard.name: plan.done[next(iter(outputs)), shard.name].source.sha256 for shard in shards}
    columns = {name: output.fingerprint for name, output in outputs.items()}
    settings = recipe.train.model_dump(mode="json", exclude=TRAIN_OPERATIONS)
    specs = tuple(output.spec for output in outputs.values() if output.spec is not None)
    # Sizes count, and so does the order of modalities: it is the order of the rows in the model's tables.
    parts = [settings, [asdict(spec) for spec in specs], columns, sources, recipe.seed]
    sentinels = _sentinels(recipe) if recipe.has_text else (5, 200)
    return TrainJob(recipe, fingerprint("train", *parts), specs, shards, complete("val"), *sentinels)


# Settings of training that change how a run is watched and spread, and not what it learns.
TRAIN_OPERATIONS = {
    "name", "workers", "cpus", "gpus", "log_every", "validate_every", "validation_samples", "checkpoint_every",
    "keep_checkpoints",
}  # fmt: skip


def _sentinels(recipe: Recipe) -> tuple[int, int]:
    """(id of [S_1], how many sentinels there are) of the fitted text tokenizer."""
    from .tokenize.codecs import load_text

    ids = load_text(recipe.root).sentinel_ids
    return int(ids[1]), len(ids)


def generate(recipe: Recipe) -> Summary:
    """Generate the recipe's chains with the trained model."""
    recipe, specialists = prepare(recipe)
    start = time.monotonic()
    summary = Summary("generate")
    if not recipe.generate.chains:
        summary.notes.append("the recipe has no generate.chains")
        return summary
    run_job = train_job(recipe, specialists)
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", run_job.fingerprint) is None:
        raise RecipeError("generate: the model of this recipe is not trained; run `fourmill train` first")
    job = generate_job(recipe, run_job)
    output = f"generated/{recipe.train.name}"
    if ledger.read(recipe.root, output, job.fingerprint) is not None:
        summary.existed = len(recipe.generate.chains)
    else:
        from .train import generation, pretrain

        _start(recipe)
        generation.run(job, pretrain.load_model)
        summary.made = len(recipe.generate.chains)
    summary.notes.append(job.folder)
    return _finish(recipe, summary, start, "chains", job.fingerprint)


def generate_job(recipe: Recipe, run: TrainJob) -> GenerateJob:
    from .model.known import SpecialIds
    from .train.generation import GenerateJob

    # `SpecialIds` counts from [S_0], masking from [S_1].
    text = SpecialIds(first_sentinel=run.first_sentinel - 1, num_sentinels=run.num_sentinels)
    splits = {"train": run.shards, "val": run.val_shards}
    column = f"tokens/{run.specs[0].name}"
    records = [ledger.read(recipe.root, column, shard.name) for shard in run.val_shards]
    sources = [(shard.name, r and r.source.sha256) for shard, r in zip(run.val_shards, records, strict=True)]
    parts = [run.fingerprint, recipe.generate.model_dump(mode="json"), sources]
    return GenerateJob(
        recipe, run.folder, fingerprint("generate", *parts), run.specs, splits, codec_options(recipe), text
    )


def run(recipe: Recipe) -> list[Summary]:
    """Everything in order.

    Tokenizers are fitted and columns made from the shards that can be read; training waits until all are there, since
    a model of fewer shards would be another one, and a shard that could not be read today may be read tomorrow.
    """
    prepare(recipe)  # what is wrong with the recipe itself is told at once, not in the closing table
    done: list[Summary] = []
    for stage in (label, fit, tokenize, train, generate):
        lacking = [summary.stage for summary in done if not summary.complete]
        if lacking and stage in (train, generate):
            why = f"waits for what is missing above; `fourmill {stage.__name__}` goes on with what is there"
            done.append(Summary(stage.__name__, missing={stage.__name__: why}))
            continue
        try:
            done.append(stage(recipe))
        except (ValueError, OSError, RuntimeError) as error:  # the closing table must tell this and what came before
            done.append(Summary(stage.__name__, missing={stage.__name__: str(error)}))
            if stage is not label:
                break
    return done


def status(recipe: Recipe) -> dict[str, Any]:
    """What the recipe asks for and what of it exists: {"root", "shards", "outputs": [...], "missing": {what: why}}.

    Looks only at the ledger; nothing is started and nothing is written.
    """
    recipe, specialists = prepare(recipe)
    tokenizers = fitted(recipe, specialists)
    prints = fit_fingerprints(recipe, specialists)
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
        job = train_job(recipe, specialists)
    except RecipeError as error:
        return {f"runs/{recipe.train.name}": str(error)}
    if ledger.read(recipe.root, f"runs/{recipe.train.name}", job.fingerprint) is None:
        return {f"runs/{recipe.train.name}": "not trained as the recipe asks"}
    if recipe.generate.chains:
        generation = generate_job(recipe, job)
        if ledger.read(recipe.root, f"generated/{recipe.train.name}", generation.fingerprint) is None:
            return {f"generated/{recipe.train.name}": "not generated as the recipe asks"}
    return {}
