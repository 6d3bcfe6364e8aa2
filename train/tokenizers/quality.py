"""How well a tokenizer reconstructs, in the unit of its label, and how much of its codebook it uses.

| form | measures |
|---|---|
| colours | `psnr` in dB (peak of 255) and `ssim`, means over pictures; `lpips` if its backbone is there |
| edges | `precision`, `recall`, `f1`, `iou` of pixels above the middle, `mse` on [0, 1] |
| depth | after the best scale and shift for each map: `mae` (share of the map's range), `abs_rel`, `delta1` |
| normals | `mean_degrees`, `median_degrees` between directions, over pixels |
| classes | `miou` over classes that occur, `accuracy`; pixels of no class do not count |
| masks | `iou` of the instance's pixels, mean over masks, `accuracy` |
| features, vectors | `cosine`, `mse` |
| body poses | `mean_degrees`, `median_degrees` between joint rotations, `cosine`, `mse` |

All: `codes_used` (share of the codebook), `perplexity` (both means over the books of a tokenizer with several),
`tokens` (ids looked at) and `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...modalities import BODY_POSE, SAM_MASK, TOKENIZERS, Form
from ...tokenize.inputs import to_input
from ...tokenize.networks.divae import DiVAE
from ...tokenize.tokenizer import Tokenizer
from . import measures
from .usage import usage

Sums = dict[str, torch.Tensor]
Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_BINS = 1_800  # of angles, 0.1 degrees each
# Relative errors of the nearest points say nothing: depth 0 is the nearest of a map and no distance.
_NEAREST = 0.05


def reconstruct(model: Tokenizer, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Ids to what went in; `steps` are a diffusion decoder's, at most as many as it was trained with."""
    if isinstance(model, DiVAE):
        return model.decode(ids, timesteps=min(steps, len(model.diffusion)))
    return model.decode(ids)


@torch.no_grad()
def quality(
    name: str, model: Tokenizer, batches: Iterable[np.ndarray], steps: int = 25, perceptual: Perceptual | None = None
) -> dict[str, float]:
    """Measures of a tokenizer on rows that it was not fitted on.

    Args:
        name: a key of TOKENIZERS.
        model: in evaluation mode, on its device.
        batches: rows as `inputs.examples` makes them, (n, ...) each.
        steps: DDIM steps of a diffusion decoder.
        perceptual: LPIPS, see `losses.lpips`.

    Raises:
        ValueError: no batch came.
    """
    assert not model.training
    device, measure = next(model.parameters()).device, _measure(name, perceptual)
    sums: Sums = {}
    counts: torch.Tensor | None = None
    for rows in batches:
        x = to_input(name, rows).to(device)
        ids = model.encode(x)
        counts = _count(ids, model, counts)
        for key, value in measure(reconstruct(model, ids, steps).float(), x, rows).items():
            # In float64: sums over a million pixels lose three digits in float32.
            sums[key] = sums[key] + value.double().cpu() if key in sums else value.double().cpu()
        sums["samples"] = sums.get("samples", torch.zeros(())) + len(rows)
    if counts is None:
        raise ValueError(f"{name}: got no batch to measure the tokenizer on; expected at least one")
    return _SUMMARIES[_form(name)](sums) | _codebook(counts) | {"samples": sums["samples"].item()}


def _form(name: str) -> str:
    return name if name in (SAM_MASK, BODY_POSE) else TOKENIZERS[name].form.value


def _measure(name: str, perceptual: Perceptual | None) -> Callable[[torch.Tensor, torch.Tensor, np.ndarray], Sums]:
    if _form(name) == Form.COLORS.value:
        return lambda recon, x, rows: _sums_colors(recon, x, perceptual)
    if _form(name) == Form.DEPTH.value:
        return lambda recon, x, rows: _sums_depth(recon[:, 0], torch.from_numpy(rows).to(recon))
    plain: dict[str, Callable[[torch.Tensor, torch.Tensor], Sums]] = {
        Form.EDGES.value: _sums_edges, Form.NORMALS.value: _sums_normals, Form.CLASSES.value: _sums_classes,
        SAM_MASK: _sums_masks, Form.FEATURES.value: _sums_features, Form.VECTOR.value: _sums_features,
        BODY_POSE: _sums_poses,
    }  # fmt: skip
    chosen = plain[_form(name)]
    return lambda recon, x, rows: chosen(recon, x)


