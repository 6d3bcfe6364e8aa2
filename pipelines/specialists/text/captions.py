"""The caption that came with the image, as a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...reject import Reject
from ..base import Item, Specialist


class Captions(Specialist):
    """Passes the caption through, unchanged. Its length is cut by the tokenizer, in tokens, not here."""

    name: ClassVar[str] = "captions"
    label: ClassVar[str] = "caption"
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    memory_gb: ClassVar[float] = 0.0
    record_fields: ClassVar[tuple[str, ...]] = ("length", "words")

    def __call__(self, items: Sequence[Item]) -> list[str | Reject]:
        """The text for each item, or a Reject if there is none but white space."""
        return [
            item.caption if item.caption and item.caption.strip() else Reject("caption: there is none")
            for item in items
        ]
