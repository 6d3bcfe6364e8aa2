"""From a recipe to jobs: what each stage is asked for, as values that are sent to workers, and its fingerprint."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import recipe as recipes
from .infra import ledger, storage
from .infra.fingerprint import fingerprint
from .infra.ledger import SAMPLES
from .modalities import MODALITIES, TEXT, TOKENIZERS, Form
from .pipelines import columns
from .pipelines import plan as plans
from .pipelines.plan import Fitted, Output
from .pipelines.specialists import registry
from .pipelines.specialists.base import Specialist
from .pipelines.specialists.pretrained import digest
from .recipe import Recipe, RecipeError
from .tokenize import settings as tokenizer_settings
from .tokenize.codecs import CODEC_VERSION, Options
from .train import settings as train_settings
from .train.tokenizers import adopt

if TYPE_CHECKING:
    from .pipelines.engine.shard_worker import Job
    from .train.data.blend import Dataset
    from .train.downstream.generation import GenerateJob
    from .train.pretrain.job import TrainJob
    from .train.settings import Mixture
    from .train.tokenizers.fit import FitJob


def prepare(recipe: Recipe) -> tuple[Recipe, dict[str, Specialist]]:
    """Everything that can be wrong is found here, before any process starts.

    Returns the recipe with an absolute root, and its specialists. RecipeError if it cannot be run.
    """
    recipe = adopt.resolve(recipe.model_copy(update={"root": storage.absolute(recipe.root)}))
    specialists = registry.build(recipe)
    plans.shards(recipe)
    return recipe, specialists


def mill_job(recipe: Recipe, specialists: dict[str, Specialist], outputs: dict[str, Output]) -> Job:
    """What an actor needs to know to make `outputs`."""
    from .pipelines.engine.shard_worker import Job

    scratch = os.path.join(tempfile.gettempdir(), f"fourmill-{os.getuid()}")
    options, modules = codec_options(recipe), tuple(recipe.modules)
    return Job(recipe.root, scratch, recipe.images, options, recipe.engine, specialists, outputs, modules)


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
        prints[TEXT] = fingerprint("fit", CODEC_VERSION, recipe.tokenizers.text.model_dump(mode="json"))
    for name in recipe.tokenizers_needed:
        entry, settings = TOKENIZERS[name], recipe.tokenizer(name)
        told = settings.model_dump(mode="json", exclude=set(tokenizer_settings.OPERATIONS))
        if settings.weights is not None:  # what a fit would take does not matter
            local = Path(settings.weights)
            told = {"weights": digest(local) if local.is_dir() else [settings.weights, settings.revision]}
        own_size = entry.image_size or entry.form is Form.VECTOR
        parts = [told, labels[entry.label], 0 if own_size else recipe.images.size, recipe.seed]
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


def fit_job(recipe: Recipe, specialists: dict[str, Specialist], missing: list[str], prints: dict[str, str]) -> FitJob:
    from .pipelines.fit_data import FitData
    from .train.tokenizers.fit import FitJob

    labels = plans.label_outputs(recipe, specialists)
    wanted = {TOKENIZERS[name].label if name in TOKENIZERS else "caption" for name in missing}
    needed = plans.sources(specialists, wanted)
    job = mill_job(recipe, {label: one for label, one in specialists.items() if label in needed}, {})
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
        text=recipe.tokenizers.text if TEXT in missing else None,
        tokenizers={name: recipe.tokenizer(name) for name in missing if name != TEXT},
        prints=prints,
        train=train,
        val=data("val"),
        share=recipe.fit.share,
    )


def check_training(recipe: Recipe) -> None:
    """RecipeError if what training begins with, or also trains on, is not there: better told before the labelling."""
    if recipe.train.init or recipe.train.datasets:
        from .train.pretrain import initial  # loads torch

        initial.check(recipe.train)


def train_job(recipe: Recipe, specialists: dict[str, Specialist]) -> TrainJob:
    """The training run that the recipe asks for. RecipeError if no training shard has all of its columns."""
    from .train.data import order
    from .train.data.groups import Shard
    from .train.pretrain import initial
    from .train.pretrain.job import TrainJob

    if not any(MODALITIES[name].is_target for name in recipe.modalities):
        raise RecipeError("train: none of the modalities can be predicted; add grids or text, for example tok_rgb")
    mine = columns.complete(recipe, specialists, fitted(recipe, specialists))
    if not mine.shards["train"]:
        raise RecipeError("train: no training shard has all of its columns; run `fourmill tokenize` first")
    datasets, parts = _datasets(recipe, mine)
    recipe = recipe.model_copy(update={"train": initial.resolved(recipe.train)})
    settings = recipe.train.model_dump(mode="json", exclude=set(TRAIN_OPERATIONS | train_settings.DERIVED))
    # Sizes count, and so does the order of modalities: it is the order of the rows in the model's tables.
    parts += [order.FORMAT, settings, [asdict(spec) for spec in mine.specs]]
    parts += [recipe.seed, initial.identity(recipe.train.init)]
    shards, val_shards = (tuple(Shard(*shard) for shard in mine.shards[split]) for split in plans.SPLITS)
    sentinels = _sentinels(recipe) if recipe.has_text else (5, 200)
    return TrainJob(recipe, fingerprint("train", *parts), mine.specs, shards, val_shards, *sentinels, datasets)


# Settings of training that change how a run is watched and spread, and not what it learns.
TRAIN_OPERATIONS = train_settings.OPERATIONS


def _datasets(recipe: Recipe, mine: columns.Columns) -> tuple[tuple[Dataset, ...], list[Any]]:
    """The datasets that the recipe trains on, () if it is its own alone; and what they are, for a fingerprint."""
    from .train.data.blend import Dataset
    from .train.data.groups import Shard

    found, told = [], []
    own = range(len(recipe.train.mixtures))
    counted = own.stop  # mixtures so far: those of datasets come after the run's
    for share in recipe.train.datasets:
        theirs = mine if share.root is None else _columns_of(share.root)
        names = columns.shared(mine, theirs)
        shards = tuple(Shard(*shard) for shard in theirs.shards["train"])
        if not shards:
            raise RecipeError(f"train.datasets: no training shard of {theirs.root} has all of its columns")
        mixtures = own
        if share.mixtures is not None:
            mixtures = range(counted, counted := counted + len(share.mixtures))
        _check_mixtures(theirs.root, names, share.mixtures or recipe.train.mixtures)
        repeat = share.repeat or recipe.train.repeat
        tokens = storage.join(theirs.root, "tokens")
        found.append(Dataset(tokens, shards, share.weight, names, repeat, mixtures))
        settings = share.model_dump(mode="json", exclude={"root"})
        told.append([settings, names, *theirs.identity()])
    return tuple(found), told or mine.identity()


def _check_mixtures(root: str, names: Sequence[str], mixtures: Sequence[Mixture]) -> None:
    """RecipeError if none of the mixtures shows one of the modalities of a dataset and asks for one."""

    def some(alpha: float | dict[str, float], among: Sequence[str]) -> bool:
        return any(train_settings.alpha_of(alpha, name) for name in among)

    targets = [name for name in names if MODALITIES[name].is_target]
    if not any(some(mixture.input_alpha, names) and some(mixture.target_alpha, targets) for mixture in mixtures):
        raise RecipeError(
            f"train.datasets: no mixture shows and asks for any of {', '.join(names)}, which {root} has; give it "
            "`mixtures` of its own"
        )


def _columns_of(root: str) -> columns.Columns:
    """The columns of another root, which its own recipe made."""
    url = storage.join(storage.absolute(root), "recipe.yaml")
    try:
        data = yaml.safe_load(storage.read_bytes(url))
    except FileNotFoundError:
        raise RecipeError(f"train.datasets: {root} is no root, there is no recipe.yaml; tokenize it first") from None
    other, specialists = prepare(recipes.parse(data | {"root": root}, url))
    return columns.complete(other, specialists, fitted(other, specialists))


def _sentinels(recipe: Recipe) -> tuple[int, int]:
    """(id of [S_1], how many sentinels there are) of the fitted text tokenizer."""
    from .tokenize.codecs import load_text

    ids = load_text(recipe.root).sentinel_ids
    return int(ids[1]), len(ids)


def generate_job(recipe: Recipe, run: TrainJob) -> GenerateJob:
    from .model.generation.known import SpecialIds
    from .train.downstream.generation import GenerateJob

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
