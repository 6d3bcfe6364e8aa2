"""From the recipe to specialists: which labels are needed, what makes each, with which options, in what order."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ...infra.configuration import RecipeError
from ...infra.explain import explain, nearest
from ...modalities import LABELS, MODALITIES, TOKENIZERS
from ...sensors.declared import SENSORS, weighs, weight_of
from ..settings import Labels
from .base import Specialist
from .names import BY_FIRST_NAME, SPECIALISTS

SOURCE = "source"  # the label is the image itself
SENSOR = "sensor"  # it is read as the recipe's `sensors` say


def build(
    modalities: Sequence[str],
    labels: Labels,
    modules: Sequence[str] = (),
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Specialist]:
    """One specialist for each label that the modalities, their tokenizers and kept labels come from, and for what these
    need, in an order in which each finds the labels that it needs or uses.

    Args:
        modalities: names, of `MODALITIES`.
        labels: which labels are kept, and the options of specialists.
        modules: the user's own, whose specialists may be named as "module:Class".
        classes: the recipe's own lists of classes, by label.

    RecipeError if options are wrong, or if labels need each other in a circle.
    """
    specialists, errors = build_each(modalities, labels, modules, classes)
    if errors:
        raise RecipeError("\n".join(str(error) for error in errors))
    ordered: dict[str, Specialist] = {}
    for label in specialists:
        _place(label, specialists, ordered, ())
    return ordered


def build_each(
    modalities: Sequence[str],
    labels: Labels,
    modules: Sequence[str] = (),
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[dict[str, Specialist], list[RecipeError]]:
    """The same in no order, and what is wrong with the options of those that cannot be made."""
    specialists: dict[str, Specialist] = {}
    errors: list[RecipeError] = []
    asked = _Asked(labels, tuple(modules), dict(classes or {}))
    for label in asked_labels(modalities, labels.keep):
        try:
            _make(label, asked, specialists)
        except RecipeError as error:
            if str(error) not in map(str, errors):
                errors.append(error)
    return specialists, errors


def asked_labels(modalities: Sequence[str], keep: Sequence[str]) -> list[str]:
    """Labels that modalities, their tokenizers and `labels.keep` ask for, each once."""
    entries = [MODALITIES[name] for name in modalities]
    tokenizers = [name for modality in entries for name in modality.tokenizers if name in TOKENIZERS]
    fitted = [TOKENIZERS[name].label for name in tokenizers]
    names = [*(m.label for m in entries), *fitted, *keep, *filter(None, map(weight_of, fitted))]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class _Asked:
    """What of a recipe a specialist is made by: see `build`."""

    labels: Labels
    modules: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]


def _make(label: str, asked: _Asked, specialists: dict[str, Specialist]) -> None:
    """Add the specialist of a label, and those of the labels that it needs."""
    options = dict(asked.labels.specialists.get(label, {}))
    name = options.pop("specialist", LABELS[label].specialist)
    if name == SOURCE:
        if options:
            raise RecipeError(f"labels.specialists.{label}: it is the image itself and has no options, got {options}")
        return
    if label in specialists:
        return
    if name == SENSOR and (sensor := SENSORS.get(weighs(label) or label)):
        options = {"reading": sensor.reading(), "unit": sensor.unit, "of_weights": label not in SENSORS} | options
    specialists[label] = _instantiate(label, name, options, asked)
    for need in specialists[label].needs:
        _make(need, asked, specialists)


def _place(
    label: str, specialists: dict[str, Specialist], ordered: dict[str, Specialist], trail: tuple[str, ...]
) -> None:
    """Append a label after all that it depends on."""
    if label in trail:
        raise RecipeError(f"labels: {' needs '.join([*trail[trail.index(label) :], label])}: a circle")
    if label in ordered or label not in specialists:
        return
    for before in (*specialists[label].needs, *specialists[label].looks_at()):
        _place(before, specialists, ordered, (*trail, label))
    ordered[label] = specialists[label]


def _instantiate(label: str, name: Any, options: dict[str, Any], asked: _Asked) -> Specialist:
    where = f"labels.specialists.{label}"
    module, colon, attribute = str(name).partition(":")
    own = colon and module in asked.modules  # "depth" is ours, even beside a user's module of that name
    if not own and (ours := SPECIALISTS.get(BY_FIRST_NAME.get(str(name), str(name)))):
        (module, attribute), colon = ours.place, ":"
    if not colon:
        raise RecipeError(
            f"{where}.specialist: there is no {name!r}{nearest(str(name), SPECIALISTS)}; expected one of "
            f"{', '.join(SPECIALISTS)}, or 'package.module:Class' of your own"
        )
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{where}.specialist: cannot load {name!r}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, Specialist)):
        raise RecipeError(f"{where}.specialist: {name!r} is no subclass of fourmill's Specialist")
    bound = {}
    if "label" in cls.model_fields:  # a class that makes any label
        if "label" in options:
            raise RecipeError(f"{where}.label: no such field; the label is {label} by its place in the recipe")
        bound = {"label": label}
    elif cls.label != label:
        raise RecipeError(f"{where}.specialist: {name!r} makes the label {cls.label}, not {label}")
    try:
        return cls.model_validate(options | bound, context={"classes": asked.classes})
    except ValidationError as error:
        raise RecipeError(explain(error, where, cls, also=["specialist"])) from None
