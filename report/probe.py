"""What a model says of a room that is known: which way its normals point, whether its depth grows toward the viewer.

The model is asked as it is, without what the recipe states of it, and its answer is compared with the truth of the
rendered room. From that follows what the recipe should state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pipelines.reject import Reject
from ..pipelines.scenes.room import Room, room
from ..pipelines.specialists.base import ImageItem, Specialist
from ..pipelines.specialists.conventions import DEPTH, INVERSE
from ..pipelines.specialists.dense.depth import Depth
from ..pipelines.specialists.dense.framed import Framed
from ..pipelines.specialists.members.member import Member
from ..tokenize import frames

LABELS = {"normals": "normal", "depth": "depth"}  # what can be probed, and the label that it is
_CLEAR = 0.5  # of a mean component, or a rank correlation: below, the model has not seen the room
_WORDS = {(0, 1): "right", (1, 1): "up", (2, 1): "toward", (0, -1): "left", (1, -1): "down", (2, -1): "away"}


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    label: that was probed. model: its name, for people.
    found: the frame, or what is predicted, that the answer implies; "" if it does not show.
    said: what the recipe or the table of conventions says, "" if neither does.
    rows: for each wall its name, what was measured there, and what is true.
    answer: the label as the model gives it, float16 of the room's frame. room: what it saw.
    sentence: what to do.
    """

    label: str
    model: str
    found: str
    said: str
    rows: tuple[tuple[str, str, str], ...]
    answer: np.ndarray
    room: Room
    sentence: str

    @property
    def agrees(self) -> bool:
        """Whether the recipe is right as it is."""
        return bool(self.found) and self.found == self.said


def probe(label: str, specialists: Mapping[str, Specialist], device: str, size: int = 448) -> Probed:
    """What the model of a label says of the room.

    Args:
        label: "normal" or "depth". specialists: of a recipe, each after those that it needs.
        size: of the picture, in pixels.

    Raises:
        ValueError: the recipe does not make the label, has no model for it, or the model refuses the room.
    """
    if label not in specialists:
        raise ValueError(f"--probe: the recipe makes no {label}; add it to labels.keep, or a modality that needs it")
    for name in _needed(label, specialists):
        if isinstance(given := specialists[name], Member):
            raise ValueError(f"--probe: {name} comes with the data ({given.member}), there is no model to be asked")
    specialist, seen = specialists[label], room(size)
    answer = _ask(label, specialists, device, seen)
    model = str(getattr(specialist, "weights", "") or specialist.full_name())
    measure = _normals if label == "normal" else _depth
    return measure(specialist, model, answer, seen)


def _ask(label: str, specialists: Mapping[str, Specialist], device: str, seen: Room) -> np.ndarray:
    """The label as the model gives it, with those that it needs."""
    item = ImageItem("room", seen.rendered.rgb, None)
    for name in _needed(label, specialists):
        one = _as_it_is(specialists[name]) if name == label else specialists[name]
        one.setup_on_node()
        one.setup(device)
        (value,) = one([item])
        if isinstance(value, Reject):
            raise ValueError(f"--probe: the room has no {name}: {value.reason}")
        item.labels[name] = value
    return np.asarray(item.labels[label])


def _needed(label: str, specialists: Mapping[str, Specialist]) -> list[str]:
    """The labels to make, in order."""
    wanted, todo = {label}, [label]
    while todo:
        needs = [need for need in specialists[todo.pop()].needs if need in specialists]
        todo += [need for need in needs if need not in wanted]
        wanted |= set(needs)
    return [name for name in specialists if name in wanted]


def _as_it_is(specialist: Specialist) -> Specialist:
    """The specialist without what is stated or known of its model."""
    if isinstance(specialist, Framed):
        plain = {"flip": ""} if "flip" in type(specialist).model_fields else {}
        return specialist.model_copy(update={"frame": frames.DECLARED, **plain})
    if isinstance(specialist, Depth):
        return specialist.model_copy(update={"predicts": DEPTH, "linear_in": None, "far_ratio": None})
    return specialist


