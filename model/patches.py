"""Pictures as patches, which is how the model reads pixels."""

from __future__ import annotations

import math

import numpy as np

from ..modalities import ModalitySpec


def patchify(images: np.ndarray, patch: int) -> np.ndarray:
    """Images (B, C, H, W) to patches (B, (H / patch) (W / patch), patch * patch * C), flattened as (ph pw c)."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch).transpose(0, 2, 4, 3, 5, 1)
    return np.ascontiguousarray(grid.reshape(b, (h // patch) * (w // patch), patch * patch * c))


def picture_shape(spec: ModalitySpec) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that a modality of pixels is cut from."""
    patch, (rows, columns) = patch_side(spec), spec.grid
    return spec.channels, rows * patch, columns * patch


def patch_side(spec: ModalitySpec) -> int:
    """Pixels along a side of one patch of a modality of pixels."""
    return math.isqrt(spec.input_dim // spec.channels)
