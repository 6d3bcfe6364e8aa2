"""A sample on its way through a shard worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...sensors.declared import SENSORS, window_of
from ...tokenize.crops import Crop
from ...tokenize.sensors import raster
from ...tokenize.sensors.raster import Drawing
from ..reject import Reject
from ..specialists.base import Item


@dataclass
class LabelledSample:
    """The item that specialists see, its crops, and why its image or a label is missing (label -> reason).

    lacking: members that were asked for and cannot be used, with the reason.
    is_removed: it was taken down, and has nothing in any output.
    has_bars: its image has bars of one colour around the photo, whether these were cut off or not.
    """

    item: Item
    crops: list[Crop] = field(default_factory=list)  # of its image
    reasons: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    is_removed: bool = False
    has_bars: bool = False

    @property
    def key(self) -> str:
        return self.item.key

    def frame(self, label: str) -> tuple[int, int]:
        """(width, height) that crops of a label are drawn in: those of the image; a sensor's own, and those of a map
        without an image; (1, 1) of what has no place, (0, 0) of what has none without an image."""
        value = self.item.labels.get(label)
        if value is not None and (label in SENSORS or self.item.image is None):
            return raster.frame_of(label, value)
        return self.size

    def crops_of(self, label: str, drawing: Drawing) -> list[Crop]:
        """The crops of a label of this sample, as a dataset draws them."""
        frame = self.frame(label)
        own = label in SENSORS or (self.item.image is None and frame != (0, 0))
        return drawing.windows(self.key, frame, window_of(label)) if own else self.crops

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels; (0, 0) without one."""
        image = self.item.image
        return (0, 0) if image is None else (image.shape[1], image.shape[0])

    def keep(self, label: str, value: Any) -> None:
        """Keep a label, or why there is none."""
        if value is None:
            value = Reject(f"{label}: no value is stored")
        if isinstance(value, Reject):
            self.reasons.setdefault(label, value.reason)  # the first reason is the cause of later ones
        else:
            self.item.labels[label] = value
