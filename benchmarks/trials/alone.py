"""The stages of a recipe in one process, without Ray, for chaos.py: the start of Ray's processes is most of
what a bad day costs. Engine, workers, fits and trainer are those of every run; only who starts them is another one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fourmill_tests import engine, training

from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train.tokenizers import fit as fitting
from fourmill.verbs.make import label, tokenize
from fourmill.verbs.prepare import download


class Aloud:
    """A board whose messages are printed."""

    def tell(self, at: str) -> None:
        pass

    def post(self, **message: Any) -> None:
        print(message["stage"], message["done"], "of", message["total"], message["unit"], flush=True)


def _fit(recipe: Recipe) -> bool:
    project = Project(recipe)
    if project.unfitted:
        fitting.fit_all(project.fit_job(project.unfitted), 0, 1, "cpu", Aloud())
    return True


def _train(recipe: Recipe) -> bool:
    job = Project(recipe).train_job
    if job.record() is None:
        reporter: Any = Aloud()
        training.trainer(job).run(reporter)
    return True


STAGES: dict[str, Callable[[Recipe], bool]] = {
    "download": lambda recipe: download.make(recipe)[0].complete,
    "label": lambda recipe: label.make(Project(recipe)).complete,
    "fit": _fit,
    "tokenize": lambda recipe: tokenize.make(Project(recipe)).complete,
    "train": _train,
}


def run(verbs: Sequence[str], path: str, overrides: Sequence[str]) -> int:
    """Some stages, one after the other; an exit status."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    recipe = recipes.load(path, list(overrides))
    with pytest.MonkeyPatch.context() as patch:
        engine.inline(patch)
        for verb in verbs:
            print(f"== {verb}", flush=True)
            if not STAGES[verb](recipe):
                return 1
    return 0
