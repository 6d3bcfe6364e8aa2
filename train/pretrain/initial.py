"""Initial weights from a trained model: 4M-21 begins with 4M-7, specialized models with the general one (4M-21, 3.4).

Modalities that the trained model does not have keep their fresh weights; modalities that only it has are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...infra import storage
from ...infra.configuration import RecipeError
from ...infra.explain import listing
from ...infra.storage import join
from ...modalities import Kind, ModalitySpec
from ...model import checkpoint as model_files
from ...model.config import FourMConfig
from ...model.fourm import FourM
from ...model.published import files, ml4m
from .. import checkpoint
from ..settings import Extend, Init, Train
from . import matching, vocabularies
from .job import MODEL, TrainJob, configured, model_config
from .weights import of_checkpoint

_POSITION_ERROR = 1e-2  # of a fixed table in a file of half precision; values lie in -1..1


def identity_of(train: Train) -> Any:
    """What a run begins with, for its fingerprint, of settings that are `resolved`; None if with fresh weights."""
    init = train.begins_with
    if init is None:
        return None
    what = identity(init.weights)
    more = init.model_dump(exclude={"weights"}, exclude_defaults=True)
    if isinstance(init, Extend):
        return [what, more, "extended"]
    return [what, more] if more else what


def identity(place: str | None) -> str | None:
    """What the initial weights are, for a fingerprint: the content of a folder, or the name of a published model."""
    if place and (file := files.pickled(place)):
        return storage.sha256(str(file))
    # The marker of a checkpoint identifies it: it names its files, and no other attempt writes files of these names.
    names = [join(place, name) for name in (model_files.WEIGHTS, checkpoint.MARKER)] if place else []
    return next((storage.sha256(name) for name in names if storage.exists(name)), place)


def resolved(train: Train) -> Train:
    """The settings with the place of the initial weights as any worker finds it: absolute if it is a folder here, and
    of a run its finished model, and of its `checkpoints` the newest.

    RecipeError if nothing is there.
    """
    if (init := train.begins_with) is None:
        return train
    try:
        place = located(init.weights)
    except ValueError as error:
        raise RecipeError(f"{init.setting}: {error}") from None
    field = "init" if train.extend is None else "extend"
    named = isinstance(getattr(train, field), str)
    return train.model_copy(update={field: place if named else init.model_copy(update={"weights": place})})


def located(place: str) -> str:
    """A model's place as any worker finds it: absolute if it is a folder here, of a run its finished model, and of its
    `checkpoints` the newest; a hub id as it is. ValueError if nothing is there."""
    if files.pickled(place):
        return storage.absolute(place)
    names = storage.list_names(place)
    if model_files.WEIGHTS not in names and (held := [name for name in (MODEL, "checkpoints") if name in names]):
        place = join(place, held[0])  # of a run
    if not storage.exists(join(place, model_files.WEIGHTS)):
        saved = checkpoint.at(place) or checkpoint.newest(place)
        if saved is None and is_hub_id(place):
            return place
        if saved is None:
            raise ValueError(
                f"there is no model at {place}; expected the `model` or `checkpoints` folder of a run, a "
                "folder with model.safetensors, a .pt of tensors, or a hub id of the form org/name"
            )
        place = saved.url
    return storage.absolute(place)


def is_hub_id(place: str) -> bool:
    """Whether a place without a model is a hub id (org/name). It is none if its first part is a folder
    here: then it is a mistyped path."""
    from ...tokenize import ml4m as published

    return published.is_hub_id(place) and not storage.list_names(place.partition("/")[0])


def check(train: Train) -> None:
    """RecipeError if what training needs from elsewhere is not there: initial weights, the roots of other datasets."""
    init = resolved(train).begins_with
    if init is not None and is_hub_id(init.weights):  # a folder is absolute by now, or a URL
        try:
            files.check_hub(init.weights, init.revision)
        except ValueError as error:
            raise RecipeError(f"{init.setting}: {error}") from None
    for share in train.datasets:
        if share.root is not None and not storage.exists(join(share.root, "recipe.yaml")):
            raise RecipeError(
                f"train.datasets: {share.root} is no root, there is no recipe.yaml; label and tokenize it first"
            )


def check_fits(
    train: Train, specs: Sequence[ModalitySpec], text_is_known: bool, here: vocabularies.Here | None = None
) -> list[str]:
    """RecipeError if the initial model is of other sizes, has none of the modalities, or has learned other tokens.

    Args:
        specs: of the run. text_is_known: whether the size of their vocabulary of text is known yet.
        here: the recipe's tokenizers; None compares sizes alone.

    Returns:
        Sentences for the user: modalities that begin with fresh weights, and what could not be compared.
    """
    init = train.begins_with
    found = described(train)
    if init is None or found is None:
        return []
    place, config, published = found
    known = {spec.name: spec.vocab_size for spec in config.modalities}
    if not text_is_known:
        specs = [
            replace(spec, vocab_size=known[spec.name]) if spec.kind is Kind.SEQUENCE and spec.name in known else spec
            for spec in specs
        ]
    target = configured(specs, train.model)
    try:
        pairs = matching.check_config(config, target, init)
        notes = matching.beginners(target, pairs, init)
        if here is not None:
            kept = [name for name in pairs if not init.is_fresh(name)]
            said = vocabularies.learned(place)
            notes += vocabularies.check(init, kept, said, published, here, matching.shares_text(init, config, target))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return notes


def with_model_of_init(train: Train) -> Train:
    """The settings with the sizes and kinds of blocks of the model that training begins with, where they say nothing.

    RecipeError if there is no such model, or they say something else.
    """
    init = resolved(train).begins_with
    if init is None:
        return train
    place = init.weights
    try:
        if is_hub_id(place):
            there = ml4m.architecture(place, init.revision)
        else:
            found = described(train)
            there = {} if found is None else {name: getattr(found[1], name) for name in matching.ARCHITECTURE}
    except (ValueError, OSError) as error:
        raise RecipeError(f"{init.setting}: {error}") from None
    there = {"heads" if name == "num_heads" else name: value for name, value in there.items()}
    asked = {name: getattr(train.model, name) for name in train.model.model_fields_set & there.keys()}
    for name, value in asked.items():
        if value != there[name]:
            raise RecipeError(
                f"train.model.{name}: {value} here, and {there[name]} in {place}, which training begins with; leave "
                "it out, and it is read from there"
            )
    return train.model_copy(update={"model": train.model.model_copy(update=there)})


def config_of(job: TrainJob) -> FourMConfig:
    """The configuration of a run's model. By a convention of published models, and of one that is extended, it has two
    tables of output tokens where the model that it begins with has two, one that the decoder reads and one that it
    predicts with. One that is extended has all of its modalities, those that the recipe does not name at the end."""
    config, init = model_config(job), job.settings.begins_with
    extends = isinstance(init, Extend)
    if init is None or not (job.convention or extends):
        return config
    latest = checkpoint.newest(job.checkpoints)
    if latest and extends:
        return FourMConfig.from_dict(latest.marker()["state"]["model"])
    if latest:
        return replace(config, tied_heads=latest.marker()["state"]["model"]["tied_heads"])
    there = load(init.weights, init.revision).config
    config = replace(config, tied_heads=there.tied_heads)
    return matching.extended(config, there, init) if extends else config


def described(train: Train) -> tuple[str, FourMConfig, bool] | None:
    """Place and configuration of the initial model, and whether it is in apple/ml-4m's format; None if there is none,
    or the hub cannot be asked."""
    init = resolved(train).begins_with
    found = None if init is None else describe(init.weights, init.revision)
    return None if init is None or found is None else (init.weights, *found)


def describe(place: str, revision: str | None = None) -> tuple[FourMConfig, bool] | None:
    """The configuration of the model of a place, see `located`, and whether it is in apple/ml-4m's format; None if the
    hub cannot be asked."""
    if saved := checkpoint.at(place):
        return FourMConfig.from_dict(saved.marker()["state"]["model"]), False
    if is_hub_id(place):
        published = ml4m.describe(place, revision)
        return (published, True) if published is not None else None
    with _local(place, headers=True) as folder:
        if own := _own_config(folder):
            return FourMConfig.from_dict(own), False
        published = ml4m.describe(folder)
    return (published, True) if published is not None else None


def _own_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of a folder in our format, None of another format."""
    config = folder / model_files.CONFIG
    values = model_files.read_config(config) if config.is_file() else {}
    return values if "modalities" in values else None


