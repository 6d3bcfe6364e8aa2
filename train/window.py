"""The losses since the last line of the log: kept on the device, looked at once, and the guard against NaN.

Legend: S outputs of the model; values are of this worker's part of each step's batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


@dataclass
class Window:
    """One entry for each step.

    losses: scalars, this worker's part of the step's loss: those of all workers add up to it.
    sums: float (S,), sums of the targets' cross-entropies.
    counts: numbers of targets, S of them.
    norms: scalars, of the whole gradient.
    keys: the samples.
    waited, started: seconds spent waiting for data, and the clock at the start; pauses move the start.
    """

    outputs: Sequence[str]
    losses: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    keys: list[list[str]] = field(default_factory=list)
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.losses)

    def close(self, step: int, reduce: Reduce) -> tuple[dict[str, float], dict[str, float]]:
        """(means over steps and workers: "loss", "loss/MODALITY", "gradient_norm" of the last step; targets of each
        modality).

        Args:
            step: optimiser steps done, that of the newest entry.
            reduce: a float64 tensor to its sum over all workers.

        Raises:
            FloatingPointError: a loss or a gradient's norm is not finite; names step, modalities and samples.
        """
        losses, sums = torch.stack(self.losses).double().cpu(), torch.stack(self.sums).double().cpu()
        self._check("loss", losses, sums, step)
        mine = torch.cat([losses.mean()[None], sums.sum(0), torch.tensor(self.counts, dtype=torch.float64).sum(0)])
        size = len(self.outputs)
        loss, totals, counts = torch.split(reduce(mine), [1, size, size])
        # Gradients are shared: after the sum above a worker whose own loss was bad has said so, and better.
        norms = torch.stack(self.norms).cpu()
        self._check("norm of the gradient", norms, sums, step)
        predicted = dict(zip(self.outputs, counts.tolist(), strict=True))
        values = {"loss": loss.item(), **by_modality(self.outputs, totals, counts), "gradient_norm": norms[-1].item()}
        return values, predicted

    def _check(self, what: str, values: Tensor, sums: Tensor, step: int) -> None:
        finite = torch.isfinite(values)
        if finite.all():
            return
        at = int((~finite).nonzero()[0])
        bad = [n for n, v in zip(self.outputs, sums[at].tolist(), strict=True) if not math.isfinite(v)]
        raise FloatingPointError(
            f"the {what} is {values[at].item()} at step {step - len(values) + at + 1} "
            f"(modalities: {', '.join(bad) or 'all'}; samples: {', '.join(self.keys[at][:8])}, ...); "
            "lower train.base_lr, or set train.clip_norm"
        )


def by_modality(outputs: Sequence[str], sums: Tensor, counts: Tensor) -> dict[str, float]:
    """{"loss/MODALITY": mean} of the modalities that have targets."""
    pairs = zip(outputs, sums.tolist(), counts.tolist(), strict=True)
    return {f"loss/{name}": total / count for name, total, count in pairs if count}


def target_weights(counts: Tensor, totals: Tensor, weighting: Literal["modality", "token"]) -> Tensor:
    """How much the mean loss of each part's modality weighs in a step's loss.

    The loss of a step is that of its whole batch: it does not depend on how many workers or micro-batches share it.

    Args:
        counts: float (parts, S), targets of this worker's micro-batches.
        totals: float (S,), those of the whole batch of all workers.
        weighting: "modality": the mean over the model's outputs of each one's mean over its targets, absent ones
            counting as 0 (4M); "token": the mean over all targets.

    Returns:
        float (parts, S), to be multiplied with the means; on the device of `counts`.
    """
    if weighting == "modality":
        return counts / totals.clamp(min=1) / len(totals)
    return counts / totals.sum().clamp(min=1)
