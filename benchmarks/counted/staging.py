"""What a worker copies to host memory for a checkpoint: parameters and both moments, of tensors without data.

- state: GB of all.
- staged, over a share: bytes that the worker with the most copies, over those of all by the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor

from fourmill.model.fourm import FourM
from fourmill.train.parallel import ModalityLosses, shard
from fourmill.train.pretrain.job import configured
from fourmill.train.pretrain.weights import Weights
from fourmill.train.staging import shares

from .collectives import WORLD, workers
from .training import job_of, load

TITLE = "Staged for a checkpoint"


def counted(name: str) -> Mapping[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    config = configured(job_of(recipe).specs, recipe.train.model)
    with workers(), FakeTensorMode(allow_non_fake_inputs=True):
        model = FourM(config)
        if recipe.train.parallel == "fsdp":
            shard(ModalityLosses(model), "cpu", WORLD, None)
        tensors = Weights(model).tensors()
    total = sum(x.numel() * x.element_size() for x in tensors.values())
    if recipe.train.parallel == "fsdp":
        # Of shards this process has the first worker's, which is as large as any.
        staged = [sum(x.to_local().nbytes for x in tensors.values() if isinstance(x, DTensor))]
    else:
        staged = [sum(chunk.values.nbytes for chunk in shares(tensors, rank, WORLD)) for rank in range(WORLD)]
    return {"state": total / 1e9, "staged, over a share": max(staged) * WORLD / total}


ROWS = {f"{name}, staged": partial(counted, name) for name in ("4m7_b", "4m21_b", "4m7_xl")}