@contextmanager
def _local(place: str, headers: bool = False) -> Iterator[Path]:
    """The files of a model, fetched if they are elsewhere.

    Args:
        headers: leave the weights where they are if a configuration of ours says all about them.
    """
    if file := files.pickled(place):
        yield file
        return
    # A published folder may have its configuration in the header of its weights alone.
    beside = [model_files.CONFIG, model_files.TOKENIZERS]
    beside = [name for name in beside if storage.exists(join(place, name))]
    if headers:
        with storage.local_folder(place, beside) as folder:
            if _own_config(folder):
                yield folder
                return
    with storage.local_folder(place, [*beside, model_files.WEIGHTS]) as folder:
        yield folder


def load(place: str, revision: str | None = None) -> FourM:
    """A trained model: a folder (any URL) of `fourmill train` or of apple/ml-4m's format, a checkpoint of a run, or a
    hub id, of a revision.

    ValueError if there is none.
    """
    if saved := checkpoint.at(place):
        return of_checkpoint(saved)
    if not storage.exists(storage.join(place, model_files.WEIGHTS)):
        return ml4m.load(place, revision)
    with _local(place) as folder:
        return model_files.load(folder) if _own_config(folder) else ml4m.load(folder)


def fill(model: FourM, init: Init | str, asked: Collection[str] | None = None) -> list[str]:
    """Copy the weights of a trained model into `model`. Returns sentences for the user, on what was not copied.

    Args:
        asked: the modalities of the run, whose tokenizers are compared; all of the model's unless given.

    ValueError if it has another architecture, a modality of another vocabulary or size, or none of the modalities; or
    if it has learned the ids of other tokenizers than `model.tokenizers`, as far as both are known.
    """
    init = Init(weights=init) if isinstance(init, str) else init
    return copy(load(init.weights, init.revision), model, init, asked)


