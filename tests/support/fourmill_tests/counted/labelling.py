"""How often the host waits for the device while specialists label, and how often their networks run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.specialists.host import OnHost
from fourmill.pipelines.worker.lane import Shared
from fourmill.pipelines.worker.lanes import Lanes
from fourmill.pipelines.worker.sample import LabelledSample

from .operations import Operations


@dataclass
class Counted:
    """waits: of the host, for results that are read and within `infer`. passes: of the network."""

    waits: int = 0
    passes: int = 0


@contextmanager
def counting(specialist: Specialist, network: torch.nn.Module | None = None) -> Iterator[Counted]:
    """What a specialist does within. What waits is counted in `infer`, where tensors are the device's: operations
    whose result the host must know, and copies that it waits for; and each read of an `OnHost`, anywhere."""
    counted, infer, read, cpu = Counted(), type(specialist).infer, OnHost.tensors, torch.Tensor.cpu

    def inferring(self: Specialist, prepared: Any) -> Any:
        with Operations() as operations:
            inferred = infer(self, prepared)
        counted.waits += sum(operations.waits.values())
        return inferred

    def reading(self: OnHost) -> list[torch.Tensor]:
        counted.waits += 1
        return read(self)

    def copying(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        counted.waits += 1
        return cpu(self, *args, **kwargs)

    def passing(*_: Any) -> None:
        counted.passes += 1

    with ExitStack() as stack:
        stack.enter_context(patch.object(type(specialist), "infer", inferring))
        stack.enter_context(patch.object(OnHost, "tensors", reading))
        stack.enter_context(patch.object(torch.Tensor, "cpu", copying))
        if network is not None:
            stack.callback(network.register_forward_pre_hook(passing).remove)
        yield counted


def label(specialist: Specialist, items: Sequence[Item], window: int = 4, batch: int = 32) -> list[Any]:
    """Labels of items, or the reasons why there are none, by the engine's own lanes.

    Args:
        window: batches that are seen together, as on a GPU.
    """
    samples = [LabelledSample(item) for item in items]
    batches = [samples[start : start + batch] for start in range(0, len(samples), batch)]

    def texts(position: int, count: int) -> list[LabelledSample]:
        return [LabelledSample(Item(item.key, None, item.caption)) for item in items[position : position + count]]

    lanes = Lanes({specialist.label: specialist}, Shared(lambda *_: None), window, texts)
    name = specialist.label
    return [s.item.labels.get(name, s.reasons.get(name)) for made in lanes.labelled(batches) for s in made]
