"""Augmentation of tokenizer fits, as pure functions of (seed, step)."""

from __future__ import annotations

from typing import NamedTuple

import torch

UNCHANGED_SHARE = 0.3  # images that keep their colours: the fit must also see real colours


class Jitter(NamedTuple):
    """Random colours of B pictures, see `draw`: mix (B, 3, 3), gain (B, 1, 1, 1), offset (B, 3, 1, 1), and kept, bool
    (B, 1, 1, 1), for those that stay as they are."""

    mix: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    kept: torch.Tensor


def draw(batch: int, strength: float, seed: int, step: int) -> Jitter:
    """Random colours, another transform for each picture: channels mixed by I + strength N(0, 1), gain, and offset.

    4M's corpora hold every colour; a small one does not, and a codebook that has never seen blue has no code for it.
    They are drawn on the CPU, so that a fit sees the same colours on any device.

    Args:
        strength: standard deviation of the mixing matrix; gain and offset go with it.
    """
    # A prime apart: seeds of neighbouring fits do not share their steps' numbers.
    random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    mix = torch.eye(3) + strength * torch.randn(batch, 3, 3, generator=random)
    gain = torch.exp(2 * strength * torch.randn(batch, 1, 1, 1, generator=random))
    offset = strength * torch.randn(batch, 3, 1, 1, generator=random)
    kept = torch.rand(batch, 1, 1, 1, generator=random) < UNCHANGED_SHARE
    return Jitter(mix, gain, offset, kept)


def jittered(x: torch.Tensor, colors: Jitter) -> torch.Tensor:
    """Pictures x, float (B, 3, H, W) in [-1, 1], in other colours, clamped to [-1, 1]; both on one device."""
    mixed = torch.einsum("bij,bjhw->bihw", colors.mix, x) * colors.gain + colors.offset
    return torch.where(colors.kept, x, mixed.clamp(-1, 1))
