"""Names of modalities in checkpoints of apple/ml-4m.

Published names carry the resolution (`tok_rgb@224`), ours do not: `name@224` loses its suffix, other resolutions
(super-resolution models) keep it, and saving puts it back.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...modalities import MODALITIES, Kind, ModalitySpec, size_text
from ..patches import patch_side


def local_name(published: str) -> str:
    """The name a modality has here: `tok_rgb@224` is `tok_rgb`; other resolutions keep their suffix."""
    return published.removesuffix("@224")


def published_name(spec: ModalitySpec, crop: int | None = None) -> str:
    """The name a modality has in apple/ml-4m; the inverse of `local_name`.

    Args:
        crop: pixels along a side of what its tokens cover; with the modality's usual patches if None.
    """
    modality = MODALITIES.get(spec.name)
    if modality is None or not modality.hub_suffix or "@" in spec.name:
        return spec.name
    return modality.published_name(crop or image_size(spec))


def published_names(specs: Sequence[ModalitySpec]) -> dict[str, str]:
    """Name here -> name in apple/ml-4m, of all modalities of one model.

    Grids do not say how many pixels a token covers; the model's pixels do, and all without a resolution in their name
    are of the same crop.
    """
    pixels = [spec for spec in specs if spec.kind is Kind.PIXELS and "@" not in spec.name and not spec.columns]
    crop = image_size(pixels[0]) if pixels else None
    return {spec.name: published_name(spec, crop) for spec in specs}


def patch_size(spec: ModalitySpec) -> int:
    """Pixels that one patch or grid token covers along a side."""
    if spec.kind is Kind.PIXELS:
        return patch_side(spec)
    return MODALITIES[spec.name.partition("@")[0]].patch_size


def image_size(spec: ModalitySpec) -> int:
    """Pixels along a side of the crop that a modality's grid, a square, covers."""
    return spec.side * patch_size(spec)


def crop_text(spec: ModalitySpec) -> str:
    """The crop that a modality's grid covers, in pixels, for people: 224, or 96 x 192."""
    rows, columns = spec.grid
    return size_text((rows * patch_size(spec), columns * patch_size(spec)))
