"""What an evaluation is asked for, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

from ....infra.configuration import RecipeError
from ....infra.explain import listing
from ....infra.fingerprint import fingerprint
from ....tokenize.codec import Options
from .. import generation_job
from ..generation_job import GenerateJob
from ..settings import Generate
from .settings import Evaluate, default_inputs

if TYPE_CHECKING:
    from ...pretrain.job import TrainJob


@dataclass(frozen=True)
class EvaluateJob:
    """A trained model to evaluate on validation samples.

    generation: the run, its columns and codecs. inputs: what the model is given for the table. fingerprint: of the run
        and of the validation shards. sources: URL of each source shard. kept: labels that are stored. classes: the
        recipe's own lists of classes, by label. column: of source shards in Parquet, with the keys.
    """

    settings: Evaluate
    generation: GenerateJob
    inputs: tuple[str, ...]
    fingerprint: str
    sources: dict[str, str]
    kept: frozenset[str]
    classes: dict[str, tuple[str, ...]]
    column: str = ""

    @cached_property
    def device(self) -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


def of_run(
    run: TrainJob,
    settings: Evaluate,
    options: Options,
    sources: Sequence[tuple[str, str]],
    urls: dict[str, str],
    kept: frozenset[str],
    classes: dict[str, tuple[str, ...]],
    step: int | None = None,
    column: str = "",
) -> EvaluateJob:
    """The job of a run.

    Args:
        step: of the checkpoint that is its model; None for the finished one.
        sources: the validation shards, with the SHA-256 of their bytes. urls: of all shards. kept, classes, column:
            see above.

    Raises:
        RecipeError: there are no validation samples, none of the shards that should stand for training samples, or the
            recipe does not say what is given.
    """
    if not sum(shard.rows for shard in run.val_shards):
        raise RecipeError("evaluate: the recipe has no validation samples; name their shards in samples.val")
    inputs = tuple(settings.inputs or default_inputs(spec.name for spec in run.specs))
    if not inputs:
        raise RecipeError(
            "evaluate.inputs: the recipe has neither rgb nor pixels of a sensor; name what the model is given"
        )
    asked = {name: getattr(settings, name) for name in ("samples", "seed", "batch_size", "precision")}
    generation = _with_training(
        generation_job.of_run(run, Generate(**asked), options, sources, step), settings.training
    )
    print_ = fingerprint("evaluate", run.fingerprint, sources, *(() if step is None else (step,)))
    return EvaluateJob(settings, generation, inputs, print_, urls, kept, classes, column)


def _with_training(generation: GenerateJob, patterns: Sequence[str]) -> GenerateJob:
    """Validation shards of these names stand for the training samples, and are not evaluated."""
    if not patterns:
        return generation
    named = {shard: any(fnmatchcase(shard.name, one) for one in patterns) for shard in generation.splits["val"]}
    training, val = (tuple(shard for shard, is_it in named.items() if is_it is asked) for asked in (True, False))
    if not training or not sum(shard.rows for shard in val):
        lacks = "all validation shards are" if training else "no validation shard is"
        raise RecipeError(
            f"evaluate.training: {lacks} named {listing(patterns)}; they are {listing([one.name for one in named][:5])}"
        )
    return replace(generation, splits={"train": training, "val": val})
