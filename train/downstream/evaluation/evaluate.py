"""The evaluation of a trained model: what `fourmill evaluate` measures, from the job to its results."""

from __future__ import annotations

from functools import cached_property

from ....infra.progress import Progress
from ....model.fourm import FourM
from ...pretrain.weights import load_model
from .. import samples as chosen
from ..generation import special_ids
from ..samples import Samples
from . import matrix, table
from .job import EvaluateJob
from .matrix_files import Matrix
from .table_files import Table


class Evaluation:
    """The model of a job, loaded once, and its validation samples. ValueError where there are none."""

    def __init__(self, job: EvaluateJob) -> None:
        self.job = job

    @cached_property
    def model(self) -> FourM:
        return load_model(self.job.generation.run, self.job.device, self.job.generation.step)

    def likelihoods(self) -> Matrix:
        """The matrix of who knows what."""
        settings, special = self.job.settings, special_ids(self.job.generation)
        samples = self._samples((), self.job.settings.subset)
        total = matrix.passes(self.model, settings.combinations)
        with Progress("evaluate", total, "passes") as progress:
            cells = matrix.compute(self.model, samples, settings.combinations, settings, special, progress.update)
        return Matrix(self.job.generation.title, len(samples.places), settings.draws, settings.seed, cells)

    def table(self) -> Table:
        """The evaluation table."""
        samples = self._samples(self.job.inputs)
        with Progress("evaluate", table.answers(self.job, samples), "answers") as progress:
            return table.compute(self.job, samples, lambda: self.model, progress.update)

    def _samples(self, needed: tuple[str, ...], most: int | None = None) -> Samples:
        generation, count = self.job.generation, self.job.settings.samples
        count = min(count, most or count)
        samples = chosen.read(generation.root, generation.specs, generation.splits["val"], count, needed)
        if not samples.places:
            lacks = f"none of the validation samples has {' and '.join(needed)}" if needed else "there are none"
            raise ValueError(f"evaluate: {lacks}; see `fourmill status`")
        return samples
