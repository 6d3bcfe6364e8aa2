"""recipes/continue-4m21.yaml: a published model goes on, and its first loss is that of apple/ml-4m's own code."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fourmill_tests import training
from fourmill_tests.tiny import continued

from fourmill import recipe as recipes
from fourmill.infra.configuration import RecipeError
from fourmill.model.fourm import FourM
from fourmill.model.published.names import published_names
from fourmill.recipe import Recipe
from fourmill.train.pretrain import initial
from fourmill.train.pretrain.job import TrainJob
from fourmill.train.pretrain.trainer import Trainer
from fourmill.train.pretrain.window import Window

RECORDED = json.loads((Path(__file__).parents[2] / "golden" / "continue_4m21.json").read_text())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    folder = tmp_path_factory.mktemp("continued")
    recipe = recipes.load(continued.RECIPE, continued.overrides(folder, folder / "model"))
    sizes = continued.specs(recipe)
    continued.save(folder / "model", sizes)
    shard = continued.columns(folder / "out", sizes)
    asked = recipe.model_copy(update={"train": initial.with_model_of_init(recipe.train)})
    return replace(training.job_of(asked, tuple(sizes), (shard,)), convention=recipe.convention)


def test_the_first_loss_is_the_references(job: TrainJob) -> None:
    trainer = Trainer(job, FourM(initial.config_of(job)))
    _, batch = next(trainer.loader.batches(0, job.settings.batch_size, 0, 1))
    window = Window(trainer.outputs, started=time.monotonic())
    trainer.train_step(trainer.parts(batch), window)
    (entry,) = window.entries
    assert float(entry.loss) == pytest.approx(RECORDED["loss"], abs=1e-5)
    names = published_names(job.specs)
    counts = torch.tensor(entry.counts)
    measured = dict(zip((names[name] for name in trainer.outputs), (entry.sums / counts).tolist(), strict=True))
    assert measured == pytest.approx(RECORDED["losses"], abs=1e-5)


def test_the_model_is_as_its_checkpoint_says(job: TrainJob) -> None:
    """Settings that the recipe leaves out; and two tables of output tokens, where the checkpoint has two."""
    config = initial.config_of(job)
    assert (config.dim, config.share_modality_embeddings, config.tied_heads) == (continued.DIM, False, False)
    assert initial.config_of(replace(job, convention=None)).tied_heads


def test_what_the_recipe_says_of_the_model_must_be_so(job: TrainJob) -> None:
    train = Recipe.model_validate(job.recipe).train
    for name, value in {"encoder_depth": 3, "share_modality_embeddings": True}.items():
        asked = train.model_copy(update={"model": type(train.model).model_validate({name: value})})
        with pytest.raises(RecipeError, match=rf"^train.model.{name}: {value} here, and .* in .*; leave it out"):
            initial.with_model_of_init(asked)
