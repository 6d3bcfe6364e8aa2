"""A training step is one graph, and nothing in it waits for the device: counted, not promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fourmill_tests import training
from torch.utils._python_dispatch import TorchDispatchMode

from fourmill.model.batch import PackedBatch
from fourmill.model.fourm import FourM
from fourmill.model.prepare import TargetGroups, group_targets
from fourmill.train.pretrain.trainer import Trainer, Window

# Operations whose result the host must know before it goes on: values read back, and shapes that depend on values.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "item", "equal",
    "is_nonzero", "bincount", "repeat_interleave",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts operations by name: those that wait for the device, indexing by booleans among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen[name] += 1
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
        boolean = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
        # One tensor to another device is a copy back to the host; there is no other device here to copy to.
        if name in WAITS or boolean:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_counts() -> None:
    x = torch.arange(4.0)
    for wait in (lambda: x[0].item(), lambda: x[x > 1], lambda: bool(x.sum()), lambda: x.nonzero()):
        with Waits() as mode:
            wait()
        assert mode.waits, "an operation that waits was not seen"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    yield training.trainer(training.job(tmp_path_factory.mktemp("free"), clip_norm=1.0, ema=0.9, accumulate=2))


def batch_of(one: Trainer) -> tuple[PackedBatch, PackedBatch, TargetGroups]:
    """A batch as the loader makes it, the same as tensors, and its targets."""
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    return batch, batch.to("cpu"), group_targets(batch, len(one.model.config.modalities))


def test_no_operation_of_a_step_waits(one: Trainer) -> None:
    """Forward, backward, clipping, AdamW and the average, from a batch of the loader."""
    batch, _, _ = batch_of(one)
    window = Window(one.outputs)
    with Waits() as mode:
        one.train_step(batch, window)
        one.train_step(batch, window)
    assert mode.seen["addmm"] + mode.seen["mm"] > 50, "the step was not seen"
    assert not mode.waits


def test_the_step_is_one_graph(one: Trainer) -> None:
    _, batch, groups = batch_of(one)
    model = one.model

    def step(batch: PackedBatch) -> torch.Tensor:
        loss: torch.Tensor = model(batch, groups=groups).loss
        return loss

    torch._dynamo.reset()
    explained = torch._dynamo.explain(step)(batch)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
    assert explained.op_count > 100


def test_blocks_of_a_side_share_a_graph(one: Trainer, tmp_path: Path) -> None:
    """`train.compile`: static shapes, one compilation for all blocks of a side however many batches come."""
    _, batch, groups = batch_of(one)
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(len(graph.graph.nodes))
        return graph

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = FourM(one.model.config)
    expected = model(batch, groups=groups).loss
    model.compile_blocks(backend=backend, fullgraph=True)
    for _ in range(2):
        loss = model(batch, groups=groups).loss
    assert len(compiled) == 2, "the blocks of the encoder, and those of the decoder"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
