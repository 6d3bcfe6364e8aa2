"""The `fit` section of a recipe: who fits the tokenizers. What is fitted is in tokenize/settings.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...infra.fields import Positive, Section


class Fit(Section):
    """Workers that fit the tokenizers.

    `share` says what they share: "tokenizers" gives each worker whole tokenizers, which are then the same on any number
    of workers; "batches" gives each worker a part of every batch of every tokenizer.
    """

    workers: Positive = 1
    share: Literal["tokenizers", "batches"] = "tokenizers"
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each worker; all of the cluster's unless given
    gpus: Annotated[float, Field(ge=0)] = 0.0
