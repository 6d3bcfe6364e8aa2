"""CLIP's embedding of an image: one vector, for scores that stand on it and for finding duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from .features import _IMAGENET, Clip

if TYPE_CHECKING:
    import torch


class ClipGlobal(Clip):
    """The class token in the space that CLIP shares with text, float16 (768,) of ViT-L/14; not scaled to length 1.

    Unlike dense features it is of what CLIP itself sees, the middle square of the image: heads and thresholds that are
    published are for that.
    """

    name: ClassVar[str] = "clip_global"
    label: ClassVar[str] = "clip_global"
    version: ClassVar[int] = 1
    changes: ClassVar[dict[int, str]] = {}
    first_weights: ClassVar[str] = ""
    memory_gb: ClassVar[float] = 2.0
    whole: ClassVar[bool] = True

    weights: str = Field(
        "timm/vit_large_patch14_clip_224.openai",
        description="Hub id or local folder of CLIP, or another vision transformer with a class token.",
    )

    @model_validator(mode="after")
    def _sees_what_clip_sees(self) -> Self:
        if self.size is not None or self.max_tokens is not None:
            raise ValueError("size and max_tokens have no meaning for clip_global, which sees CLIP's own square")
        return self

    @property
    def _key(self) -> tuple[Any, ...]:
        return (self.name, *super()._key)  # not the pass of the whole frame, of which `clip` is

    def _pixels(self, image: np.ndarray) -> torch.Tensor:
        assert self._backbone is not None, "call setup first"
        statistics = _IMAGENET if self.normalization == "imagenet" else {}
        made = self._backbone.processor(
            images=image, input_data_format="channels_last", return_tensors="pt", **statistics
        )
        return made["pixel_values"][0]
