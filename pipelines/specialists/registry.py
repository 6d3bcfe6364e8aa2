"""From the recipe to specialists: which labels are needed, what makes each, with which options, in what order."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ...infra.explain import explain
from ...modalities import LABELS, MODALITIES, TOKENIZERS
from ...recipe import Recipe, RecipeError
from .base import Specialist

SOURCE = "source"  # the label is the image itself


def build(recipe: Recipe) -> dict[str, Specialist]:
    """One specialist for each label that the recipe's modalities, tokenizers and kept labels come from, and for what
    these need, in an order in which each finds the labels that it needs or uses.

    RecipeError if options are wrong, or if labels need each other in a circle.
    """
    made: dict[str, Specialist] = {}
    for label in asked_labels(recipe):
        _make(recipe, label, made)
    ordered: dict[str, Specialist] = {}
    for label in made:
        _place(label, made, ordered, ())
    return ordered


def asked_labels(recipe: Recipe) -> list[str]:
    """Labels that modalities, their tokenizers and `labels.keep` ask for, each once."""
    modalities = [MODALITIES[name] for name in recipe.modalities]
    tokenizers = [name for modality in modalities for name in modality.tokenizers if name in TOKENIZERS]
    labels = [*(m.label for m in modalities), *(TOKENIZERS[name].label for name in tokenizers), *recipe.labels.keep]
    return list(dict.fromkeys(labels))


def _make(recipe: Recipe, label: str, made: dict[str, Specialist]) -> None:
    options = dict(recipe.labels.specialists.get(label, {}))
    name = options.pop("specialist", LABELS[label].specialist)
    if name == SOURCE:
        if options:
            raise RecipeError(f"labels.specialists.{label}: it is the image itself and has no options, got {options}")
        return
    if label in made:
        return
    made[label] = _instantiate(label, name, options, recipe.modules)
    for need in made[label].needs:
        _make(recipe, need, made)


def _place(label: str, made: dict[str, Specialist], ordered: dict[str, Specialist], trail: tuple[str, ...]) -> None:
    """Append a label after all that it depends on."""
    if label in trail:
        raise RecipeError(f"labels: {' needs '.join([*trail[trail.index(label) :], label])}: a circle")
    if label in ordered or label not in made:
        return
    for before in (*made[label].needs, *made[label].looks_at()):
        _place(before, made, ordered, (*trail, label))
    ordered[label] = made[label]


def _instantiate(label: str, name: Any, options: dict[str, Any], modules: Sequence[str] = ()) -> Specialist:
    where = f"labels.specialists.{label}"
    module, colon, attribute = str(name).partition(":")
    if not colon:
        raise RecipeError(f"{where}.specialist: expected 'module:Class', got {name!r}")
    # A bare module is one of ours; a dotted one, or one that the recipe names, is the user's own.
    path = module if "." in module or module in modules else f"{__package__}.{module}"
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
