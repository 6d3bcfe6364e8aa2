"""Pixels to tensors and back: what the tokenizers of pictures read and write.

RGB is scaled to [-1, 1] by x / 127.5 - 1, the mean and deviation of 0.5 that 4M's tokenizers were trained with (not
ImageNet's); edge maps likewise, as one channel.
"""

from __future__ import annotations

import numpy as np
import torch

from ..modalities import LABELS, MODALITIES, Storage

# Class maps are pictures too, but their ids are not brightness.
_PICTURES = frozenset(
    name for name, label in LABELS.items() if label.storage is Storage.IMAGE and label.pixels != "classes"
)


def preprocess(modality: str, crop: np.ndarray) -> torch.Tensor:
    """Crops as the tokenizer's input.

    Args:
        modality: a grid of pictures: tok_rgb, tok_canny_edge, tok_sam_edge (or rgb); ValueError for others.
        crop: uint8 (..., H, W, 3) for RGB, (..., H, W) or (..., H, W, 1) for edges; any number of leading axes.

    Returns:
        float32 (..., C, H, W) in [-1, 1].
    """
    channels = _channels(modality)
    if crop.dtype != np.uint8:
        raise ValueError(f"{modality}: got {crop.dtype} pixels; expected uint8")
    if channels == 1 and crop.shape[-1] != 1:
        crop = crop[..., None]
    if crop.ndim < 3 or crop.shape[-1] != channels:
        raise ValueError(f"{modality}: got pixels of shape {crop.shape}; expected (..., H, W, {channels})")
    pixels = torch.from_numpy(np.ascontiguousarray(crop)).movedim(-1, -3)
    return pixels.to(torch.float32).div_(127.5).sub_(1).contiguous()


def postprocess(recon: torch.Tensor) -> np.ndarray:
    """Reconstructions float (..., C, H, W) as pictures: uint8 (..., H, W, 3) for RGB, (..., H, W) for one channel."""
    pixels = recon.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    picture = pixels.movedim(-3, -1).contiguous().numpy()
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _channels(modality: str) -> int:
    entry = MODALITIES.get(modality)
    if entry is None or entry.label not in _PICTURES:
        known = [name for name, m in MODALITIES.items() if m.label in _PICTURES]
        raise ValueError(f"got the modality {modality!r}; expected one that is made of pictures: {known}")
    return entry.channels
