"""Panels that a page can show, and what all drawings share: scaling, and the picture that lies below."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """An image as a data URI; `pixelated` ones are enlarged without smoothing."""

    uri: str
    width: int
    height: int
    alt: str
    pixelated: bool = False


@dataclass(frozen=True)
class TextPanel:
    """Words, shown as they are; `quiet` for remarks such as "nothing found"."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Swatches:
    """Palettes, each a list of "#rrggbb", most frequent colour first."""

    palettes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TablePanel:
    """Rows of (name, value, remark)."""

    rows: tuple[tuple[str, str, str], ...]


Panel = Picture | TextPanel | Swatches | TablePanel


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 (H, W) or (H, W, 3) image scaled down (never up) so that its longer side is at most `size` pixels."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale >= 1:
        return image
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.LANCZOS))


def picture(
    image: np.ndarray, alt: str, *, size: int = 320, lossless: bool = False, pixelated: bool = False
) -> Picture:
    """A uint8 (H, W) or (H, W, 3) image as a WebP data URI of at most `size` pixels along its longer side.

    Drawings (edges, class maps) want `lossless`; token grids are also `pixelated`.
    """
    if image.dtype != np.uint8 or not image.size or (image.ndim != 2 and image.shape[2:] != (3,)):
        raise ValueError(f"a picture is uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    small = np.ascontiguousarray(image if pixelated else fit(image, size))
    buffer = io.BytesIO()
    # For lossless files `quality` is effort: 20 gave the size of 82 in a sixth of the time on edge maps.
    Image.fromarray(small).convert("RGB").save(
        buffer, "WEBP", quality=20 if lossless else 82, method=2, lossless=lossless
    )
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, small.shape[1], small.shape[0], alt, pixelated)


def backdrop(image: np.ndarray | None, height: int, width: int) -> np.ndarray:
    """The image that something is drawn on, a copy, uint8 (height, width, 3); black without one."""
    if image is None:
        return np.zeros((height, width, 3), np.uint8)
    return np.array(Image.fromarray(np.ascontiguousarray(image)).convert("RGB").resize((width, height)))


def scaled(frame: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width of what is drawn on a frame of (height, width): its longer side is `size`.

    A small frame is enlarged, unlike by `fit`: lines and names keep their size, as nothing enlarges them afterwards.
    """
    height, width = frame
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
