"""Which worker is slow: the seconds that each has waited for data and computed forward passes.

Workers wait for each other in the backward pass, so that all of them take the same time for a step; what each does
before it is its own. With FSDP the forward pass waits as well, and only the wait for data tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Pace:
    """Of one worker, since the last line of the log. waited: seconds for data."""

    waited: float = 0.0
    _passes: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def forward(self, device: str) -> Iterator[None]:
        """Around a forward pass."""
        begin = _moment(device)
        yield
        self._passes.append((begin, _moment(device)))

    @property
    def seconds(self) -> float:
        """Of all that it did on its own. The device must be done with it."""
        return self.waited + sum(_between(*one) for one in self._passes)

    def shares(self, seconds: float, rank: int, world: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Values of a line of the log, of `seconds`: "data_wait_share" of the worker that waited longest, and of
        several workers "slowest_worker" and "lag_share", by how much it was slower than the median of all.

        Args:
            reduce: a float64 tensor to its sum over all workers, all of which call this.
        """
        each = torch.zeros(world, 2, dtype=torch.float64)
        each[rank] = torch.tensor([self.waited, self.seconds], dtype=torch.float64)
        waited, own = reduce(each).cpu().unbind(1)
        values = {"data_wait_share": waited.max().item() / seconds}
        if world > 1:
            lag = (own.max() - own.median()).item() / seconds
            values |= {"slowest_worker": float(own.argmax()), "lag_share": lag}
        return values


def said(values: dict[str, float], from_share: float = 0.1) -> list[str]:
    """What of these shares a person should see."""
    notes = []
    if (waits := values["data_wait_share"]) >= from_share:
        notes.append(f"waits for data {waits:.0%} of the time")
    if (lag := values.get("lag_share", 0.0)) >= from_share:
        notes.append(f"worker {values['slowest_worker']:.0f} is the slowest, by {lag:.0%} of the time")
    return notes


def _moment(device: str) -> Any:
    if device != "cuda":
        return time.monotonic()
    # Nothing waits for it before it is read.
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    return float(end - begin) if isinstance(begin, float) else float(begin.elapsed_time(end)) / 1000
