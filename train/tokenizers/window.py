"""The metrics of a fit since its last look: kept on the device, read in one copy, and checked for NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

# What a step says of itself: scalars on the device, and what the host knows.
Values = dict[str, torch.Tensor | float]

_LEAST_SCALE = 2.0**-14  # of fp16 gradients: still not finite below it, and no scale will help


@dataclass
class Window:
    """Steps whose metrics were not read yet."""

    steps: list[tuple[int, Values]] = field(default_factory=list)

    def add(self, step: int, values: Values) -> None:
        """Add a step: 1 after the first one. `values` are those of `VQTrainer.step`."""
        self.steps.append((step, values))

    @property
    def step(self) -> int:
        """The last one, 0 if there is none."""
        return self.steps[-1][0] if self.steps else 0

    def read(self) -> dict[str, float]:
        """The metrics of the last step; {} if there is none.

        Raises:
            FloatingPointError: the loss of a step is not finite, or the norm of its gradient, and no smaller scale of
                fp16 gradients would help. The codebook may be spoilt: resume from the last checkpoint, with a smaller
                lr or without the broken sample.
        """
        if not self.steps:
            return {}
        known = _read([values for _, values in self.steps])
        for (step, _), values in zip(self.steps, known, strict=True):
            _check(step, values)
        return {name: value for name, value in known[-1].items() if name != "scale"}


def _read(rows: list[Values]) -> list[dict[str, float]]:
    """Rows with the values of their tensors, in one copy from the device."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, torch.Tensor)]
    read = iter(torch.stack([tensor.double() for tensor in tensors]).tolist())
    return [{name: next(read) if isinstance(v, torch.Tensor) else v for name, v in row.items()} for row in rows]


def _check(step: int, values: Mapping[str, float]) -> None:
    loss, norm = values["loss"], values["gradient_norm"]
    if not math.isfinite(loss):
        raise FloatingPointError(f"tokenizer: the loss is {loss} at step {step}; lower base_lr")
    # Gradients of fp16 overflow now and then: such a step changes nothing, and the next one has half the scale.
    if not math.isfinite(norm) and values.get("scale", 0.0) < _LEAST_SCALE:
        raise FloatingPointError(
            f"tokenizer: the norm of the gradient is {norm} at step {step}; lower base_lr (lr is {values['lr']:.2e}), "
            "or set clip_norm"
        )
