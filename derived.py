"""What follows from a recipe and what it names: settings of a published model that training begins with, sizes of
finished tokenizers, and the training run on some columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .infra.configuration import RecipeError
from .infra.fingerprint import fingerprint, hashed
from .infra.ledger import Entry
from .modalities import import_modules
from .pipelines.curation import expression
from .pipelines.curation import selection as selections
from .pipelines.curation.expression import Expression
from .pipelines.curation.selection import Chosen, Selection
from .pipelines.outputs import Output
from .recipe import Recipe, parse
from .train import settings as train_settings
from .train.tokenizers import adopt

if TYPE_CHECKING:
    from .pipelines.columns import Columns
    from .train.pretrain.job import TrainJob


def complete(recipe: Recipe) -> Recipe:
    """The recipe with these settings. RecipeError if what it names is not there, or fits nothing."""
    import_modules(recipe.declares)  # another recipe may have declared other sensors of the same names since
    return _with_finished_tokenizers(_with_model_of_init(recipe))


def _with_model_of_init(recipe: Recipe) -> Recipe:
    """The recipe with the settings of the model of `train.extend`, and by a convention of published models of
    `train.init`."""
    model, train = recipe.train.model, recipe.train
    # One that was resolved before says all of it, and its model may be gone.
    if (train.extend is None and (recipe.convention is None or train.init is None)) or model.model_fields_set >= type(
        model
    ).model_fields.keys():
        return recipe
    from .train.pretrain import initial  # loads torch

    return recipe.model_copy(update={"train": initial.with_model_of_init(recipe.train)})


def _with_finished_tokenizers(recipe: Recipe) -> Recipe:
    """The recipe with the sizes of the finished tokenizers that it names, and their paths absolute."""
    own = recipe.tokenizers
    each = adopt.resolve(own, recipe.tokenizers_needed, recipe.images.size, recipe.class_lists)
    text = adopt.resolve_text(own.text, recipe.modalities, recipe.class_lists) if recipe.has_text else own.text
    if each == own.each and text == own.text:
        return recipe
    data = recipe.model_dump(mode="json")
    data["tokenizers"] |= {"each": each, "text": text.model_dump(mode="json")}
    return parse(data)


def train_job(
    recipe: Recipe,
    columns: Columns,
    tokenizers: Mapping[str, str],
    sentinels: tuple[int, int],
    columns_of: Callable[[str], Columns],
    selected: Mapping[str, bytes] | None = None,
) -> TrainJob:
    """The training run of a recipe on columns of its root.

    Args:
        tokenizers: fingerprints of those that made the columns, by name.
        sentinels: of the text tokenizer: id of [S_1], how many there are.
        columns_of: gives the columns of another root.
        selected: which samples of the training shards are read, see `shard_rows`.
    """
    from .train.data import order
    from .train.pretrain.datasets import resolve, shard_rows
    from .train.pretrain.job import TrainJob

    datasets, parts = resolve(recipe.train, columns, columns_of, selected)
    train, begins_with = recipe.train, None
    if train.begins_with:
        from .train.pretrain import initial  # loads torch

        train = initial.resolved(train)
        begins_with = initial.identity_of(train)
    settings = hashed(train, train_settings.OPERATIONS | train_settings.DERIVED)
    # Sizes count, and so does the order of modalities: it is the order of the rows in the model's tables.
    seed = recipe.seed if train.seed is None else train.seed
    parts += [order.FORMAT, settings, [spec.plain() for spec in columns.specs], seed, begins_with]
    if selected is not None:  # the same samples are the same run, whatever words select them
        parts.append({"selected": [hashlib.sha256(bits).hexdigest() for bits in selected.values()]})
    shards, val_shards = shard_rows(columns, "train", selected), shard_rows(columns, "val")
    return TrainJob(
        root=columns.root,
        fingerprint=fingerprint("train", *parts),
        seed=seed,
        settings=train,
        address=recipe.engine.address,
        modules=recipe.declares,
        recipe=recipe.model_copy(update={"train": train}).model_dump(mode="json"),
        specs=columns.specs,
        shards=shards,
        val_shards=val_shards,
        first_sentinel=sentinels[0],
        num_sentinels=sentinels[1],
        datasets=datasets,
        tokenizers=dict(tokenizers),
        convention=recipe.convention,
    )


def selecting(recipe: Recipe, outputs: Mapping[str, Output]) -> dict[str, Output]:
    """Of kept labels those that `train.select` looks at."""
    return {name: outputs[name] for label in _select(recipe).labels if (name := f"labels/{label}") in outputs}


def _select(recipe: Recipe) -> Expression:
    return expression.parse(recipe.train.select or "")


def selection(
    recipe: Recipe,
    records: Mapping[tuple[str, str], Entry],
    shards: Iterable[str],
    rows: Mapping[str, Entry] | None,
    known: dict[str, Chosen],
) -> Selection:
    """What `train.select` selects. RecipeError if a shard lacks a label, values cannot be compared, or nothing is left.

    Args:
        records: of the labels that exist, by (output, shard).
        shards: that are selected of, as far as they have the labels.
        rows: by shard a record of what is selected of, in place of `shards`: each must have the labels.
        known: what was worked out before, by shard; what is new is added. If it is empty, what the root has is read.
    """
    asked = _select(recipe)
    if rows is None:
        outputs = [f"labels/{label}" for label in asked.labels]
        labelled = (name for name in shards if all((output, name) in records for output in outputs))
        rows = {name: records[outputs[0], name] for name in labelled}
    if not known:
        known |= selections.read(recipe.root, asked)
    try:
        found = selections.make(recipe.root, asked, records, rows, known)
    except ValueError as error:
        raise RecipeError(f"train.select: {error}") from None
    known |= found.shards
    if found.shards and not found.count:
        raise RecipeError(f"train.select: {asked.text!r} leaves none of {found.rows:,} samples to train on")
    return found
