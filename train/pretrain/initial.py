"""Initial weights from a trained model: 4M-21 begins with 4M-7, specialized models with the general one (4M-21, 3.4).

Modalities that the trained model does not have keep their fresh weights; modalities that only it has are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from .job import MODEL, configured
from .weights import of_checkpoint

# Fields of a configuration that say how the weights of the blocks are used.
_ARCHITECTURE = (
    "dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio", "activation", "gated_mlp", "qk_norm",
    "qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "share_modality_embeddings", "num_register_tokens",
    "decoder_causal", "decoder_separate", "grid_temperature",
)  # fmt: skip
_POSITION_ERROR = 1e-2  # of a fixed table in a file of half precision; values lie in -1..1


def identity(place: str | None) -> str | None:
    """What the initial weights are, for a fingerprint: the content of a folder, or the name of a published model."""
    # The marker of a checkpoint identifies it: it names its files, and no other attempt writes files of these names.
    files = [join(place, name) for name in (model_files.WEIGHTS, checkpoint.MARKER)] if place else []
    return next((storage.sha256(file) for file in files if storage.exists(file)), place)


def resolved(train: Train) -> Train:
    """The settings with the place of the initial weights as any worker finds it: absolute if it is a folder here, and
    of a run its finished model, and of its `checkpoints` the newest.

    RecipeError if nothing is there.
    """
    if (place := train.init) is None:
        return train
    names = storage.list_names(place)
    if model_files.WEIGHTS not in names and (held := [name for name in (MODEL, "checkpoints") if name in names]):
        place = join(place, held[0])  # of a run
    if not storage.exists(join(place, model_files.WEIGHTS)):
        saved = checkpoint.at(place) or checkpoint.newest(place)
        if saved is None and _is_hub_id(place):
            return train
        if saved is None:
            raise RecipeError(
                f"train.init: there is no model at {place}; expected the `model` or `checkpoints` folder of a run, a "
                "folder with model.safetensors, or a hub id of the form org/name"
            )
        place = saved.url
    return train.model_copy(update={"init": storage.absolute(place)})


def _is_hub_id(place: str) -> bool:
    """Whether a place without a model is a hub id (org/name). It is none if its first part is a folder
    here: then it is a mistyped path."""
    from ...tokenize.ml4m import is_hub_id

    return is_hub_id(place) and not storage.list_names(place.partition("/")[0])


def check(train: Train) -> None:
    """RecipeError if what training needs from elsewhere is not there: initial weights, the roots of other datasets."""
    place = resolved(train).init
    if place is not None and _is_hub_id(place):  # a folder is absolute by now, or a URL
        try:
            ml4m.check_hub(place)
        except ValueError as error:
            raise RecipeError(f"train.init: {error}") from None
    for share in train.datasets:
        if share.root is not None and not storage.exists(join(share.root, "recipe.yaml")):
            raise RecipeError(
                f"train.datasets: {share.root} is no root, there is no recipe.yaml; label and tokenize it first"
            )


def check_fits(train: Train, specs: Sequence[ModalitySpec], text_is_fitted: bool) -> None:
    """RecipeError if the initial model is of other sizes, or has none of the modalities, as far as its configuration
    says so; a published folder says less, and is compared when it is loaded.

    Args:
        specs: of the run. text_is_fitted: whether the size of their vocabulary of text is known yet.
    """
    config = _config_at(train)
    if config is None or train.init is None:
        return
    known = {spec.name: spec.vocab_size for spec in config.modalities}
    if not text_is_fitted:
        specs = [
            replace(spec, vocab_size=known[spec.name]) if spec.kind is Kind.SEQUENCE and spec.name in known else spec
            for spec in specs
        ]
    try:
        _check_config(config, configured(specs, train.model), train.init)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _config_at(train: Train) -> FourMConfig | None:
    """The configuration of the initial model, if it is one of ours."""
    place = resolved(train).init
    if place is None:
        return None
    if saved := checkpoint.at(place):
        return FourMConfig.from_dict(saved.marker()["state"]["model"])
    if not storage.exists(join(place, model_files.CONFIG)):
        return None
    with storage.local_folder(place, [model_files.CONFIG]) as folder:
        values = model_files.read_config(folder / model_files.CONFIG)
    return FourMConfig.from_dict(values) if "modalities" in values else None


def load(place: str) -> FourM:
    """A trained model: a folder (any URL) of `fourmill train` or of apple/ml-4m's format, a checkpoint of a run, or a
    hub id.

    ValueError if there is none.
    """
    if saved := checkpoint.at(place):
        return of_checkpoint(saved)
    if not storage.exists(storage.join(place, model_files.WEIGHTS)):
        return ml4m.load(place)
    # A published folder may have its configuration in the header of its weights alone.
    files = (model_files.CONFIG, model_files.WEIGHTS)
    with storage.local_folder(place, [f for f in files if storage.exists(storage.join(place, f))]) as folder:
        config = folder / model_files.CONFIG
        own = config.is_file() and "modalities" in model_files.read_config(config)
        return model_files.load(folder) if own else ml4m.load(folder)


def fill(model: FourM, place: str) -> list[str]:
    """Copy the weights of a trained model into `model`. Returns sentences for the user, on what was not copied.

    ValueError if it has another architecture, a modality of another vocabulary or size, or none of the modalities.
    """
    return copy(load(place), model, place)


@torch.no_grad()
def copy(trained: FourM, model: FourM, place: str = "init") -> list[str]:
    """See `fill`; `place` is how messages call the trained model."""
    pairs = _check_config(trained.config, model.config, place)
    _copy_body(trained, model)
    notes = []
    for name, source_name in pairs.items():
        notes += _copy_modality(trained, source_name, model, name, place)
    if fresh := [spec.name for spec in model.config.modalities if spec.name not in pairs]:
        notes.append(f"train.init: {', '.join(fresh)} begin with fresh weights; {place} does not know them")
    return notes


def _check_config(source: FourMConfig, target: FourMConfig, place: str) -> dict[str, str]:
    """The modalities that both have, as of `_pairs`. ValueError if the weights of one cannot serve the other."""
    _same_architecture(source, target, place)
    pairs = _pairs(source, target)
    if not pairs:
        known = ", ".join(spec.name for spec in source.modalities)
        raise ValueError(
            f"train.init: {place} knows none of the modalities {', '.join(s.name for s in target.modalities)}; "
            f"it knows {known}"
        )
    for name, source_name in pairs.items():
        _same_tokens(source.spec(source_name), target.spec(name), place)
    return pairs


def _same_architecture(source: FourMConfig, target: FourMConfig, place: str) -> None:
    # Every field, since weights may fit by their shapes and compute something else (another activation).
    for name in _ARCHITECTURE:
        if (here := getattr(target, name)) != (there := getattr(source, name)):
            raise ValueError(
                f"train.init: {name} is {here} here, and {there} in {place}; the models must have the same train.model"
            )


def _pairs(source: FourMConfig, target: FourMConfig) -> dict[str, str]:
    """Modalities of the target that the source has too, and their names in the source."""
    # By the name, or else by the published name: `rgb` at 112 pixels is `rgb@112` there.
    known = {spec.name for spec in source.modalities}
    by_published = {there: name for name, there in published_names(source.modalities).items()}
    names = {
        name: name if name in known else by_published.get(there)
        for name, there in published_names(target.modalities).items()
    }
    return {name: source_name for name, source_name in names.items() if source_name is not None}


def _same_tokens(source: ModalitySpec, target: ModalitySpec, place: str) -> None:
    whats = {"kind": "is of the kind", "vocab_size": "has a vocabulary of", "input_dim": "has values of width"}
    whats["learned_positions"] = "has learned positions:"
    if target.kind in (Kind.GRID, Kind.PIXELS) or target.learned_positions:  # texts may be longer or shorter
        whats["max_tokens"] = "has as many tokens:"
    for field, what in whats.items():
        here, there = getattr(target, field), getattr(source, field)
        if here != there:
            raise ValueError(f"train.init: {target.name} {what} {here} here, and {there} in {place}; the tokens differ")


def _copy_body(trained: FourM, model: FourM) -> None:
    """Copy all that belongs to no modality; the architectures are the same."""
    target, source = ({name: p for name, p in m.named_parameters() if not _by_modality(name)} for m in (model, trained))
    assert {name: p.shape for name, p in target.items()} == {name: p.shape for name, p in source.items()}
    for name, parameter in target.items():
        parameter.copy_(source[name])


def _by_modality(name: str) -> bool:
    tables = ("modality_table", "decoder_modality_table", "heads")
    return name in tables or name.startswith(("encoder_embeddings.", "decoder_embeddings.", "projections."))


def _copy_modality(trained: FourM, source_name: str, model: FourM, name: str, place: str) -> list[str]:
    """Copy one modality's tables, on the sides (input, output) that both models have. Returns notes as `fill` does."""
    index, other = model.config.index(name), trained.config.index(source_name)
    model.modality_table[index] = trained.modality_table[other]
    if model.decoder_modality_table is not None and trained.decoder_modality_table is not None:
        model.decoder_modality_table[index] = trained.decoder_modality_table[other]
    spec = model.config.spec(name)
    if name in model.config.inputs and source_name in trained.config.inputs:
        _copy_positions(trained.encoder_embeddings.position_rows_of(source_name),
                        model.encoder_embeddings.position_rows_of(name), spec, place)  # fmt: skip
        if spec.is_target:
            model.encoder_embeddings.token_table(name).copy_(trained.encoder_embeddings.token_table(source_name))
        else:
            model.projections.layers[name].load_state_dict(_state(trained, source_name))
    if name not in model.config.outputs or source_name not in trained.config.outputs:
        return []
    _copy_positions(trained.decoder_embeddings.position_rows_of(source_name),
                    model.decoder_embeddings.position_rows_of(name), spec, place)  # fmt: skip
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
    return [f"train.init: the decoder of {place} reads {source_name} {tables}"]


def _state(trained: FourM, name: str) -> Mapping[str, Tensor]:
    return trained.projections.layers[name].state_dict()


def _copy_positions(source: Tensor, target: Tensor, spec: ModalitySpec, place: str) -> None:
    """Copy learned positions; fixed ones are 4M's sines and cosines, and must be the same."""
    if spec.learned_positions:
        target.copy_(source)
        return
    rows = min(len(target), len(source))
    if not torch.allclose(target[:rows], source[:rows], atol=_POSITION_ERROR):
        raise ValueError(
            f"train.init: {place} has other positions of {spec.name} than 4M's sines and cosines, which are not trained"
        )
