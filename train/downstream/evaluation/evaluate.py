"""The evaluation of a trained model: what `fourmill evaluate` measures, from the job to its results."""

from __future__ import annotations

from functools import cached_property

from ....infra.progress import Progress
from ....model.fourm import FourM
from ...pretrain.weights import load_model
from ..generation import special_ids
from ..pool import HERE, Where
from . import matrix, pooled, table
from .job import EvaluateJob
from .matrix_files import Matrix
from .table_files import Table


class Evaluation:
    """The model of a job, loaded once, and its validation samples. ValueError where there are none.

    Args:
        where: the cluster that makes the answers of the table, if there is one.
    """

    def __init__(self, job: EvaluateJob, where: Where = HERE) -> None:
        self.job, self.where = job, where

    @cached_property
    def model(self) -> FourM:
        return load_model(self.job.generation.run, self.job.device, self.job.generation.step)

    def likelihoods(self) -> Matrix:
        """The matrix of who knows what."""
        settings, special = self.job.settings, special_ids(self.job.generation)
        samples = table.samples_of(self.job, (), self.job.settings.subset)
        total = matrix.passes(self.model, settings.combinations)
        with Progress("evaluate", total, "passes") as progress:
            cells = matrix.compute(self.model, samples, settings.combinations, settings, special, progress.update)
        return Matrix(self.job.generation.title, len(samples.places), settings.draws, settings.seed, cells)

    def table(self) -> Table:
        """The evaluation table."""
        samples = table.samples_of(self.job)
        if self.where.is_cluster:
            pooled.answer(self.job, samples, self.where)
        with Progress("evaluate", table.answers(self.job, samples), "answers") as progress:
            return table.compute(self.job, samples, lambda: self.model, progress.update)
