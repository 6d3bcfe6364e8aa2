"""The `generate` section of a recipe: chains of modalities to generate (4M, section on generation)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...infra.fields import Positive, Section, UrlList

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _temperature_schedule(value: str) -> str:
    from ...model.generation.schedules import check_temperature_schedule

    return check_temperature_schedule(value)


class ChainStep(Section):
    """One generated modality of a chain, and how. A bare name takes the defaults."""

    target: str
    scheme: Literal["maskgit", "roar", "autoregressive"] | None = None  # maskgit for grids, autoregressive for text
    steps: Positive = 8
    schedule: Literal["cosine", "linear"] = "cosine"
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature_schedule: Annotated[str, AfterValidator(_temperature_schedule)] = "constant"
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    # One scale, or the weight of each condition.
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | dict[str, Finite] = 1.0
    max_tokens: Positive | None = None


def _as_step(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class Chain(Section):
    """From some modalities to others, one after the other; each result is an input of the next."""

    inputs: Annotated[UrlList, Field(min_length=1)]
    split: Literal["val", "train"] = "val"  # whose samples; training ones if there is no validation
    ensemble: Positive = 1  # generations of each sample, whose decoded grids are averaged (4M-21: 10)
    to: Annotated[list[Annotated[ChainStep, BeforeValidator(_as_step)]], Field(min_length=1)]


class Generate(Section):
    """Any-to-any generation on the first samples of a split."""

    samples: Positive = 8
    chains: list[Chain] = []
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bfloat16 autocast on CUDA
