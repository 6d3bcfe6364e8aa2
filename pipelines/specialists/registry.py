"""From the recipe to specialists: which labels are needed, what makes each, with which options, in what order."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import ValidationError

from ...infra.explain import explain
from ...modalities import LABELS, MODALITIES
from ...recipe import Recipe, RecipeError
from .base import Specialist

SOURCE = "source"  # the label is the image itself


def needed_labels(recipe: Recipe) -> list[str]:
    """Labels that the recipe's modalities and kept labels come from, their own needs before them."""
    labels = [*(MODALITIES[m].label for m in recipe.modalities), *recipe.labels.keep]
    return list(dict.fromkeys(part for label in labels for part in with_needs(label)))


def with_needs(label: str) -> list[str]:
    """A label after everything that it is computed from."""
    return [*(part for need in LABELS[label].needs for part in with_needs(need)), label]


def build(recipe: Recipe) -> dict[str, Specialist]:
    """One specialist for each needed label, in an order in which each finds the labels it needs.

    RecipeError if a label needs a model that is not configured, or if options are wrong.
    """
    specialists = {}
    for label in needed_labels(recipe):
        options = dict(recipe.labels.specialists.get(label, {}))
        name = options.pop("specialist", LABELS[label].specialist)
        if name == SOURCE:
            continue
        if not name:
            askers = [m for m in recipe.modalities if label in with_needs(MODALITIES[m].label)] or [label]
            raise RecipeError(
                f"{', '.join(askers)}: the label {label} needs a model, and none is configured: "
                + LABELS[label].configure.format(label=label, modality=askers[0])
            )
        specialists[label] = _instantiate(label, name, options)
    return specialists


def _instantiate(label: str, name: Any, options: dict[str, Any]) -> Specialist:
    where = f"labels.specialists.{label}"
    module, colon, attribute = str(name).partition(":")
    if not colon:
        raise RecipeError(f"{where}.specialist: expected 'module:Class', got {name!r}")
    # A bare module is one of ours; a dotted one is the user's own package.
    path = module if "." in module else f"{__package__}.{module}"
    try:
        cls = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{where}.specialist: cannot load {name!r}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, Specialist)):
        raise RecipeError(f"{where}.specialist: {name!r} is no subclass of fourmill's Specialist")
    if cls.label != label:
        raise RecipeError(f"{where}.specialist: {name!r} makes the label {cls.label}, not {label}")
    try:
        return cls.model_validate(options)
    except ValidationError as error:
        raise RecipeError(explain(error, where, cls, also=["specialist"])) from None
