"""What is generated, and how: "tok_depth", "caption:temperature=0.6", with the defaults of the recipe's chains."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import yaml
from pydantic import ValidationError

from ..infra.explain import explain
from ..modalities import Kind
from ..model.config import FourMConfig
from ..model.generation.generate import Step
from ..train.downstream.settings import IDLE_FOR_GRIDS, IDLE_FOR_TEXT, ChainStep, Generate, check_steps
from .names import label_of, target_of

Target = str | Mapping[str, Any] | Step


def chain(
    config: FourMConfig,
    targets: Sequence[Target] | Target,
    given: Collection[str],
    generate: Generate,
    common: Mapping[str, Any],
) -> list[ChainStep]:
    """The steps of a chain, in order.

    Args:
        targets: each as a text, a mapping with "target" and fields of `ChainStep`, or a `Step`; texts may hold several
            with commas between them.
        given: the modalities that the chain begins with.
        generate: the recipe's section: what its chains say of a target is the default.
        common: fields of `ChainStep` for all targets that have them; what a target says itself comes first.

    Raises:
        ValueError: a target is unknown, given already or input only; an option is unknown or out of range.
    """
    steps, known = [], set(given)
    for fields_ in _fields_of(targets):
        name = target_of(config, fields_["target"])
        steps.append(_step(config, name, fields_ | {"target": name}, known, generate, common))
        known.add(name)
    if not steps:
        raise ValueError(f"say what to generate: --to some of {', '.join(config.outputs)}")
    check_steps("--to", steps, given, {step.target: config.spec(step.target) for step in steps})
    return steps


def _fields_of(targets: Sequence[Target] | Target) -> list[dict[str, Any]]:
    if isinstance(targets, str):
        return [_parsed(part) for part in targets.split(",") if part.strip()]
    if isinstance(targets, Step):
        # What a step leaves at its default says nothing: ChainStep has other words for some of them.
        said = {f.name: getattr(targets, f.name) for f in fields(targets) if getattr(targets, f.name) != f.default}
        return [{name: asdict(targets)[name] for name in said}]
    if isinstance(targets, Mapping):
        if "target" not in targets:
            raise ValueError(f"got a target without a name, {dict(targets)}; expected {{'target': 'tok_depth', ...}}")
        return [dict(targets)]
    return [one for target in targets for one in _fields_of(target)]


def _parsed(text: str) -> dict[str, Any]:
    """Fields of "tok_rgb:steps=12:guidance.caption=2"."""
    name, *options = text.strip().split(":")
    fields_: dict[str, Any] = {"target": name.strip()}
    last = ""
    for option in options:
        field, equals, value = option.partition("=")
        field = field.strip()
        if not equals and last == "temperature_schedule":  # its values hold colons: onex:0.5
            fields_[last] = f"{fields_[last]}:{field}"
            continue
        if not equals:
            raise ValueError(f"--to {text}: got {option!r}; expected option=value, such as {name}:temperature=0.6")
        field, _, condition = field.partition(".")
        parsed = yaml.safe_load(value) if value else None
        if condition:
            weights = fields_.setdefault(field, {})
            if not isinstance(weights, dict):
                raise ValueError(f"--to {text}: {field} is a number and a weight of {condition}; say one of them")
            weights[condition] = parsed
        else:
            fields_[field] = parsed
        last = field
    return fields_


def _step(
    config: FourMConfig,
    name: str,
    said: dict[str, Any],
    known: Collection[str],
    generate: Generate,
    common: Mapping[str, Any],
) -> ChainStep:
    text = config.spec(name).kind is Kind.SEQUENCE
    idle = IDLE_FOR_TEXT if text else IDLE_FOR_GRIDS
    shared = {field: value for field, value in common.items() if value is not None and field not in idle}
    if "scheme" in shared and text != (shared["scheme"] == "autoregressive"):
        shared.pop("scheme")
    values = _of_recipe(generate, name, known) | shared | said
    if isinstance(values.get("guidance"), Mapping):
        # Conditions may be named as inputs are: by their labels, too.
        values["guidance"] = {_condition(one, known): weight for one, weight in values["guidance"].items()}
    try:
        return ChainStep.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error, f"--to {name}", ChainStep)) from None


def _of_recipe(generate: Generate, name: str, known: Collection[str]) -> dict[str, Any]:
    """What the first chain of the recipe that generates a modality says of it."""
    for chain_ in generate.chains:
        for step in chain_.to:
            if step.target == name:
                values = step.model_dump(exclude_unset=True)
                weights = values.get("guidance")
                # Weights of conditions that are not given here say nothing.
                if isinstance(weights, dict) and not set(weights) <= set(known):
                    values.pop("guidance")
                return values
    return {}


def _condition(name: str, known: Collection[str]) -> str:
    return name if name in known else next((one for one in known if label_of(one) == name), name)
