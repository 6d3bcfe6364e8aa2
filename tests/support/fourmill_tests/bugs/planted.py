"""Mistakes as a user's module would bring them: a specialist and codecs that are wrong, named by a recipe's `modules`.

Importing it declares the modalities of the wrong codecs, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fourmill import Grid, Item, Labelled, Modality, Specialist, declare
from fourmill.modalities import MODALITIES, ModalitySpec
from fourmill.tokenize.codec import FittedTokenizer, Options


class NextCaption(Specialist):
    """Gives each sample the caption of the next one in its batch."""

    label: ClassVar[str] = "caption"
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        return [item.caption for item in [*items[1:], items[0]]]


class Misaligned(Grid):
    """Cuts its crops one patch to the left of where those of all other modalities are."""

    def encode_one(self, sample: Labelled) -> np.ndarray:
        return self._moved(super().encode_one(sample), axis=2)

    def truth(self, sample: Labelled, crop: int) -> Any:
        return self._moved(super().truth(sample, crop), axis=1)

    def _moved(self, values: np.ndarray, axis: int) -> np.ndarray:
        """What lies beyond the border is as the border."""
        width = values.shape[axis]
        return values.take((np.arange(width) - width // self.spec.side).clip(0), axis)


class SwappedCodes(Grid):
    """Its decoder has half of the codes, drawn at random, in each other's places."""

    def __init__(self, spec: ModalitySpec, options: Options, tokenizer: FittedTokenizer) -> None:
        super().__init__(spec, options, tokenizer)
        places = np.arange(spec.vocab_size)
        half = np.random.default_rng(0).choice(places, len(places) // 2, replace=False)
        places[half] = np.roll(half, 1)
        decode = tokenizer.decode
        tokenizer.decode = lambda tokens, side=0: decode(places[tokens], side)  # type: ignore[method-assign]


def _with_codec(name: str, codec: type[Grid]) -> Modality:
    """A modality by its own tokenizer, with another codec."""
    own = f"{name}_{codec.__name__.lower()}"
    return replace(MODALITIES[name], name=own, codec=f"{__name__}:{codec.__name__}", tokenizer=name)


declare(_with_codec("tok_depth", Misaligned), _with_codec("tok_normal", SwappedCodes))