@torch.no_grad()
def copy(trained: FourM, model: FourM, init: Init | str = "init", asked: Collection[str] | None = None) -> list[str]:
    """See `fill`; the `weights` of `init` are how messages call the trained model."""
    init = Init(weights=init) if isinstance(init, str) else init
    pairs = matching.check_config(trained.config, model.config, init)
    compared = [name for name in pairs if not init.is_fresh(name) and (asked is None or name in asked)]
    shares_text = matching.shares_text(init, trained.config, model.config)
    vocabularies.check_learned(init, compared, trained, model, shares_text)
    if isinstance(init, Extend):
        model.tokenizers = trained.tokenizers | model.tokenizers
    _copy_body(trained, model)
    notes = []
    for name, source_name in pairs.items():
        notes += _copy_modality(trained, source_name, model, name, init)
    idle = [] if asked is None else [spec.name for spec in model.config.modalities if spec.name not in asked]
    notes += [f"{init.setting}: {listing(idle)} are kept as they are; the recipe does not name them"] if idle else []
    return notes + matching.beginners(model.config, pairs, init)


def _copy_body(trained: FourM, model: FourM) -> None:
    """Copy all that belongs to no modality; the architectures are the same."""
    target, source = ({name: p for name, p in m.named_parameters() if not _by_modality(name)} for m in (model, trained))
    assert {name: p.shape for name, p in target.items()} == {name: p.shape for name, p in source.items()}
    for name, parameter in target.items():
        parameter.copy_(source[name])


def _by_modality(name: str) -> bool:
    tables = ("modality_table", "decoder_modality_table", "heads")
    return name in tables or name.startswith(("encoder_embeddings.", "decoder_embeddings.", "projections."))


def _copy_modality(trained: FourM, source_name: str, model: FourM, name: str, init: Init) -> list[str]:
    """Copy one modality's tables, on the sides (input, output) that both models have. Returns notes as `fill` does."""
    place, fresh = init.weights, init.is_fresh(name)
    index, other = model.config.index(name), trained.config.index(source_name)
    model.modality_table[index] = trained.modality_table[other]
    if model.decoder_modality_table is not None and trained.decoder_modality_table is not None:
        model.decoder_modality_table[index] = trained.decoder_modality_table[other]
    spec = model.config.spec(name)
    if name in model.config.inputs and source_name in trained.config.inputs:
        _copy_positions(trained.encoder_embeddings.position_rows_of(source_name),
                        model.encoder_embeddings.position_rows_of(name), spec, init)  # fmt: skip
        if spec.is_target and not fresh:
            model.encoder_embeddings.token_table(name).copy_(trained.encoder_embeddings.token_table(source_name))
        elif not spec.is_target:
            model.projections.layers[name].load_state_dict(_state(trained, source_name))
    if name not in model.config.outputs or source_name not in trained.config.outputs:
        return []
    _copy_positions(trained.decoder_embeddings.position_rows_of(source_name),
                    model.decoder_embeddings.position_rows_of(name), spec, init)  # fmt: skip
    if fresh:
        return []
    # The source may have two tables: one that the decoder reads tokens by, one that it predicts with. A model with one
    # table takes the second. For grids nothing is lost, since the decoder never reads their tokens.
    read, predict = trained.decoder_embeddings.token_table(source_name), trained.head(source_name)
    if model.heads is not None:
        model.decoder_embeddings.token_table(name).copy_(read)
        model.head(name).copy_(predict)
        return []
    model.head(name).copy_(predict)
    if spec.kind is Kind.GRID or torch.equal(read, predict):
        return []
    tables = "by another table than it predicts with; took the latter"
    return [f"{init.setting}: the decoder of {place} reads {source_name} {tables}"]


def _state(trained: FourM, name: str) -> Mapping[str, Tensor]:
    return trained.projections.layers[name].state_dict()


def _copy_positions(source: Tensor, target: Tensor, spec: ModalitySpec, init: Init) -> None:
    """Copy learned positions; fixed ones are 4M's sines and cosines, and must be the same."""
    if spec.learned_positions:
        target.copy_(source)
        return
    rows = min(len(target), len(source))
    if not torch.allclose(target[:rows], source[:rows], atol=_POSITION_ERROR):
        raise ValueError(
            f"{init.setting}: {init.weights} has other positions of {spec.name} than 4M's sines and cosines, which are "
            "not trained"
        )
