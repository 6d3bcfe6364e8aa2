"""In how many digits a training step computes: the forward pass of the recipes under autocast, on tensors without data.

- float32: share of the FLOPs of products and attention; what follows a product in the backward pass has its dtype.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from counted.training import job_of, load, random_batch
from fourmill_tests.counted.digits import Digits
from torch._subclasses.fake_tensor import FakeTensorMode

from fourmill.model.fourm import FourM
from fourmill.train.pretrain.job import configured
from fourmill.train.pretrain.parts import parts_of
from fourmill.train.settings import in_bf16

TITLE = "The digits of a training step"
SAMPLES = 16


def counted(name: str) -> dict[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    job, train = job_of(recipe), recipe.train
    # Blocks are alike; with few of them what is outside counts for more.
    config = replace(configured(job.specs, train.model), encoder_depth=1, decoder_depth=1)
    parts = parts_of(config, 1, torch.device("cpu"))(random_batch(job, SAMPLES))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = FourM(config).train()
        with Digits() as digits, torch.autocast("cpu", torch.bfloat16, enabled=in_bf16(train.precision, "cuda")):
            model(parts.batches[0], groups=parts.groups[0])
    return {"float32": digits.in_float32}


ROWS = {f"{name}, forward": partial(counted, name) for name in ("4m7_b", "4m21_b")}
