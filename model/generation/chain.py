"""A chain of generation: its targets, and how each is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .known import Known, SpecialIds
from .schedules import temperature_schedule, token_schedule


@dataclass(frozen=True)
class Step:
    """One target of a chain and how it is decoded.

    Attributes:
        target: an output modality of the model; its published name will do, here and below.
        scheme: "maskgit" fills the most confident positions first (Chang et al. 2022); "roar" fills positions in random
            order; "autoregressive" writes a sequence from left to right.
        steps: forward passes of a grid; a sequence takes one for each token.
        temperature: 0 takes the likeliest token.
        temperature_schedule: constant, linear, onex:MIN or onex:MIN:POWER; grids only.
        schedule: tokens for each step of MaskGIT, cosine or linear. "roar" is always linear.
        top_k: sample among the likeliest k tokens; 0 for all.
        top_p: sample among the likeliest tokens of this mass; 1 for all.
        guidance: scale of classifier-free guidance on everything known, 1 for none; or the weight of each of several
            conditions or earlier targets, as l + sum_i w_i (l_i - l): l_i is what the model says under condition i
            alone, l under none of them. What is known but not named stays in all passes.
        max_tokens: longest sequence, with its end; the modality's if 0.
        ends_above: a sequence ends where, and only where, its end is likelier than this. None: where the end is drawn.
            Of sentences of boxes the likeliest next token may be the end though a box is likelier than none: a box's
            probability is shared among its coordinates. 0.5 weighs the end against all that may go on.

    Raises:
        ValueError: at construction, for settings out of range.

    Examples:
        >>> fourmill.Step("tok_rgb", "maskgit", steps=4, temperature=2.0, guidance={"caption": 3.0}).counts(16)
        array([2, 6, 6, 2])
    """

    target: str
    scheme: Literal["maskgit", "roar", "autoregressive"]
    steps: int = 1
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    schedule: Literal["cosine", "linear"] = "cosine"
    top_k: int = 0
    top_p: float = 1.0
    guidance: float | Mapping[str, float] = 1.0
    max_tokens: int = 0
    ends_above: float | None = None

    def __post_init__(self) -> None:
        if self.scheme not in ("maskgit", "roar", "autoregressive"):
            raise ValueError(f"{self.target}: scheme {self.scheme!r}, expected maskgit, roar or autoregressive")
        scales = self.guidance.values() if isinstance(self.guidance, Mapping) else [self.guidance]
        if not all(map(math.isfinite, [self.temperature, *scales])):
            raise ValueError(
                f"{self.target}: temperature {self.temperature}, guidance {self.guidance}; expected finite numbers"
            )
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 0:
            raise ValueError(
                f"{self.target}: temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}, max_tokens "
                f"{self.max_tokens}; expected none below 0, and top_p above 0 and at most 1"
            )
        if self.ends_above is not None and not 0 <= self.ends_above < 1:
            raise ValueError(f"{self.target}: ends_above {self.ends_above}, expected at least 0 and below 1")
        if isinstance(self.guidance, Mapping) and not self.guidance:
            raise ValueError(f"{self.target}: guidance names no condition; leave it out, or give weights or one scale")
        temperature_schedule(self.temperature_schedule, self.temperature, token_schedule(self.schedule, self.steps, 1))

    @property
    def scales(self) -> tuple[float, ...]:
        """The weight of each conditional pass; none without guidance."""
        if isinstance(self.guidance, Mapping):
            return tuple(self.guidance.values())
        return () if self.guidance == 1 else (self.guidance,)

    def passes(self, known: Known, special: SpecialIds) -> Known:
        """What the passes of guidance know, those under conditions first, the unconditional one last."""
        if isinstance(self.guidance, Mapping):
            named = set(self.guidance)
            return known.passes([*(named - {name} for name in self.guidance), named], special)
        # One scale guides by everything known: conditions, and the targets that are finished.
        return known.passes([(), known.tokens], special) if self.scales else known

    def counts(self, tokens: int) -> np.ndarray:
        """How many of `tokens` each step fills, int64 (steps,)."""
        return token_schedule("linear" if self.scheme == "roar" else self.schedule, self.steps, tokens)