def _normals(specialist: Specialist, model: str, answer: np.ndarray, seen: Room) -> Probed:
    values = answer.astype(np.float32)
    means = {wall.name: values[wall.seen].mean(axis=0) for wall in seen.walls}
    said = specialist.source_frame if isinstance(specialist, Framed) else frames.DECLARED
    found = implied(means)
    rows = tuple((wall.name, _vector(means[wall.name]), _vector(np.array(wall.normal))) for wall in seen.walls)
    if not found:
        sentence = f"{model} does not tell the walls of this room apart: state the frame that its authors give"
    elif found == said:
        sentence = f"each wall has the declared normal: {model} has {found}, as {_who(specialist)}"
    elif isinstance(specialist, Framed):
        but = f", and not {said}" if said else ""
        sentence = f'{model} has {found}{but}: write labels.specialists.normal.frame: "{found}"'
    else:
        sentence = f"{model} has {found}, and a label {frames.DECLARED}: turn its axes"
    return Probed("normal", model, found, said, rows, answer, seen, sentence)


def _who(specialist: Specialist) -> str:
    if not isinstance(specialist, Framed):
        return "labels have"
    return "is known of it" if specialist.stated_frame is None else "the recipe states"


def implied(means: Mapping[str, np.ndarray]) -> str:
    """The frame in which these are the mean normals of the room's walls, by name; "" if they are not clear."""
    directions = (
        (means["left wall"] - means["right wall"]) / 2,
        (means["floor"] - means["ceiling"]) / 2,
        means["facing wall"],
    )
    axes: dict[int, str] = {}
    for direction, mean in enumerate(directions):
        axis = int(np.abs(mean).argmax())
        if abs(mean[axis]) < _CLEAR or axis in axes:
            return ""
        axes[axis] = _WORDS[direction, int(np.sign(mean[axis]))]
    return frames.canonical(", ".join(f"{frames.AXES[axis]} {word}" for axis, word in axes.items()))


def _depth(specialist: Specialist, model: str, answer: np.ndarray, seen: Room) -> Probed:
    values, distance = answer.astype(np.float64), seen.rendered.depth.astype(np.float64)
    order = float(np.corrcoef(_ranks(values), _ranks(distance))[0, 1])
    found = "" if abs(order) < _CLEAR else DEPTH if order > 0 else INVERSE
    known = isinstance(specialist, Depth)
    said = specialist.predicted if isinstance(specialist, Depth) else DEPTH
    rows = tuple(
        (wall.name, f"{values[wall.seen].mean():.2f}", f"{distance[wall.seen].mean():.1f} m") for wall in seen.walls
    )
    by = " and ".join(
        f"{abs(np.corrcoef(values.ravel(), scale.ravel())[0, 1]):.2f} in {name}"
        for name, scale in (("distance", distance), ("inverse distance", 1 / distance))
    )
    if not found:
        sentence = f"{model} does not tell near from far in this room: state what its authors say that it predicts"
    elif found == said:
        sentence = f"what is near is 0: {model} predicts {found.replace('_', ' ')}; linear correlation {by}"
    elif known:
        sentence = f"{model} predicts {found.replace('_', ' ')}: write labels.specialists.depth.predicts: {found}"
    else:
        sentence = f"{model} calls near things 1, and a label calls them 0: turn it around"
    return Probed("depth", model, found, said, rows, answer, seen, sentence)


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.ravel().argsort().argsort()


def _vector(values: np.ndarray) -> str:
    return " ".join(f"{axis} {value:+.2f}" for axis, value in zip(frames.AXES, values, strict=True))


def in_label(probed: Probed) -> Any:
    """What the label would be with what was found, the answer itself if nothing was."""
    if not probed.found:
        return probed.answer
    if probed.label == "normal":
        return frames.turn(probed.answer, probed.found)
    return probed.answer if probed.found == DEPTH else 1 - probed.answer
