"""How far a reconstruction is from what went in: elementary measures of batches, one number for each item.

`quality` sums them over validation samples while a tokenizer is fitted, and the report shows those of single samples.
All tensors are on one device; pass float64 where the precision of float32 is not enough.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...tokenize.text import smpl

MAX_PSNR = 100.0  # of equal pictures, dB


def psnr(predicted: torch.Tensor, true: torch.Tensor, peak: float) -> torch.Tensor:
    """Peak signal-to-noise ratio of pictures (B, ...) whose values span `peak`: (B,), dB, at most `MAX_PSNR`."""
    error = (predicted - true).square().flatten(1).mean(1)
    return 10 * (peak**2 / error.clamp(min=peak**2 * 10 ** (-MAX_PSNR / 10))).log10()


def overlap(predicted: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes of the intersection and the union of masks, bool (B, ...): (B,) each."""
    return (predicted & true).flatten(1).sum(1), (predicted | true).flatten(1).sum(1)


def class_overlap(predicted: torch.Tensor, true: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for each class of maps of class ids below `classes`, (n,): (classes,) each."""
    hits = torch.bincount(true[predicted == true], minlength=classes)
    union = torch.bincount(true, minlength=classes) + torch.bincount(predicted, minlength=classes) - hits
    return hits, union


def mean_iou(hits: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    """Mean over the classes that occur; NaN if none does."""
    there = union > 0
    return (hits[there] / union[there]).mean()


def aligned_depth(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """`predicted` after the least-squares scale and shift, float64 (B, N) like both.

    A tokenizer sees depth standardized, so that it cannot know scale and shift.
    """
    mean = true.mean(1, keepdim=True)
    centred = predicted - predicted.mean(1, keepdim=True)
    slope = (centred * true).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True).clamp(min=1e-12)
    return slope * centred + mean


def depth_error(aligned: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of aligned maps (B, N) as a share of each map's range: (B,)."""
    span = (true.amax(1) - true.amin(1)).clamp(min=1e-3)
    return (aligned - true).abs().mean(1) / span


def degrees(predicted: torch.Tensor, true: torch.Tensor, dim: int) -> torch.Tensor:
    """The angle between vectors along an axis, which disappears; degrees."""
    return torch.rad2deg(F.cosine_similarity(predicted, true, dim=dim).clamp(-1, 1).acos())


def rotation_degrees(predicted: np.ndarray, true: np.ndarray) -> torch.Tensor:
    """The angle between the nearest rotations of matrices (n, 3, 3): float64 (n,), degrees.

    That of R^T S is acos((trace - 1) / 2).
    """
    turns = smpl.nearest(true.astype(np.float64)).swapaxes(1, 2) @ smpl.nearest(predicted.astype(np.float64))
    cosine = (torch.from_numpy(turns).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return torch.rad2deg(cosine.clamp(-1, 1).acos())
