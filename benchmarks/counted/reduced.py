"""What DDP's workers exchange in a step, with the samples of each that the recipe's comments say.

- gradients: GB of all, in float32.
- left: share of them that is exchanged after the last block's, when no work is left beside it.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile

import torch

from fourmill.model.fourm import FourM
from fourmill.train.pretrain.job import TrainJob, configured
from fourmill.train.pretrain.parts import parts_of
from fourmill.train.touched import TABLE, pays

from .training import job_of, load, random_batch

TITLE = "What DDP exchanges"


def counted(name: str, samples: int, workers: int) -> dict[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    job = job_of(recipe)
    config = configured(job.specs, recipe.train.model)
    with torch.device("meta"):
        model = FourM(config).train()
    order = gradients(model, job)
    sizes = {one: 4 * p.numel() for one, p in model.named_parameters()}
    total, width, inputs = sum(sizes.values()), config.dim, samples * recipe.train.budgets[0]
    if pays(len(model.encoder_embeddings.tokens), inputs, workers, "cuda"):
        sizes[TABLE] = (inputs + 1) * (4 * width + 8)  # values and numbers of rows
    left = takewhile(lambda one: not one.startswith("encoder.0."), reversed(order))
    return {"gradients": total / 1e9, "left": sum(sizes[one] for one in left) / total}


def gradients(model: FourM, job: TrainJob) -> list[str]:
    """Names of parameters, in the order in which a backward pass completes their gradients."""
    parts, order = parts_of(model.config, 1, torch.device("cpu"))(random_batch(job, 8)), list[str]()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    model(parts.batches[0], groups=parts.groups[0]).loss.backward()
    return order


ROWS = {
    f"{name}, {workers} workers": partial(counted, name, samples, workers)
    for name, samples, workers in (("4m7_b", 128, 8), ("4m7_b", 128, 64), ("4m21_b", 64, 8), ("4m21_b", 64, 64))
}
