"""Names of modalities in checkpoints of apple/ml-4m.

Published names carry the resolution (`tok_rgb@224`), ours do not: `name@224` loses its suffix, other resolutions
(super-resolution models) keep it, and saving puts it back.
"""

from __future__ import annotations

import math

from ..modalities import MODALITIES, Kind, ModalitySpec


def local_name(published: str) -> str:
    """The name a modality has here: `tok_rgb@224` is `tok_rgb`; other resolutions keep their suffix."""
    return published.removesuffix("@224")


def published_name(spec: ModalitySpec) -> str:
    """The name a modality has in apple/ml-4m; the inverse of `local_name`."""
    modality = MODALITIES.get(spec.name)
    if modality is None or not modality.hub_suffix or "@" in spec.name:
        return spec.name
    return modality.published_name(image_size(spec))


def patch_size(spec: ModalitySpec) -> int:
    """Pixels that one patch or grid token covers along a side."""
    if spec.kind is Kind.PIXELS:
        return math.isqrt(spec.input_dim // 3)
    return MODALITIES[spec.name.partition("@")[0]].patch_size


def image_size(spec: ModalitySpec) -> int:
    """Pixels along a side of the crop that a modality's grid covers."""
    return spec.side * patch_size(spec)
