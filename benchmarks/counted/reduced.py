"""What DDP's workers exchange in a step, with the samples of each that the recipe's comments say.

Of an all-reduce a gradient's bytes are counted once, though it sends them twice; of rows all that a worker sends.

- gradients: GB of all, in float32.
- left: bytes that are exchanged after the last block's gradient, when no work is left beside it, over those of all
  gradients.
- asked: likewise what is sent for the rows of the encoder's table that a step reads, before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import takewhile

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.pretrain.job import TrainJob, configured
from fourmill.train.pretrain.parts import parts_of
from fourmill.train.touched import TABLE, Touched, pays

from .collectives import Sent
from .training import job_of, load, random_batch

TITLE = "What DDP exchanges"
WIDTH = 64  # of the model of which messages are counted: their values are as many as the width


def counted(name: str, samples: int, workers: int) -> dict[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    job = job_of(recipe)
    config = configured(job.specs, recipe.train.model)
    sizes = dict(gradients(name))
    total, asked = sum(sizes.values()), 0
    inputs = samples * recipe.train.budgets[0]
    if pays(sizes[TABLE] // (4 * config.dim), inputs, workers):
        asked, sizes[TABLE] = rows(job, config, samples, inputs, workers)
    left = takewhile(lambda one: not one.startswith("encoder.0."), reversed(sizes))
    return {"gradients": total / 1e9, "left": sum(sizes[one] for one in left) / total, "asked": asked / total}


@cache
def gradients(name: str) -> Mapping[str, int]:
    """Bytes of the gradients of a recipe's parameters, in the order in which a backward pass completes them."""
    recipe, order = load(name), dict[str, int]()
    job = job_of(recipe)
    with torch.device("meta"):
        model = FourM(configured(job.specs, recipe.train.model)).train()
    parts = parts_of(model.config, 1, torch.device("cpu"))(random_batch(job, 8))
    for one, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, one=one: order.update({one: 4 * p.numel()}))
    model(parts.batches[0], groups=parts.groups[0]).loss.backward()
    return order


def rows(job: TrainJob, config: FourMConfig, samples: int, inputs: int, workers: int) -> tuple[int, int]:
    """Bytes that one of so many workers sends in its second step for the rows that it reads, and of their gradients."""
    small = replace(config, dim=WIDTH, num_heads=1, encoder_depth=1, decoder_depth=1)
    model = FourM(small)
    model.encoder_embeddings.tokens.grad = torch.zeros_like(model.encoder_embeddings.tokens)
    found, batch = list[list[tuple[torch.dtype, int]]](), random_batch(job, samples)
    dist.init_process_group("fake", rank=0, world_size=workers, store=FakeStore())
    try:
        touched = Touched(model, inputs, 0, workers)
        for exchange in (partial(touched.pull, touched.rows(batch)), touched.push) * 2:
            with Sent() as messages:
                exchange()
            found.append(messages.exchanged)
    finally:
        dist.destroy_process_group()
    wider = {torch.int64: 1, torch.float32: config.dim // WIDTH}
    pulled, pushed = (sum(size * wider[dtype] for dtype, size in messages) for messages in found[2:])
    return pulled, pushed


ROWS = {
    f"{name}, {workers} workers": partial(counted, name, samples, workers)
    for name, samples in (("4m7_b", 128), ("4m21_b", 64))
    for workers in (8, 64, 256)
}
