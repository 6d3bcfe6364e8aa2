"""A label that comes with the data: a member of the tar, turned into the label's form. For ground truth, and for
everyone who has labels already.

Which options mean something follows from the label, and the others are refused (`_IN_FRAME`). What a file may hold for
each form is said in maps.py and records.py; a sample whose file holds anything else is rejected with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from ....infra.explain import nearest
from ....modalities import LABELS, NO_CLASS, Form
from ....tokenize import frames
from ... import members
from ...borders.window import Window
from ...reject import Reject
from ..base import Item, Specialist
from . import maps, records
from .classes import Given, numbers, renamed

# The options that mean something for a form, or for one label of records.
_IN_FRAME: dict[Form, tuple[str, ...]] = {
    Form.COLORS: ("resize",),
    Form.EDGES: ("resize",),
    Form.CLASSES: ("resize", "classes"),
    Form.DEPTH: ("resize", "holds", "scale", "far", "invalid"),
    Form.DISTANCE: ("resize", "scale", "invalid"),
    Form.NORMALS: ("resize", "flip", "frame", "invalid"),
}
_OF_RECORDS: dict[str, tuple[str, ...]] = {"det": ("classes",), "sam_instance": ("resize",)}


class Member(Specialist):
    """Reads a member of each sample as its label.

    Arrays of maps have the height and width of the upright image: no member is turned by the image's EXIF orientation.
    """

    name: ClassVar[str] = "member"
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64
    later: ClassVar[dict[str, Any]] = {"frame": None, "field": None}

    label: str = Field(exclude=True)  # type: ignore[misc]  # of an instance here: it makes any label
    member: str = Field(
        alias="name",
        description="The member's name without the key: depth.npy of KEY.depth.npy.",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="Of a member in JSON, the field that is the label: nsfw_score, or exif.iso of an object in it.",
    )
    holds: Literal["depth", "inverse_depth", "relative"] = Field(
        "depth",
        description="What grows in a depth map: distance, in any unit, or nearness (disparity); relative: it is the "
        "label already, 0 nearest to 1 farthest.",
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="By which values are multiplied, as 0.001 for millimetres. Unless given 1; for a relative depth in "
        "integers 1 / the largest of their type.",
    )
    far: float | None = Field(
        None,
        gt=0,
        description="Of distances: those beyond it, after `scale`, count as it. A sky at 10,000 m leaves nothing of "
        "the range to the rest.",
    )
    invalid: Literal["set", "fill", "reject"] = Field(
        "set",
        description="Pixels without a value (NaN, infinite; a distance of 0 or below; a normal without a direction). "
        "set: they are farthest, as the sky is, or face the viewer; fill: they are as the nearest pixel that has a "
        "value, which suits the holes of a sensor; reject: the sample has no label.",
    )
    flip: str = Field("", pattern="^x?y?z?$", description="Axes that normals have the other way round.")
    frame: str | None = Field(
        None, description=f"Which way the axes of normals point, in words; unless given {frames.DECLARED}."
    )
    classes: Given = Field(
        None,
        description="What the file calls its classes. Of a class map: the names of its ids in order, or a mapping from "
        "ids to names; of boxes: a mapping from its names. A name of null stands for no class.",
    )
    resize: bool = Field(
        False, description="Maps of another size than the image, of its aspect, are resized to it, by nearest pixels."
    )

    @field_validator("frame")
    @classmethod
    def _in_words(cls, value: str | None) -> str | None:
        return None if value is None else frames.canonical(value)

    @model_validator(mode="after")
    def _fits_its_label(self) -> Self:
        kind = members.suffix(self.member)
        if kind not in members.KINDS:
            raise ValueError(
                f"name: nothing reads .{kind} as a label{nearest(kind, members.KINDS)}; a specialist of your own can"
            )
        idle = self.model_fields_set - {"label", "member", *self._meant()}
        if idle:
            raise ValueError(f"{sorted(idle)[0]}: it has no meaning for {self.label}; leave it out")
        if self.flip and self.frame is not None:
            raise ValueError(f"frame and flip say the same thing; leave out flip: {self.flip}")
        if self.far is not None and self.holds != "depth":
            raise ValueError("far: it is of distances; leave it out, or say holds: depth")
        if self.form is Form.CLASSES:
            numbers(self.classes, self.class_names(), self._count)
        elif self.label == "det":
            renamed(self.classes, self.class_names())
        return self

    def _meant(self) -> tuple[str, ...]:
        """The options that mean something for its label."""
        if self.form is not Form.RECORD:
            return _IN_FRAME.get(self.form, ())
        of_json = ("field",) if members.suffix(self.member) == "json" else ()
        return (*_OF_RECORDS.get(self.label, ()), *of_json)

    @property
    def linear(self) -> str:
        """What a label of depth is linear in, `DEPTH` or `INVERSE`; "" of other labels, and if the data do not say."""
        return self.holds if self.form is Form.DEPTH and self.holds != "relative" else ""

    @property
    def _count(self) -> int:
        return len(self.class_names()) or NO_CLASS

    @property
    def form(self) -> Form:
        return LABELS[self.label].form

    @property
    def _is_map(self) -> bool:
        """Whether it has the frame of the image, so that the image must be there."""
        return self.form in _IN_FRAME or self.label == "sam_instance"

    @property
    def in_frame(self) -> bool:  # type: ignore[override]
        return self._is_map or self.label in ("det", "open_det", "human_poses")

    @property
    def needs_image(self) -> bool:  # type: ignore[override]
        return self._is_map

    @property
    def sees_image(self) -> bool:  # type: ignore[override]
        return self._is_map

    def reads(self) -> tuple[str, ...]:
        return (self.member.lower(),)

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        meant = {name: value for name, value in identity["options"].items() if name in ("member", *self._meant())}
        return {**identity, "options": meant, "form": str(self.form)}

    def fingerprint_parts(self) -> dict[str, Any]:
        """A frame in words is the same label as the axes that it flips."""
        parts = super().fingerprint_parts()
        flip = frames.flips(self.frame) if self.frame else None
        if flip is None:
            return parts
        rest = {name: value for name, value in parts["options"].items() if name != "frame"}
        return {**parts, "options": rest | {"flip": flip}}

    def __call__(self, items: Sequence[Item]) -> list[Any | Reject]:
        """The label of each item in its form, or a Reject that says what is wrong with its member."""
        return [self._label(item) for item in items]

    def _label(self, item: Item) -> Any | Reject:
        try:
            value = self._read(self._value(item.members[self.member.lower()]), item.image, item.window)
            return item.window.follow(self.label, value) if item.window and not self._is_map else value
        except ValueError as error:
            return Reject(f"{self.label}: {self.member}: {error}")

    def _value(self, value: Any) -> Any:
        """What of the member is the label. ValueError if there is no such field."""
        if self.field is None:
            return value
        found = self.within(value, self.field)
        if found is None:
            raise ValueError(f"{self.field}: there is none")
        return found

    @staticmethod
    def within(value: Any, field: str) -> Any:
        """A field of what JSON says, with dots for fields of fields; one whose own name has dots comes first. None if
        there is none."""
        if isinstance(value, dict) and field in value:
            return value[field]
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _read(self, value: Any, image: np.ndarray | None, window: Window | None) -> Any:
        if self._is_map:
            assert image is not None, "items without an image are rejected before the call"
            return self._map(maps.in_frame(value, image.shape[:2], self.resize, window))
        if window is not None and self.form is Form.FEATURES:
            raise ValueError("features of an image whose bars were cut off (images.trim_borders); make others of it")
        match self.label, self.form:
            case "det", _:
                return records.boxes(value, renamed(self.classes, self.class_names()), self.class_names())
            case "open_det", _:
                return records.boxes(value, {}, None)
            case (("caption" | "vlm_caption"), _):
                return records.text(value)
            case "metadata", _:
                return records.numbers(value)
            case _, Form.RECORD:
                return records.anything(value)
        return maps.floats(value, self.form)

    def _map(self, array: np.ndarray) -> Any:
        match self.form:
            case Form.DEPTH:
                return maps.depth(array, self.holds, self.scale, self.far, self.invalid)
            case Form.DISTANCE:
                return maps.distances(array, self.scale, self.invalid)
            case Form.NORMALS:
                return maps.normals(array, self.frame or frames.flipped(self.flip), self.invalid)
            case Form.CLASSES:
                return maps.classes(array, numbers(self.classes, self.class_names(), self._count), self._count)
            case Form.EDGES:
                return maps.edges(array)
            case Form.COLORS:
                return maps.colours(array)
        return records.instances(array)
