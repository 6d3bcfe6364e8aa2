"""How many samples at a time fit on a GPU, for each stage of a recipe, by counted bytes (train/memory.py, and
labelling.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...pipelines.engine.settings import Engine
from ...pipelines.specialists.base import Specialist
from ...pipelines.specialists.pretrained import Pretrained
from ...recipe import Recipe
from . import labelling
from .finding import Finding, wrong
from .machine import FEWER, GIB, Has

if TYPE_CHECKING:
    from ...train.memory import Need


@dataclass(frozen=True)
class Fit:
    """Of one stage on one GPU.

    samples: at a time, by the recipe. gib: that these take. most: samples that fit. Where weights alone are counted
        both are None, as of all specialists of an actor together. why: nothing else is counted.
    """

    stage: str
    samples: int | None
    gib: float
    most: int | None
    why: str = ""

    def as_json(self) -> dict[str, str | int | float | None]:
        why = {"why": self.why} if self.why else {}
        return {"stage": self.stage, "samples": self.samples, "gib": round(self.gib, 2), "most": self.most, **why}


def look(
    recipe: Recipe, has: Has, weights: float, specialists: Mapping[str, Specialist] | None = None, quick: bool = False
) -> tuple[list[Fit], list[Finding]]:
    """What fits, and what of the recipe does not. Nothing where there is no GPU: counting takes seconds.

    Args:
        weights: GiB of an actor's specialists.
        specialists: of its labels, by label. quick: those that take longer to count are not counted.
    """
    if not has.gpus:
        return [], []
    from ...train import memory  # loads torch

    room = has.gpu_memory * memory.ROOM * GIB
    fits, findings = _of_labels(specialists or {}, weights, has, recipe.engine, quick)
    for stage, samples, need, uses in _stages(recipe):
        gib, most = need.bytes(samples) / GIB, need.fits(room)
        fits.append(Fit(stage, samples, gib, most))
        if uses and most < samples:
            why = f"{samples} samples at a time take {gib:.3g} GiB, a GPU of {has.name} has room for "
            why += f"{room / GIB:.3g} GiB, which is {most} samples"
            findings.append(wrong(stage, why, _advice(recipe, stage, most)))
    return fits, findings


def _of_labels(
    specialists: Mapping[str, Specialist], weights: float, has: Has, engine: Engine, quick: bool
) -> tuple[list[Fit], list[Finding]]:
    """The weights of all, and of each network what the actor takes while it runs, beside these: one at a time does."""
    from ...train.memory import ROOM

    room = has.gpu_memory * ROOM * GIB
    fits, findings = [Fit("label", None, weights, None)] if weights else [], []
    for label, one in specialists.items():
        if not isinstance(one, Pretrained) or not one.gpus:
            continue
        stage, samples = f"label {label}", labelling.at_a_time(one, engine)
        try:
            need = labelling.count(one, weights * GIB, quick)
        except labelling.NotCounted as error:
            fits.append(Fit(stage, None, one.resident_gb(), None, str(error)))
            continue
        gib, most = need.bytes(samples) / GIB, need.fits(room)
        fits.append(Fit(stage, samples, gib, most))
        if most < samples and weights * GIB < room:  # else the weights alone are too large, which is said elsewhere
            why = f"{samples} at a time take {gib:.3g} GiB with the weights of all labels, a GPU of {has.name} has "
            why += f"room for {room / GIB:.3g} GiB, which is {most}"
            may = one.groups and one.sees_image and most >= one.batch_size
            findings.append(
                wrong(stage, why, f"--set engine.window={max(1, most // engine.batch_size)}" if may else FEWER)
            )
    return fits, findings


def _stages(recipe: Recipe) -> list[tuple[str, int, Need, bool]]:
    """Stage, samples at a time, what it takes, and whether the recipe gives it a GPU."""
    from ...modalities import TOKENIZERS
    from ...tokenize import class_lists
    from ...train import memory
    from ...train.pretrain.job import configured
    from ...train.settings import in_bf16

    train, fit, made = recipe.train, recipe.fit, recipe.generate
    stages = []
    for name in (
        one for one in recipe.tokenizers_needed if not TOKENIZERS[one].is_table
    ):  # of sensors: made in seconds
        settings = recipe.tokenizer(name)
        if settings.weights is None:
            labels = class_lists.n_labels(name, recipe.class_lists)
            need = memory.of_fit(name, settings, recipe.images.size, labels)
            workers = fit.workers if fit.share == "batches" else 1
            samples = max(1, settings.batch_size // workers // settings.accumulate)
            stages.append((f"fit {name}", samples, need, fit.gpus > 0))
    config = configured(recipe.specs(), train.model)
    samples = max(1, train.batch_size // (train.worker_range[1] * train.accumulate))
    stages.append(("train", samples, memory.of_training(config, train), train.gpus > 0))
    if made.chains:
        need = memory.of_generation(config, made.chains, in_bf16(made.precision, "cuda"))
        stages.append(("generate", min(made.samples, made.batch_size), need, train.gpus > 0))
    return stages


def _advice(recipe: Recipe, stage: str, most: int) -> str:
    """Which setting to change, so that a stage fits."""
    if stage == "generate":
        return f"--set generate.batch_size={most}" if most else "generate with a smaller model"
    if stage == "train":
        train = recipe.train
        parts = [n for n in range(train.accumulate, train.batch_size + 1) if _divides(recipe, n, most)]
        if parts:
            return f"--set train.accumulate={parts[0]}, which trains the same model"
        if train.activation_checkpointing is not True:
            return "--set train.activation_checkpointing=true"
        return "more train.workers" if train.parallel == "fsdp" else "--set train.parallel=fsdp, on several workers"
    name = stage.removeprefix("fit ")
    batch = recipe.tokenizer(name).batch_size // (recipe.fit.workers if recipe.fit.share == "batches" else 1)
    if not most:
        return f"give tokenizers.each.{name} a smaller dim"
    parts = [n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= most]
    return f"--set tokenizers.each.{name}.accumulate={parts[0]}"


def _divides(recipe: Recipe, accumulate: int, most: int) -> bool:
    """Whether a batch divides into so many parts, each of at most `most` samples, on any number of workers."""
    train = recipe.train
    least, largest = train.worker_range
    whole = all(train.batch_size % (workers * accumulate) == 0 for workers in range(least, largest + 1))
    return whole and train.batch_size // (least * accumulate) <= most
