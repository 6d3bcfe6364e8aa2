"""Normals in a frame: models have axes of their own, labels one frame. What all models of normals share.

The frame of a model is what the recipe states (`frame`), or what is known of its weights (conventions.py). Of other
weights nothing is assumed: a mirrored axis looks plausible in every picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ....tokenize import frames
from ...reject import Reject
from .. import conventions
from ..base import Specialist
from ..pretrained import Pretrained

TOWARD_VIEWER = (0.0, 0.0, 1.0)
_SHORT = 1e-3  # a vector below this length has no direction
_RESOLUTION = 1e-5  # of float32 after resizing: components that vary less are constant


class Framed(Pretrained):
    """Base of models of normals: knows their frame, and turns what they say into the label's."""

    label: ClassVar[str] = "normal"
    later: ClassVar[dict[str, Any]] = {"frame": None}

    frame: str | None = Field(
        None,
        description="Which way the model's axes point, as in `x right, y down, z away`; what is known of its weights "
        "unless given, and needed for all others. `fourmill view RECIPE --probe normals` shows it.",
    )

    @field_validator("frame")
    @classmethod
    def _in_words(cls, value: str | None) -> str | None:
        return None if value is None else frames.canonical(value)

    @property
    def known_frame(self) -> str:
        """The frame of the weights by what is known of them, "" if nothing is."""
        fact = conventions.known(self.label, self.weights)
        return fact.says if fact else conventions.ASKED

    @property
    def stated_frame(self) -> str | None:
        """The frame that the recipe states, None if it does not."""
        return self.frame

    @property
    def source_frame(self) -> str:
        """The frame that the model's normals are taken to be in, "" if nothing says."""
        return self.stated_frame or self.known_frame

    @property
    def changes(self) -> dict[int, str]:  # type: ignore[override]
        fact = conventions.known(self.label, self.weights)
        return dict(fact.changes) if fact and self.stated_frame in (None, fact.says) else {}

    @property
    def version(self) -> int:  # type: ignore[override]
        return max((1, *self.changes))

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        if why := super().why_not(others):
            return why
        if self.source_frame:
            return ""
        fact = conventions.known(self.label, self.weights)
        read = f" ({fact.source}: {fact.read})" if fact else ""
        return (
            f"{self.label}: nothing says which way the axes of {self.weights} point{read}; state them, for example "
            f'labels.specialists.{self.label}.frame: "{frames.DECLARED}". `fourmill view RECIPE --probe normals` shows '
            "its normals of a room whose walls are known, and the frame to write"
        )

    def fingerprint_parts(self) -> dict[str, Any]:
        """A frame that is said in words and what meant the same before, or goes without saying, are one label."""
        parts = super().fingerprint_parts()
        known = self.known_frame
        if self.frame is None or (self.frame != known and (known or self.frame != frames.DECLARED)):
            return parts
        return {**parts, "options": {k: v for k, v in parts["options"].items() if k != "frame"}}

    def made_with(self, device: str) -> dict[str, Any]:
        return super().made_with(device) | {"frame": self.source_frame}

    def in_label(self, vectors: np.ndarray) -> np.ndarray | Reject:
        """float16 (H, W, 3), unit vectors in the declared frame, of finite vectors (H, W, 3) in the model's; a Reject
        if they have no direction, or one and the same everywhere."""
        unit = unit_vectors(frames.turn(vectors, self.source_frame))
        if unit is None:
            return Reject(f"{self.label}: no direction anywhere")
        varies = np.ptp(vectors, axis=(0, 1)).max() > _RESOLUTION * np.abs(vectors).max()
        return unit if varies or vectors.size == 3 else Reject(f"{self.label}: the same direction everywhere")


def unit_vectors(vectors: np.ndarray) -> np.ndarray | None:
    """float16 (H, W, 3) of length 1 of finite vectors (H, W, 3); None if none of them has a length.

    Resizing shortens them, and may cancel opposite ones: these few face the viewer.
    """
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    if not np.any(length > _SHORT):
        return None
    unit = np.where(length > _SHORT, vectors / np.maximum(length, _SHORT), TOWARD_VIEWER)
    return unit.astype(np.float16)
