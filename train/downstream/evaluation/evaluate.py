"""The evaluation of a trained model: what `fourmill evaluate` measures, from the job to its results."""

from __future__ import annotations

import torch

from ....infra import storage
from ....infra.progress import Progress
from ....model.fourm import FourM
from ...pretrain.weights import load_model
from .. import samples as chosen
from ..generation import special_ids
from . import matrix
from .job import EvaluateJob
from .matrix_files import Matrix


def likelihoods(job: EvaluateJob) -> Matrix:
    """The matrix of who knows what. ValueError if no validation sample has any modality."""
    generation, settings = job.generation, job.settings
    model = _model(job)
    samples = chosen.read(generation.root, generation.specs, generation.splits["val"], settings.samples, ())
    if not samples.places:
        raise ValueError("evaluate: the validation shards hold no sample; see `fourmill status`")
    total = matrix.passes(model, settings.combinations)
    with Progress("evaluate", total, "passes") as progress:
        cells = matrix.compute(
            model, samples, settings.combinations, settings, special_ids(generation), progress.update
        )
    run = storage.join(generation.run_name, generation.run.rpartition("/")[2])
    return Matrix(run, len(samples.places), settings.draws, settings.seed, cells)


def _model(job: EvaluateJob) -> FourM:
    return load_model(job.generation.run, "cuda" if torch.cuda.is_available() else "cpu")
