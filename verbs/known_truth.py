"""Truth that a shard holds beside its images, as `evaluate.truth` of a recipe names it: for `fourmill init`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pipelines import source
from ..pipelines.grouping import SourceSample
from ..pipelines.reject import Reject
from ..pipelines.scenes.kinds import CLASSES, SHAPES

SCENE = "scene.json"  # which rendered scenes alone have

_Reads = Callable[[Any], bool]


@dataclass(frozen=True)
class Held:
    """What was found.

    truth: `evaluate.truth`, by label. classes: of segments and boxes, where they are not COCO's. findings: sentences on
    members that have the name of a truth and hold something else.
    """

    truth: Mapping[str, Any]
    classes: Mapping[str, Sequence[str]]
    findings: Sequence[str]


def _is_map(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 1))


def _is_vectors(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[2] == 3


def _has(*keys: str) -> _Reads:
    """Whether it is a list of objects that have these keys."""
    return lambda value: (
        isinstance(value, list) and all(isinstance(one, Mapping) and all(key in one for key in keys) for one in value)
    )


def _is_scene(value: Any) -> bool:
    return isinstance(value, Mapping) and _has("shape", "colour", "visible")(value.get("objects"))


# The members that `scenes` and `shards` write, and what each must hold (docs/make/evaluate.md, where the truth is).
_MEMBERS: tuple[tuple[str, str, _Reads], ...] = (
    ("normal", "normal.npy", _is_vectors),
    ("depth", "depth.npy", _is_map),
    ("semseg", "semseg.png", _is_map),
    ("sam_instance", "instances.png", _is_map),
    ("sam_instance", "instances.json", _has("segmentation")),
    ("det", "boxes.json", _has("box", "label")),
    ("human_poses", "people.json", _has("box", "joints")),
    ("caption", SCENE, _is_scene),
    ("classes", "cls", lambda value: bool(str(value).strip())),
)
# What a caption of a scene names: things of which a tenth can be seen, by these words as well.
_OF_SCENES = {
    "semseg": {"member": "semseg.png", "classes": list(CLASSES)},
    "caption": {
        "member": SCENE, "objects": "objects", "name": "shape", "colours": ["colour", "second_colour"],
        "visible": "visible", "least": 0.1, "words": {name: list(shape.words[1:]) for name, shape in SHAPES.items()},
    },
}  # fmt: skip


def look(shard: source.Shard, samples: Sequence[SourceSample]) -> Held:
    """Look for truth among the members of some samples; of each kind the first is read."""
    truth, findings = dict[str, Any](), []
    for label, member, reads in _MEMBERS:
        first = next((one for one in samples if member in one.members or member in one.others), None)
        if first is None or label in truth:
            continue
        try:
            is_it = reads(shard.member(first, member))
        except Reject:
            is_it = False
        if is_it:
            truth[label] = member
        else:
            findings.append(f"{member} of sample {first.key!a} is no truth that evaluate reads, and is left out")
    if truth.get("caption") != SCENE:
        return Held(truth, {}, findings)
    truth |= {label: value for label, value in _OF_SCENES.items() if label in truth}
    classes = {"semseg": CLASSES, "det": tuple(SHAPES)}
    return Held(truth, {label: names for label, names in classes.items() if label in truth}, findings)


def section(held: Held) -> str:
    """The part of the recipe, in YAML; "" without any truth."""
    if not held.truth:
        return ""
    lines = ["", "evaluate:", "  truth:                    # in the shards; read for the labels that the recipe has"]
    lines += [f"    {label}: {_flow(value)}" for label, value in held.truth.items()]
    if held.classes:
        lines += ["", "# classes:                  # of these scenes, in place of COCO's, for models that know them"]
        lines += [f"#   {label}: {_flow(names)}" for label, names in held.classes.items()]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """On one line of YAML, which JSON is."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
