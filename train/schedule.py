"""Learning-rate schedules, as functions of the step alone."""

from __future__ import annotations

import math


def cosine_lr(step: int, *, peak: float, minimum: float, warmup: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (0, 1, ...) of `steps`.

    Linear warm-up from 0 that reaches `peak` at step warmup - 1, then half a cosine down to `minimum`, as apple/ml-4m's
    `cosine_scheduler` (golden: lr_cosine).
    """
    # As in ml-4m, warm-up begins at 0 and ends one step early: step 0 changes nothing but the moments.
    if step < warmup:
        return peak * step / max(warmup - 1, 1)
    share = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return minimum + 0.5 * (peak - minimum) * (1 + math.cos(math.pi * share))
