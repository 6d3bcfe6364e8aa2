"""What an evaluation is asked for, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from ..generation_job import GenerateJob
from .settings import Evaluate


@dataclass(frozen=True)
class EvaluateJob:
    """A trained model to evaluate on validation samples.

    generation: the run, its columns and codecs.
    """

    settings: Evaluate
    generation: GenerateJob
