"""The `evaluate` section of a recipe: what a trained model is asked, and where the truth is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ....infra.fields import Count, Positive, Section, UrlList


class Evaluate(Section):
    """Evaluation on the first validation samples that have the inputs."""

    samples: Positive = 256
    combinations: list[Annotated[UrlList, Field(min_length=2)]] = []  # inputs of the matrix, beside each one alone
    draws: Count = 1000  # of the bootstrap
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bfloat16 autocast on CUDA
