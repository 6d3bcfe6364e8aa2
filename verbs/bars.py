"""What `init` and `plan` say of bars around images, and the picture of some."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipelines.borders.look import BarsSeen

FEW = 0.1  # share of images with bars up to which `init` leaves `images.trim_borders` off
PICTURES = (".jpg", ".jpeg", ".png")


def check(url: str) -> None:
    """ValueError if no picture can be written there."""
    if os.path.splitext(url)[1].lower() not in PICTURES:
        raise ValueError(f"--borders: got {url}, expected the name of a picture: bars.jpg or bars.png")


def write(seen: BarsSeen, url: str) -> str:
    """Write a picture of images with bars, if there are some; says what was done."""
    from PIL import Image

    from ..infra import storage
    from ..infra.secrets import public

    check(url)
    if not seen.barred:
        return "no image with bars was found, so there is no picture of any"
    buffer = io.BytesIO()
    Image.fromarray(seen.picture()).save(buffer, "PNG" if url.lower().endswith(".png") else "JPEG", quality=90)
    storage.put(storage.absolute(url), buffer.getvalue())
    return f"{public(url)} shows {len(seen.examples)} images with bars, and a line around what is left of each"
