"""Models that see the room of `fourmill view --probe` as it is, in a frame and a direction of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.scenes.room import room
from fourmill.pipelines.specialists.base import ImageItem
from fourmill.pipelines.specialists.dense.depth import Depth, scaled_depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.tokenize import frames


class SeesNormals(Normals):
    """Its axes point as `axes` says, whatever the recipe thinks; `noise` is the share of what it does not see."""

    axes: str = frames.DECLARED
    noise: float = 0.0

    def setup_on_node(self) -> None: ...

    def setup(self, device: str) -> None:
        assert not self.why_not({})

    def __call__(self, items: Sequence[ImageItem]) -> list[np.ndarray | Reject]:
        truth = (room(len(item.image)).rendered.normal.astype(np.float32) for item in items)
        seen = ((1 - self.noise) * one + self.noise * np.float32([0, 0, 1]) for one in truth)
        return [self.in_label(frames.turn(one, frames.DECLARED, to=self.axes)) for one in seen]


class SeesDepth(Depth):
    """It predicts distance, or its `inverse`, whatever the recipe thinks."""

    inverse: bool = False

    def setup_on_node(self) -> None: ...

    def setup(self, device: str) -> None:
        assert not self.why_not({})

    def __call__(self, items: Sequence[ImageItem]) -> list[Any]:
        distances = (room(len(item.image)).rendered.depth for item in items)
        return [scaled_depth(1 / d if self.inverse else d, self.predicted, self.linear, None) for d in distances]
