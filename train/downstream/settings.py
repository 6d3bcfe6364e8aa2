"""The `generate` section of a recipe: chains of modalities to generate (4M, section on generation)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...infra.fields import Positive, Section, UrlList
from ...modalities import Kind, ModalitySpec
from ..settings import Precision

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
    # A text ends where, and only where, its end is likelier than this; where the end is drawn unless given.
    ends_above: Annotated[float, Field(ge=0, lt=1)] | None = None

    later = {"ends_above": None}


# What changes nothing for text, which takes one step for each token, and for grids, whose number of tokens is fixed.
IDLE_FOR_TEXT = frozenset({"steps", "schedule", "temperature_schedule"})
IDLE_FOR_GRIDS = frozenset({"max_tokens", "ends_above"})


def as_steps(value: Any) -> Any:
    """Steps as a recipe gives them: one alone, or names."""
    steps = value if isinstance(value, list | tuple) else [value]
    return [{"target": step} if isinstance(step, str) else step for step in steps]


class Chain(Section):
    """From some modalities to others, one after the other; each result is an input of the next."""

    inputs: Annotated[UrlList, Field(min_length=1)]
    split: Literal["val", "train"] = "val"  # whose samples; training ones if there is no validation
    ensemble: Positive = 1  # generations of each sample, whose decoded grids are averaged (4M-21: 10)
    to: Annotated[list[ChainStep], BeforeValidator(as_steps), Field(min_length=1)]


class Generate(Section):
    """Any-to-any generation on the first samples of a split."""

    samples: Positive = 8
    chains: list[Chain] = []
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Precision = "auto"


def check_steps(
    where: str, steps: Sequence[ChainStep], given: Collection[str], specs: Mapping[str, ModalitySpec]
) -> None:
    """ValueError for the first step of a chain that cannot be.

    Args:
        where: begins the message.
        given: the modalities that the chain begins with.
        specs: of the targets, by name.
    """
    known = set(given)
    for step in steps:
        spec = specs[step.target]
        if not spec.is_target:
            raise ValueError(f"{where}: {step.target} is input only and cannot be generated")
        if step.target in known:
            raise ValueError(f"{where}: {step.target} is given or generated already")
        _check_guidance(where, step, known)
        known.add(step.target)
        text = spec.kind is Kind.SEQUENCE
        if step.scheme and text != (step.scheme == "autoregressive"):
            raise ValueError(
                f"{where}: {step.target} with the scheme {step.scheme}; text is autoregressive, "
                "grids are maskgit or roar"
            )
        idle = IDLE_FOR_TEXT if text else IDLE_FOR_GRIDS
        if said := sorted(name for name in idle if getattr(step, name) != ChainStep.model_fields[name].default):
            kind = "text, which takes one step for each token" if text else "a grid, whose number of tokens is fixed"
            raise ValueError(f"{where}: {step.target} is {kind}; leave {', '.join(said)} out")
        if text and (step.max_tokens or 0) > spec.max_tokens:
            raise ValueError(f"{where}: max_tokens {step.max_tokens}, {step.target} has at most {spec.max_tokens}")


def _check_guidance(where: str, step: ChainStep, known: Collection[str]) -> None:
    weights = step.guidance
    if not isinstance(weights, dict):
        return
    if not weights:
        raise ValueError(f"{where}: {step.target}: guidance names no condition; leave it out, or give one number")
    if unknown := sorted(weights.keys() - known):
        raise ValueError(
            f"{where}: {step.target}: guidance by {', '.join(unknown)}, which is neither given nor generated before; "
            f"known are {', '.join(sorted(known))}"
        )
