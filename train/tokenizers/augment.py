"""Augmentation of tokenizer fits, as pure functions of (seed, step)."""

from __future__ import annotations

import torch

UNCHANGED_SHARE = 0.3  # images that keep their colours: the fit must also see real colours


def color_jitter(x: torch.Tensor, strength: float, seed: int, step: int) -> torch.Tensor:
    """Random colours, another transform for each image: channels mixed by I + strength N(0, 1), gain, and offset.

    4M's corpora hold every colour; a small one does not, and a codebook that has never seen blue has no code for it.

    Args:
        x: float (B, 3, H, W) in [-1, 1].
        strength: standard deviation of the mixing matrix; gain and offset go with it. 0 changes nothing.

    Returns:
        Like x, clamped to [-1, 1].
    """
    if not strength:
        return x
    # A prime apart: seeds of neighbouring fits do not share their steps' numbers.
    random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    batch = len(x)
    mix = torch.eye(3) + strength * torch.randn(batch, 3, 3, generator=random)
    gain = torch.exp(2 * strength * torch.randn(batch, 1, 1, 1, generator=random))
    offset = strength * torch.randn(batch, 3, 1, 1, generator=random)
    kept = torch.rand(batch, 1, 1, 1, generator=random) < UNCHANGED_SHARE
    # Drawn on the CPU, so that a fit sees the same colours on any device.
    mix, gain, offset, kept = (t.to(x.device) for t in (mix, gain, offset, kept))
    mixed = torch.einsum("bij,bjhw->bihw", mix, x) * gain + offset
    return torch.where(kept, x, mixed.clamp(-1, 1))
