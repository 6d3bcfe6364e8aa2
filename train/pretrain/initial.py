"""Initial weights from a trained model: 4M-21 begins with 4M-7, specialized models with the general one (4M-21, 3.4).

Decisions:
- The architectures are the same, field by field: weights that fit by their shapes alone would compute something else.
- Modalities are matched by their name here, or else by the published one: `rgb` at 112 pixels is `rgb@112`. Those that
  the trained model does not know keep their fresh weights, which the run says; those that only it knows are left out.
- A checkpoint may hold two tables of output tokens, one that the decoder reads and one that it predicts with. Where
  this model has one for both it takes the latter: the decoder never reads tokens of a grid, so that for grids nothing
  is lost. For texts whose two tables differ the run says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...infra import storage
from ...infra.configuration import RecipeError
from ...infra.storage import join
from ...modalities import Kind, ModalitySpec
from ...model import checkpoint as model_files
from ...model.config import FourMConfig
from ...model.fourm import FourM
from ...model.published import ml4m
from ...model.published.names import published_names
from .. import checkpoint
from ..settings import Train
from .weights import of_checkpoint

# Fields of a configuration that say how the weights of the blocks are used.
_ARCHITECTURE = (
    "dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio", "activation", "gated_mlp", "qk_norm",
    "qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "share_modality_embeddings", "num_register_tokens",
    "decoder_causal", "decoder_separate",
)  # fmt: skip
_POSITION_ERROR = 1e-2  # of a fixed table that was stored in half precision


def identity(place: str | None) -> str | None:
    """What the initial weights are, for a fingerprint: the content of a folder, or the name of a published model."""
    # A checkpoint's marker has the names of its files, which no other attempt has.
    files = [join(place, name) for name in (model_files.WEIGHTS, checkpoint.MARKER)] if place else []
    return next((storage.sha256(file) for file in files if storage.exists(file)), place)


def resolved(train: Train) -> Train:
    """The settings with the place of the initial weights as any worker finds it: absolute if it is a folder here, and
    of a run's `checkpoints` the newest.

    RecipeError if nothing is there.
    """
    if (place := train.init) is None:
        return train
    if not storage.exists(join(place, model_files.WEIGHTS)):
        found = checkpoint.at(place) or checkpoint.newest(place)
        if found is None and _is_hub_id(place):
            return train
        if found is None:
            raise RecipeError(
                f"train.init: there is no model at {place}; expected the `model` or `checkpoints` folder of a run, a "
                "folder with model.safetensors, or a hub id of the form org/name"
            )
        place = found.url
    return train.model_copy(update={"init": storage.absolute(place)})


def _is_hub_id(place: str) -> bool:
    """Whether a place that has no model is one of the hub's, and no mistyped path: that begins with a folder here."""
    from ...tokenize.ml4m import is_hub_id

    return is_hub_id(place) and not storage.list_names(place.partition("/")[0])


def check(train: Train) -> None:
    """RecipeError if what training needs from elsewhere is not there: initial weights, the roots of other datasets."""
    place = resolved(train).init
    if place is not None and _is_hub_id(place):  # a place that was found is absolute, or a URL
        try:
            ml4m.check_hub(place)
        except ValueError as error:
            raise RecipeError(f"train.init: {error}") from None
    for share in train.datasets:
        if share.root is not None and not storage.exists(join(share.root, "recipe.yaml")):
            raise RecipeError(
                f"train.datasets: {share.root} is no root, there is no recipe.yaml; label and tokenize it first"
            )


def load(place: str) -> FourM:
    """A trained model: a folder (any URL) of `fourmill train` or of apple/ml-4m's format, a checkpoint of a run, or a
    hub id.

    ValueError if there is none.
    """
    if found := checkpoint.at(place):
        return of_checkpoint(found)
    if not storage.exists(storage.join(place, model_files.WEIGHTS)):
        return ml4m.load(place)
    # A published folder may have its configuration in the header of its weights alone.
    files = (model_files.CONFIG, model_files.WEIGHTS)
    with storage.local_folder(place, [f for f in files if storage.exists(storage.join(place, f))]) as folder:
        config = folder / model_files.CONFIG
        own = config.is_file() and "modalities" in model_files.read_config(config)
        return model_files.load(folder) if own else ml4m.load(folder)


def fill(model: FourM, place: str) -> list[str]:
    """Copy what a trained model knows into `model`. Returns what a user should know of it, as sentences.

    ValueError if it is of another architecture, or a modality of another vocabulary or size, or it knows none of them.
    """
    return copy(load(place), model, place)


