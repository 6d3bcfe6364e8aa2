"""The stages of the line, each one function of a recipe: label, fit, tokenize, train, generate, and all of them: run.

Every stage compares what the recipe asks for with the ledger and does only what is missing. What it could not make
comes back in its `Summary`; nothing raises for one bad shard.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
from .tokenize.codecs import CODEC_VERSION, TEXT_TOKENIZER, Options, gist

if TYPE_CHECKING:
    from .pipelines.mill import Job
    from .train.fit import FitJob


@dataclass
class Summary:
    """What came of a stage.

    made, existed: counts of outputs. missing: what is asked for and not there, with the reason. rejects: reason
    (without its numbers) -> how many, over all outputs of the stage that exist.
    """

    stage: str
    made: int = 0
    existed: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.missing


def prepare(recipe: Recipe) -> tuple[Recipe, dict[str, Specialist]]:
    """Everything that can be wrong is found here, before any process starts.

    Returns the recipe with an absolute root, and its specialists. RecipeError, or ValueError for an unwritable root.
    """
    recipe = recipe.model_copy(update={"root": storage.absolute(recipe.root)})
    specialists = registry.build(recipe)
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
        outcome = engine.run(_job(recipe, specialists, outputs), plan.missing, stage)
        summary.made, summary.samples = len(outcome.records), outcome.samples
        summary.missing.update({f"shard {shard}": why for shard, why in outcome.failures.items()})
        records += outcome.records
    for record in records:
        summary.rejects.update(f"{record.output}: {gist(reject['reason'])}" for reject in record.rejects)
    summary.seconds = time.monotonic() - start
    return summary


def _start(recipe: Recipe) -> None:
    """Called when a stage has something to do: the root must be writable, and gets the resolved recipe."""
    storage.check_writable(recipe.root)
    storage.put(storage.join(recipe.root, "recipe.yaml"), recipes.dump(recipe).encode())


def _job(recipe: Recipe, specialists: dict[str, Specialist], outputs: dict[str, Output]) -> Job:
    from .pipelines.mill import Job

    scratch = os.path.join(tempfile.gettempdir(), f"fourmill-{os.getuid()}")
    return Job(recipe.root, scratch, recipe.images, codec_options(recipe), recipe.engine, specialists, outputs)


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
    summary.seconds = time.monotonic() - start
    return summary


def _fit_job(recipe: Recipe, specialists: dict[str, Specialist], missing: list[str], prints: dict[str, str]) -> FitJob:
    from .pipelines.fit_data import FitData
    from .train.fit import FitJob

    labels = plans.label_outputs(recipe, specialists)
    job = _job(recipe, specialists, {})
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
    )
