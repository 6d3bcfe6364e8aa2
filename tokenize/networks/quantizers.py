"""The settings of quantizers, and what follows from them: the vocabulary, and the width of a latent.

Without PyTorch: recipes are read by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# What a network's config calls them, by apple/ml-4m's and TerraMind's names.
TYPES = {"vq": "lucid", "memcodes": "memcodes", "fsq": "fsq", "ifsq": "ifsq", "lfq": "lfq"}
LEVELS = (8, 8, 8, 6, 5)  # TerraMind's, and those of the FSQ paper for a vocabulary of about 2^14
_WITH_LEVELS = ("fsq", "ifsq")
_MOST_CODES = 65_536  # ids are uint16

# Settings of one quantizer alone -> those that have a use for it.
_ONLY = {
    "levels": _WITH_LEVELS, "entropy_weight": ("lfq",),
    **dict.fromkeys(("ema_decay", "dead_code_coefficient", "norm_latents"), ("vq",)),
}  # fmt: skip


class QuantizerSettings(BaseModel):
    """Which quantizer a tokenizer has.

    quantizer: None is the form's own: Memcodes of vectors, vq of all others.
    levels: of fsq and ifsq, the number of values of each dimension of a latent; their product is the vocabulary.
    entropy_weight: of lfq, of its entropy loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantizer: Literal["vq", "memcodes", "fsq", "ifsq", "lfq"] | None = None
    levels: Annotated[tuple[Annotated[int, Field(gt=1)], ...], Field(min_length=1)] | None = None
    entropy_weight: Annotated[float, Field(ge=0)] | None = None


def bits_of(codes: int) -> int:
    """How many bits write so many codes, 0 if they are no power of two."""
    bits = codes.bit_length() - 1
    return bits if codes == 2**bits else 0


def codes_of(levels: Sequence[int]) -> int:
    """How many codes there are of these levels."""
    return math.prod(levels)


def settled(settings: Any, own: Mapping[str, Any], vocabulary: int, books: int, usual: str) -> dict[str, Any]:
    """Fields of a tokenizer's settings that follow from its quantizer.

    Args:
        settings: a `TokenizerSettings`. own: what the recipe says of this tokenizer alone.
        vocabulary: the registry's. books: of codes, that one latent is cut into. usual: the quantizer of its form.

    ValueError if the recipe says other sizes.
    """
    kind = settings.quantizer
    # What is said to all tokenizers, and is of no use to this one, changes nothing of it.
    unused: dict[str, Any] = {} if kind in _WITH_LEVELS else {"levels": None}
    unused |= {} if kind == "lfq" else {"entropy_weight": None}
    if kind in (None, usual):
        return unused | {"quantizer": None}
    if kind in _WITH_LEVELS:
        levels = settings.levels or LEVELS
        codes, width = codes_of(levels), len(levels) * books
        follows: dict[str, Any] = {"levels": levels, "codebook_size": codes, "latent_dim": width}
        why = f"levels {list(levels)}"
    elif kind == "lfq":
        codes = settings.codebook_size or vocabulary
        if not (bits := bits_of(codes)):
            raise ValueError(f"codebook_size: got {codes}; lfq has a power of two, as {2 ** codes.bit_length()}")
        follows, why = {"codebook_size": codes, "latent_dim": bits * books}, f"lfq with {codes} codes"
    else:
        return unused
    if codes > _MOST_CODES:
        raise ValueError(f"levels: got {list(settings.levels)} with {codes} codes; there may be {_MOST_CODES} at most")
    for name, value in follows.items():
        asked = own.get(name)
        if name != "levels" and asked is not None and asked != value:
            raise ValueError(f"{name}: got {asked}, and {why} has {value}; leave it out")
    return unused | follows


def idle(quantizer: str, given: Collection[str]) -> str:
    """Why one of the settings that are given has no use for a quantizer, "" if all have."""
    for name, of in _ONLY.items():
        if name in given and quantizer not in of:
            return f"{name} is a setting of {' and '.join(of)}, and the quantizer is {quantizer}; leave it out"
    return ""