@torch.no_grad()
def copy(trained: FourM, model: FourM, place: str = "init") -> list[str]:
    """See `fill`; `place` is how messages call the trained model."""
    _same_architecture(trained.config, model.config, place)
    pairs = _pairs(trained.config, model.config)
    if not pairs:
        theirs = ", ".join(spec.name for spec in trained.config.modalities)
        raise ValueError(
            f"train.init: {place} knows none of the modalities {', '.join(s.name for s in model.config.modalities)}; "
            f"it knows {theirs}"
        )
    for mine, their in pairs.items():
        _same_tokens(trained.config.spec(their), model.config.spec(mine), place)
    _copy_body(trained, model)
    notes = [note for mine, their in pairs.items() for note in _copy_modality(trained, their, model, mine, place)]
    if fresh := [spec.name for spec in model.config.modalities if spec.name not in pairs]:
        notes.append(f"train.init: {', '.join(fresh)} begin with fresh weights; {place} does not know them")
    return notes


def _same_architecture(theirs: FourMConfig, mine: FourMConfig, place: str) -> None:
    for name in _ARCHITECTURE:
        if (here := getattr(mine, name)) != (there := getattr(theirs, name)):
            raise ValueError(
                f"train.init: {name} is {here} here, and {there} in {place}; the models must have the same train.model"
            )


def _pairs(theirs: FourMConfig, mine: FourMConfig) -> dict[str, str]:
    """My modalities that the trained model knows, and what it calls them."""
    known = {spec.name for spec in theirs.modalities}
    by_published = {there: name for name, there in published_names(theirs.modalities).items()}
    names = {
        name: name if name in known else by_published.get(there)
        for name, there in published_names(mine.modalities).items()
    }
    return {name: their for name, their in names.items() if their is not None}


def _same_tokens(theirs: ModalitySpec, mine: ModalitySpec, place: str) -> None:
    whats = {"kind": "is of the kind", "vocab_size": "has a vocabulary of", "input_dim": "has values of width"}
    whats["learned_positions"] = "has learned positions:"
    if mine.kind in (Kind.GRID, Kind.PIXELS) or mine.learned_positions:  # texts may be longer or shorter
        whats["max_tokens"] = "has as many tokens:"
    for field, what in whats.items():
        here, there = getattr(mine, field), getattr(theirs, field)
        if here != there:
            raise ValueError(f"train.init: {mine.name} {what} {here} here, and {there} in {place}; the tokens differ")


def _copy_body(trained: FourM, model: FourM) -> None:
    """All that is of no modality; the architectures are the same."""
    mine, theirs = ({name: p for name, p in m.named_parameters() if not _by_modality(name)} for m in (model, trained))
    assert {name: p.shape for name, p in mine.items()} == {name: p.shape for name, p in theirs.items()}
    for name, parameter in mine.items():
        parameter.copy_(theirs[name])


def _by_modality(name: str) -> bool:
    tables = ("modality_table", "decoder_modality_table", "heads")
    return name in tables or name.startswith(("encoder_embeddings.", "decoder_embeddings.", "projections."))


def _copy_modality(trained: FourM, their: str, model: FourM, mine: str, place: str) -> list[str]:
    """One modality's tables, under its names in both; the sides that both have."""
    index, other = model.config.index(mine), trained.config.index(their)
    model.modality_table[index] = trained.modality_table[other]
    if model.decoder_modality_table is not None and trained.decoder_modality_table is not None:
        model.decoder_modality_table[index] = trained.decoder_modality_table[other]
    spec = model.config.spec(mine)
    if mine in model.config.inputs and their in trained.config.inputs:
        _copy_positions(trained.encoder_embeddings.position_rows_of(their),
                        model.encoder_embeddings.position_rows_of(mine), spec, place)  # fmt: skip
        if spec.is_target:
            model.encoder_embeddings.token_table(mine).copy_(trained.encoder_embeddings.token_table(their))
        else:
            model.projections.layers[mine].load_state_dict(_state(trained, their))
    if mine not in model.config.outputs or their not in trained.config.outputs:
        return []
    _copy_positions(trained.decoder_embeddings.position_rows_of(their),
                    model.decoder_embeddings.position_rows_of(mine), spec, place)  # fmt: skip
    read, predict = trained.decoder_embeddings.token_table(their), trained.head(their)
    if model.heads is not None:
        model.decoder_embeddings.token_table(mine).copy_(read)
        model.head(mine).copy_(predict)
        return []
    model.head(mine).copy_(predict)
    if spec.kind is Kind.GRID or torch.equal(read, predict):
        return []
    return [f"train.init: the decoder of {place} reads {their} by another table than it predicts with; took the latter"]


def _state(trained: FourM, name: str) -> Mapping[str, Tensor]:
    return trained.projections.layers[name].state_dict()


def _copy_positions(theirs: Tensor, mine: Tensor, spec: ModalitySpec, place: str) -> None:
    """Learned ones are copied; fixed ones are 4M's, and must be the same."""
    if spec.learned_positions:
        mine.copy_(theirs)
        return
    rows = min(len(mine), len(theirs))
    if not torch.allclose(mine[:rows], theirs[:rows], atol=_POSITION_ERROR):
        raise ValueError(
            f"train.init: {place} has other positions of {spec.name} than 4M's sines and cosines, which are not trained"
        )
