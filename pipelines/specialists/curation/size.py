"""The size of an image, and how much of it is borders: what samples are chosen by, and no model is needed for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...borders import find as borders
from ...borders.window import Window
from ...reject import Reject
from ..base import ImageItem, Specialist
from ..classical.metadata import original_size


class ImageSize(Specialist):
    """{"width", "height", "aspect", "original_width", "original_height"} of the image in the shard, upright, in pixels.

    aspect is width / height. The last two are of the image before a download made it smaller, where its sidecar says
    so, and else the same. What `images.trim_borders` cuts off counts: it is in the shard.
    """

    name: ClassVar[str] = "size"
    label: ClassVar[str] = "size"
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64
    record_fields: ClassVar[tuple[str, ...]] = ("width", "height", "aspect", "original_width", "original_height")

    def __call__(self, items: Sequence[ImageItem]) -> list[Any | Reject]:
        """The sizes of each item."""
        return [self._sizes(item) for item in items]

    def _sizes(self, item: ImageItem) -> dict[str, int | float]:
        height, width = item.window.image_size if item.window else item.image.shape[:2]
        sizes = {"width": width, "height": height, "original_width": width, "original_height": height}
        return {**sizes, **original_size(item.info, None), "aspect": width / height}


class Borders(Specialist):
    """{"share", "left", "top", "right", "bottom"}: bars of one colour around the photo, in pixels of the image in the
    shard, and their share of its area; all 0 without any. `pipelines/borders/find.py` says what counts as one.
    """

    name: ClassVar[str] = "borders"
    label: ClassVar[str] = "borders"
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64
    record_fields: ClassVar[tuple[str, ...]] = ("share", "left", "top", "right", "bottom")

    def __call__(self, items: Sequence[ImageItem]) -> list[Any | Reject]:
        """The borders of each item."""
        return [self._borders(item) for item in items]

    def fingerprint_parts(self) -> dict[str, Any]:
        return super().fingerprint_parts() | {"borders": borders.VERSION}

    def _borders(self, item: ImageItem) -> dict[str, int | float]:
        window: Window = item.window or borders.find(item.image, item.info)
        return {
            "share": window.cut_away,
            "left": window.left,
            "top": window.top,
            "right": window.image_width - window.left - window.width,
            "bottom": window.image_height - window.top - window.height,
        }
