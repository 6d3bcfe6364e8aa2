"""The mistakes that the evaluation must show: what a recipe names to have each, and where it must show.

A value shows a bug if it is farther from all values without a bug than these are from each other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODULE = "fourmill_tests.bugs.planted"


@dataclass(frozen=True)
class Bug:
    """A mistake.

    title: for people. label, rows: the column of the evaluation table in which it must show, and its rows of these.
    modalities: which take the place of others. specialists: options of labels, over those of the recipe.
    shift: whether the names of the ids of semseg move by one.
    modules: a user's own that have it.
    """

    title: str
    label: str
    rows: tuple[str, ...]
    modalities: Mapping[str, str] = field(default_factory=dict)
    specialists: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shift: bool = False
    modules: tuple[str, ...] = ()

    @property
    def needs_training(self) -> bool:
        """Whether it shows in nothing but the answers of a model."""
        return set(self.rows) <= {"step"}

    def planted(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe as a mapping, that has it."""
        bad: dict[str, Any] = copy.deepcopy(dict(recipe))
        for section in {"modalities", "train", "evaluate"} & bad.keys():  # tokenizers keep their names
            bad[section] = _renamed(bad[section], self.modalities)
        options = bad["labels"]["specialists"]
        for label, changed in self.specialists.items():
            options[label] = {**options.get(label, {}), **changed}
        if self.shift:
            names = bad["classes"]["semseg"]
            options["semseg"] = {**options["semseg"], "classes": [*names[1:], names[0]]}
        bad["modules"] = list(self.modules)
        return bad


BUGS: dict[str, Bug] = {
    "classes": Bug("class table shifted by one", "semseg", ("labels", "step"), shift=True),
    "crops": Bug(
        "crops misaligned by one patch", "depth", ("labels", "step"),
        modalities={"tok_depth": "tok_depth_misaligned"}, modules=(MODULE,),
    ),
    "normals": Bug("normals mirrored", "normal", ("labels", "step"), specialists={"normal": {"flip": "x"}}),
    "codes": Bug(
        "codebook with half its codes swapped", "normal", ("bound", "step"),
        modalities={"tok_normal": "tok_normal_swappedcodes"}, modules=(MODULE,),
    ),
    "captions": Bug(
        "captions paired with the next sample", "caption", ("labels", "step"),
        specialists={"caption": {"specialist": f"{MODULE}:NextCaption"}}, modules=(MODULE,),
    ),
    "leak": Bug(
        "masks that leak targets into inputs", "depth", ("step",), modules=("fourmill_tests.bugs.leak",),
    ),
}  # fmt: skip


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A part of a recipe with other names of modalities, wherever they stand."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def shows(value: float, without: Sequence[float]) -> bool:
    """Whether a value is farther from all those without a bug than these are from each other."""
    return min(abs(value - one) for one in without) > max(without) - min(without)
