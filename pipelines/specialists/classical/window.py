"""Which part of its image a sample was labelled on: the way back from labels to the image in the shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...borders.window import Window
from ...reject import Reject
from ..base import ImageItem, Specialist


class ImageWindow(Specialist):
    """{"left", "top", "width", "height", "image_width", "image_height"}, in pixels of the upright image.

    A recipe with `images.trim_borders` keeps it. Without that option it is the whole image.
    """

    name: ClassVar[str] = "window"
    label: ClassVar[str] = "window"
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64

    def __call__(self, items: Sequence[ImageItem]) -> list[Any | Reject]:
        """The window of each item."""
        return [(item.window or Window.whole(item.image.shape[1], item.image.shape[0])).record() for item in items]
