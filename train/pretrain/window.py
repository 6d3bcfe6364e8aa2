"""The losses since the last line of the log: kept on the device, read once, and checked for NaN.

A step whose gradient's norm is not finite has changed nothing (`Weights.step`). The recipe says whether the run then
stops or goes on (`train.nonfinite`).

Legend: S outputs of the model; values are of this worker's part of each step's batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..flops import Lengths
from .pace import Pace

Reduce = Callable[[Tensor], Tensor]
Gather = Callable[[Any], list[Any]]
NAMED = 8  # samples of a step that messages and log lines name


@dataclass(frozen=True)
class Entry:
    """One step.

    step: optimizer steps done after it.
    loss: scalar, this worker's part: those of all workers add up to it.
    sums: float (S,), sums of the targets' cross-entropies.
    counts: numbers of targets, S of them.
    norm: scalar, of the whole gradient.
    keys: the samples.
    lengths: of the samples.
    """

    step: int
    loss: Tensor
    sums: Tensor
    counts: list[int]
    norm: Tensor
    keys: list[str]
    lengths: Lengths = field(default_factory=Lengths)


@dataclass
class Window:
    """Steps whose losses were not read yet.

    started, ended: the clock (time.monotonic) at the start of its first step and the end of its last one; without an
        end it is when the losses are read. A pause moves the start, so that validation and saving do not count.
    pace: of this worker.
    step, lr: of the last step, whether or not it changed anything.
    """

    outputs: Sequence[str]
    entries: list[Entry] = field(default_factory=list)
    started: float = 0.0
    ended: float | None = None
    pace: Pace = field(default_factory=Pace)
    step: int = 0
    lr: float = 0.0

    @property
    def lengths(self) -> Lengths:
        """Of this worker's samples of all steps."""
        return Lengths.total(entry.lengths for entry in self.entries)

    def take_skipped(self, gather: Gather) -> list[dict[str, Any]]:
        """Take the steps that changed nothing out of the window.

        Args:
            gather: a value to those of all workers, in a list. All workers call it, since all have the same norms.

        Returns:
            A line of the log for each: "step", "modalities" whose loss is not finite (all outputs if none is),
            "samples", the first of the workers on which that is so.
        """
        # One copy from the device for all steps of the window.
        finite = torch.isfinite(torch.stack([entry.norm for entry in self.entries])).tolist()
        taken = [entry for entry, good in zip(self.entries, finite, strict=True) if not good]
        if not taken:
            return []
        self.entries = [entry for entry, good in zip(self.entries, finite, strict=True) if good]
        lines = []
        gathered = gather([(self._bad(entry.sums), entry.keys[:NAMED]) for entry in taken])
        for entry, workers in zip(taken, zip(*gathered, strict=True), strict=True):
            # All losses may be finite and the gradient not: then nothing says which modality it was.
            affected = [one for one in workers if one[0]] or [(self.outputs, workers[0][1])]
            bad = {name for names, _ in affected for name in names}
            keys = [key for _, keys in affected for key in keys]
            modalities = [name for name in self.outputs if name in bad]
            lines.append({"step": entry.step, "modalities": modalities, "samples": keys[:NAMED]})
        return lines

    def close(self, reduce: Reduce) -> tuple[dict[str, float], dict[str, float]]:
        """(means over steps and workers: "loss", "loss/MODALITY", "gradient_norm" of the last step; targets of each
        modality).

        Args:
            reduce: a float64 tensor to its sum over all workers.

        Raises:
            FloatingPointError: a loss or a gradient's norm is not finite; names step, modalities and samples.
        """
        # float64: a sum over 100 steps of thousands of targets loses digits in float32.
        losses = torch.stack([entry.loss for entry in self.entries]).double().cpu()
        self._check("loss", losses)
        sums = torch.stack([entry.sums for entry in self.entries]).double().cpu().sum(0)
        counts = torch.tensor([entry.counts for entry in self.entries], dtype=torch.float64).sum(0)
        size = len(self.outputs)
        loss, totals, counts = torch.split(reduce(torch.cat([losses.mean()[None], sums, counts])), [1, size, size])
        # After the sum over workers: a worker whose own loss is not finite has raised above, with a better message.
        norms = torch.stack([entry.norm for entry in self.entries]).cpu()
        self._check("norm of the gradient", norms)
        predicted = dict(zip(self.outputs, counts.tolist(), strict=True))
        values = {"loss": loss.item(), **by_modality(self.outputs, totals, counts), "gradient_norm": norms[-1].item()}
        return values, predicted

    def _check(self, what: str, values: Tensor) -> None:
        """FloatingPointError if one of the steps' values is not finite."""
        for entry, value in zip(self.entries, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {what} is {value} at step {entry.step} "
                    f"(modalities: {', '.join(self._bad(entry.sums)) or 'all'}; "
                    f"samples: {', '.join(entry.keys[:NAMED])}, ...)"
                )

    def _bad(self, sums: Tensor) -> list[str]:
        return [name for name, value in zip(self.outputs, sums.tolist(), strict=True) if not math.isfinite(value)]


def by_modality(outputs: Sequence[str], sums: Tensor, counts: Tensor) -> dict[str, float]:
    """{"loss/MODALITY": mean} of the modalities that have targets."""
    pairs = zip(outputs, sums.tolist(), counts.tolist(), strict=True)
    return {f"loss/{name}": total / count for name, total, count in pairs if count}


def target_weights(counts: Tensor, totals: Tensor, weighting: Literal["modality", "token"], predicted: int) -> Tensor:
    """How much the mean loss of each part's modality weighs in a step's loss.

    The loss of a step is that of its whole batch: it does not depend on how many workers or micro-batches share it.

    Args:
        counts: float (parts, S), targets of this worker's micro-batches.
        totals: float (S,), those of the whole batch of all workers.
        weighting: "modality": the mean over the predicted modalities of each one's mean over its targets, those that
            the batch lacks counting as 0 (4M); "token": the mean over all targets.
        predicted: how many modalities the mixtures of this step ask for, at most S (apple/ml-4m's `out_domains`).

    Returns:
        float (parts, S), to be multiplied with the means; on the device of `counts`.
    """
    # clamp: a modality without targets in the whole batch counts as 0, and is not 0 / 0.
    if weighting == "modality":
        return counts / totals.clamp(min=1) / predicted
    return counts / totals.sum().clamp(min=1)
