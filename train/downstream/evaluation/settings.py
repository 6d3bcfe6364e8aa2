"""The `evaluate` section of a recipe: what a trained model is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ....infra.fields import Count, Positive, Section, UrlList
from ...settings import Precision


class Evaluate(Section):
    """Evaluation on the first validation samples that have the inputs."""

    samples: Positive = 256
    combinations: list[Annotated[UrlList, Field(min_length=2)]] = []  # inputs of the matrix, beside each one alone
    draws: Count = 1000  # of the bootstrap
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Precision = "auto"
