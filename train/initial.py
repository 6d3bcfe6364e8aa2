"""Initial weights from a trained model: 4M-21 begins with 4M-7, specialised models with the general one (4M-21, 3.4).

Everything is matched by its name, and the tables of modalities by the modality's: those that the trained model does not
know keep their fresh weights, those that only it knows are left out.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from ..infra import storage
from ..model import checkpoint as model_files
from ..model import ml4m
from ..model.embeddings import Embeddings
from ..model.fourm import FourM
from ..train_settings import Train


def identity(place: str | None) -> str | None:
    """What the initial weights are, for a fingerprint: the content of a folder, or the name of a published model."""
    weights = storage.join(place, model_files.WEIGHTS) if place else ""
    return storage.sha256(weights) if weights and storage.exists(weights) else place


def resolved(train: Train) -> Train:
    """The settings with an absolute path, if the initial weights are in a folder here: workers start elsewhere."""
    if train.init is None or not storage.exists(storage.join(train.init, model_files.CONFIG)):
        return train
    return train.model_copy(update={"init": storage.absolute(train.init)})


def load(place: str) -> FourM:
    """A trained model: a folder (any URL) of `fourmill train` or of apple/ml-4m's format, or a hub id of the latter.

    ValueError if there is none.
    """
    if not storage.exists(storage.join(place, model_files.CONFIG)):
        return ml4m.load(place)
    with storage.local_folder(place, (model_files.CONFIG, model_files.WEIGHTS)) as folder:
        config = json.loads((folder / model_files.CONFIG).read_text())
        return model_files.load(folder) if "modalities" in config else ml4m.load(folder)


def fill(model: FourM, place: str) -> None:
    """Copy what a trained model knows into `model`.

    ValueError if its blocks are of other sizes, or a modality has another vocabulary.
    """
    copy(load(place), model, place)


@torch.no_grad()
def copy(trained: FourM, model: FourM, place: str = "init") -> None:
    """See `fill`; `place` is how messages call the trained model."""
    mine = {name: p for name, p in model.named_parameters() if not _by_modality(name)}
    theirs = dict(trained.named_parameters())
    for name, p in mine.items():
        if name in theirs and theirs[name].shape == p.shape:
            p.copy_(theirs[name])
        elif not name.startswith("projections."):  # of input modalities, which may be new
            found = tuple(theirs[name].shape) if name in theirs else "none"
            raise ValueError(
                f"train.init: {name} is {tuple(p.shape)} here, and {found} in {place}; the models must have the "
                "same train.model"
            )
    _copy_embeddings(trained, model, place, "encoder_embeddings")
    _copy_embeddings(trained, model, place, "decoder_embeddings")
    for spec in model.config.modalities:
        if spec.name in (known := [other.name for other in trained.config.modalities]):
            index = known.index(spec.name)
            model.modality_table[model.config.index(spec.name)] = trained.modality_table[index]


def _by_modality(name: str) -> bool:
    tables = ("modality_table", "decoder_modality_table", "heads")
    return name in tables or name.startswith(("encoder_embeddings.", "decoder_embeddings."))


def _copy_embeddings(trained: FourM, model: FourM, place: str, side: str) -> None:
    theirs, mine = getattr(trained, side), getattr(model, side)
    assert isinstance(theirs, Embeddings) and isinstance(mine, Embeddings)
    for name in mine.token_rows.keys() & theirs.token_rows.keys():
        _copy_rows(mine.token_table(name), theirs.token_table(name), f"{name} has a vocabulary of", place)
    for name in mine.learned_rows.keys() & theirs.learned_rows.keys():
        _copy_rows(mine.position_rows_of(name), theirs.position_rows_of(name), f"{name} has as positions", place)


def _copy_rows(mine: Tensor | nn.Parameter, theirs: Tensor, what: str, place: str) -> None:
    if len(mine) != len(theirs):
        raise ValueError(f"train.init: {what} {len(mine)} here, and {len(theirs)} in {place}; the tokens differ")
    mine.copy_(theirs)