def _count(ids: torch.Tensor, model: Tokenizer, counts: torch.Tensor | None) -> torch.Tensor:
    """Uses of each code, (books, K)."""
    books, size = max(model.config.num_codebooks, 1), model.config.codebook_size
    flat = ids.reshape(len(ids), books, -1).movedim(1, 0).flatten(1).cpu()
    added = torch.stack([torch.bincount(book, minlength=size) for book in flat]).double()
    return added if counts is None else counts + added


def _codebook(counts: torch.Tensor) -> dict[str, float]:
    books = [usage(book) for book in counts.numpy()]
    means = {name: float(np.mean([book[name] for book in books])) for name in ("share", "perplexity")}
    return {"codes_used": means["share"], "perplexity": means["perplexity"], "tokens": counts.sum().item()}


def _sums_colors(recon: torch.Tensor, x: torch.Tensor, perceptual: Perceptual | None) -> Sums:
    recon = recon.clamp(-1, 1)
    similarity = structural_similarity((recon + 1) / 2, (x + 1) / 2)
    sums = {"psnr": measures.psnr(recon, x, peak=2.0).sum(), "ssim": similarity.sum()}
    return sums if perceptual is None else sums | {"lpips": perceptual(recon, x) * len(x)}


def structural_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM (Wang et al. 2004) of pictures (B, C, H, W) in [0, 1], of 6 px and more: (B,).

    Gaussian window of 11 px with a deviation of 1.5 px, borders reflected, as torchmetrics has it (whose import takes
    seconds).
    """
    offsets = torch.arange(-5, 6, device=a.device, dtype=a.dtype)
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()
    a, b = (F.pad(picture, (5, 5, 5, 5), mode="reflect") for picture in (a, b))
    stack = torch.stack([a, b, a * a, b * b, a * b], dim=1).flatten(0, 2)[:, None]
    blurred = F.conv2d(F.conv2d(stack, line.view(1, 1, 1, 11)), line.view(1, 1, 11, 1))
    mean_a, mean_b, aa, bb, ab = blurred.view(len(a), 5, a.shape[1], *blurred.shape[2:]).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    variances = aa - mean_a.square() + bb - mean_b.square()
    return (luminance * (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)).mean((1, 2, 3))


def _sums_edges(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    # 0 is the middle of [-1, 1]: a reconstruction is any grey.
    predicted, true = recon > 0, x > 0
    return {
        "hits": (predicted & true).sum(), "predicted": predicted.sum(), "true": true.sum(),
        "error": ((recon.clamp(-1, 1) - x) / 2).square().sum(), "pixels": torch.tensor(x.numel()),
    }  # fmt: skip


def _sums_depth(recon: torch.Tensor, truth: torch.Tensor) -> Sums:
    """Of maps (B, H, W)."""
    true = truth.flatten(1).double()
    aligned = measures.aligned_depth(recon.flatten(1).double(), true)
    guess, distance = (values.clamp(min=_NEAREST) for values in (aligned, true))
    ratio = torch.maximum(guess / distance, distance / guess)
    return {
        "mae": measures.depth_error(aligned, true).sum(),
        "abs_rel": ((guess - distance).abs() / distance).mean(1).sum(),
        "delta1": (ratio < 1.25).double().mean(1).sum(),
    }  # fmt: skip


def _sums_normals(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    known = x.square().sum(1) > 0.25  # a normal has length 1; where averaging cancelled it there is none
    return _angles(measures.degrees(recon, x, dim=1)[known])


def _angles(degrees: torch.Tensor) -> Sums:
    # A histogram adds up over batches, as the sorted angles of all pixels would not.
    histogram = torch.histc(degrees.float().cpu(), _BINS, 0, 180)
    return {"degrees": degrees.double().sum(), "histogram": histogram, "angles": torch.tensor(degrees.numel())}


def _sums_classes(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    classes, predicted, true = recon.shape[1], recon.argmax(1).flatten(), x.flatten()
    predicted, true = predicted[true > 0], true[true > 0]  # 0 is no class
    # Summed over all pictures before they are divided: classes are rare, and most pictures hold few of them.
    hits, union = measures.class_overlap(predicted, true, classes)
    union[0] = 0  # a prediction of "no class" is a miss of the true one, and no class of its own
    return {"hits": hits, "union": union, "pixels": torch.tensor(true.numel())}


def _sums_masks(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    predicted, true = recon.argmax(1) > 0, x > 0
    both, either = measures.overlap(predicted, true)
    return {"iou": (both / either.clamp(min=1)).sum(), "accuracy": (predicted == true).double().mean((1, 2)).sum()}


def _sums_features(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    cosine = F.cosine_similarity(recon, x, dim=1)
    return {
        "cosine": cosine.sum(), "vectors": torch.tensor(cosine.numel()),
        "error": (recon - x).square().sum(), "values": torch.tensor(x.numel()),
    }  # fmt: skip


def _sums_poses(recon: torch.Tensor, x: torch.Tensor) -> Sums:
    predicted, true = (values.double().view(-1, 3, 3).cpu().numpy() for values in (recon, x))
    return _angles(measures.rotation_degrees(predicted, true)) | _sums_features(recon, x)


def _mean(sums: Sums, *names: str) -> dict[str, float]:
    return {name: (sums[name] / sums["samples"]).item() for name in names if name in sums}


def _summary_edges(sums: Sums) -> dict[str, float]:
    hits, predicted, true = (sums[name].item() for name in ("hits", "predicted", "true"))
    return {
        "precision": hits / max(predicted, 1), "recall": hits / max(true, 1),
        "f1": 2 * hits / max(predicted + true, 1), "iou": hits / max(predicted + true - hits, 1),
        "mse": (sums["error"] / sums["pixels"]).item(),
    }  # fmt: skip


def _summary_angles(sums: Sums) -> dict[str, float]:
    if not sums["angles"]:
        return {}
    share = sums["histogram"].cumsum(0) / sums["histogram"].sum()
    median = (torch.searchsorted(share, 0.5).item() + 0.5) * 180 / _BINS
    return {"mean_degrees": (sums["degrees"] / sums["angles"]).item(), "median_degrees": median}


def _summary_classes(sums: Sums) -> dict[str, float]:
    miou = measures.mean_iou(sums["hits"], sums["union"])
    return {"accuracy": (sums["hits"].sum() / sums["pixels"].clamp(min=1)).item(), "miou": miou.nan_to_num().item()}


def _summary_features(sums: Sums) -> dict[str, float]:
    return {"cosine": (sums["cosine"] / sums["vectors"]).item(), "mse": (sums["error"] / sums["values"]).item()}


_SUMMARIES: dict[str, Callable[[Any], dict[str, float]]] = {
    Form.COLORS.value: lambda sums: _mean(sums, "psnr", "ssim", "lpips"),
    Form.EDGES.value: _summary_edges,
    Form.DEPTH.value: lambda sums: _mean(sums, "mae", "abs_rel", "delta1"),
    Form.NORMALS.value: _summary_angles,
    Form.CLASSES.value: _summary_classes,
    SAM_MASK: lambda sums: _mean(sums, "iou", "accuracy"),
    Form.FEATURES.value: _summary_features,
    Form.VECTOR.value: _summary_features,
    BODY_POSE: lambda sums: _summary_angles(sums) | _summary_features(sums),
}
