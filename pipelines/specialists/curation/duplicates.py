"""What finds duplicates: a small picture of each image, and the label that is decided over the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ....modalities import LABELS, Form
from ...curation.duplicates import pictures
from ...reject import Reject
from ..base import ImageItem, Item, Specialist

SIGNATURE = "signature"


class Signature(Specialist):
    """The image as 48 x 48 pixels of luma and chroma, uint8 (48, 48, 3), whatever its aspect; hashes are of it."""

    name: ClassVar[str] = "signature"
    label: ClassVar[str] = SIGNATURE
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64

    def __call__(self, items: Sequence[ImageItem]) -> list[np.ndarray | Reject]:
        """The small picture of each item; a Reject of one without any detail, which is like all others of its kind."""
        made = [pictures.small(item.image) for item in items]
        return [one if pictures.has_detail(one) else Reject(f"{self.label}: the image has no detail") for one in made]


class Duplicates(Specialist):
    """Whether an earlier sample of the set is the same image: false, or {"of", "of_shard", "nearest", "nearest_shard",
    "distance", "by"}. Made over the whole set, after the labels that it compares: no shard has it alone.
    """

    name: ClassVar[str] = "duplicates"
    label: ClassVar[str] = "duplicate"
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    memory_gb: ClassVar[float] = 0.0
    of_whole_set: ClassVar[bool] = True
    record_fields: ClassVar[tuple[str, ...]] = ("of", "of_shard", "nearest", "nearest_shard", "distance", "by")

    by: tuple[str, ...] = Field(
        (SIGNATURE,),
        min_length=1,
        description="Labels by which samples are compared: signature, and vectors such as clip_global.",
    )
    likeness: float = Field(
        0.965, gt=0, le=1, description="Correlation of the details of two small pictures, from which they are one."
    )
    cosine: float = Field(0.97, gt=0, le=1, description="Of two vectors, from which their images are one.")

    @field_validator("by")
    @classmethod
    def _can_be_compared(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name != SIGNATURE and (name not in LABELS or LABELS[name].form is not Form.VECTOR):
                vectors = ", ".join(label for label, entry in LABELS.items() if entry.form is Form.VECTOR)
                raise ValueError(f"samples are not compared by {name!r}; expected signature or a vector ({vectors})")
        if len(set(value)) < len(value):
            raise ValueError("a label stands twice")
        return value

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.by

    def least(self, label: str) -> float:
        """From which likeness on two samples are one, by a label."""
        return self.likeness if label == SIGNATURE else self.cosine

    def __call__(self, items: Sequence[Item]) -> list[Any | Reject]:
        raise NotImplementedError("duplicates are found over the whole set, see pipelines/curation/duplicates/join.py")
