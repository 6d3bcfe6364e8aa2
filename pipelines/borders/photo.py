"""An image of a shard as specialists see it: decoded and, where the recipe asks for it, without bars around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import images
from ..settings import Images
from .find import find
from .window import Window


def decode(data: bytes, info: Mapping[str, Any], settings: Images) -> tuple[np.ndarray, Window]:
    """Decode an image, and find the photo in it.

    Args:
        data: an encoded image, see `images.decode`.
        info: its sidecar.

    Returns:
        uint8 (H, W, 3) RGB, upright: the photo with `settings.trim_borders`, else the whole image. And where in the
        image the photo is, whether it was cut out or not.

    Raises:
        Reject: no image, truncated, damaged or too large.
    """
    image = images.decode(data, settings.max_pixels)
    window = find(image, info)
    return (window.cut(image) if settings.trim_borders else image), window
