"""Sizes of convolutions of a series, without PyTorch: recipes are checked by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ConfigDict


@dataclass(frozen=True)
class ConvNeXtSize:
    """Widths, numbers of blocks and strides of the stages, from the samples on."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.widths or not len(self.widths) == len(self.depths) == len(self.strides):
            raise ValueError(
                f"ConvNeXt size: got widths {self.widths}, depths {self.depths} and strides {self.strides}; expected "
                "as many of each, one for a stage"
            )

    @property
    def patch(self) -> int:
        """Samples that a token covers."""
        return math.prod(self.strides)

    @classmethod
    def of_patch(cls, patch: int, dim: int, depth: int) -> ConvNeXtSize:
        """Of a token's samples, its width, and blocks in all: a stride of 4 (2 of the smallest), then of 2 for each
        further stage, whose widths double up to `dim`.

        ValueError if the samples are no power of two, or stages cannot share width and blocks.
        """
        if patch < 2 or patch & (patch - 1):
            raise ValueError(f"patch_size: got {patch}; convolutions of a series take a power of two from 2 on")
        first = min(patch, 4)
        stages = int(math.log2(patch // first)) + 1
        if dim % 2 ** (stages - 1) or depth < stages:
            raise ValueError(
                f"dim {dim} and {depth} blocks: convolutions with patch_size {patch} have {stages} stages; expected "
                f"a dim that is a multiple of {2 ** (stages - 1)}, and a block for each: encoder_depth and "
                f"decoder_depth of {stages} or more"
            )
        # What does not divide goes to the last stages, whose series are shortest.
        depths = tuple(depth // stages + (i >= stages - depth % stages) for i in range(stages))
        widths = tuple(dim // 2 ** (stages - 1 - i) for i in range(stages))
        return cls(widths, depths, (first, *[2] * (stages - 1)))
