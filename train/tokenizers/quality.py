"""How well a tokenizer reconstructs, in the unit of its label (see `measures.forms`), and how much of its codebook it
uses.

Pictures in colours have `ssim` too, and `lpips` if its backbone is there, means over pictures. All: `codes_used` (share
of the codebook), `perplexity` (both means over the books of a tokenizer with several), `tokens` (ids looked at) and
`samples`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from ...modalities import TOKENIZERS, Form
from ...tokenize.inputs import to_input, to_values
from ...tokenize.networks.divae import DiVAE
from ...tokenize.tokenizer import Tokenizer
from ..measures import forms
from .usage import usage

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    device = next(itertools.chain(model.parameters(), model.buffers())).device  # a table has no parameters
    form = forms.form_of(name)
    frame = getattr(model.config, "frame", None) if TOKENIZERS[name].form is Form.NORMALS else None
    statistics = model.config.statistics
    total: forms.Sums = {}
    counts: torch.Tensor | None = None
    for rows in batches:
        x = to_input(name, rows, frame, device, statistics)
        ids = model.encode(x)
        counts = _count(ids, model, counts)
        recon = reconstruct(model, ids, steps).float()
        likeness: list[forms.Sums] = [{}] * len(rows)
        if TOKENIZERS[name].form is Form.COLORS:
            recon = recon.clamp(-1, 1)
            likeness = _likeness(recon, x, perceptual)
        values = zip(to_values(name, recon, frame, statistics), rows, likeness, strict=True)
        of_batch = [forms.sums(form, predicted, true) | more for predicted, true, more in values]
        total = forms.add([total, *of_batch] if total else of_batch)
    if counts is None:
        raise ValueError(f"{name}: got no batch to measure the tokenizer on; expected at least one")
    measured = forms.summary(form, total) | forms.of_bands(form, total, statistics.bands if statistics else ())
    measured |= {key: total[key] / total["samples"] for key in ("ssim", "lpips") if key in total}
    # A label without anything to measure has no measures, rather than some that are no numbers.
    known = {key: float(value) for key, value in measured.items() if not np.isnan(value)}
    return known | _codebook(counts) | {"samples": float(total["samples"])}


def _likeness(recon: torch.Tensor, x: torch.Tensor, perceptual: Perceptual | None) -> list[forms.Sums]:
    """SSIM, and LPIPS, of each picture of a batch in [-1, 1]."""
    rows = [{"ssim": value} for value in structural_similarity((recon + 1) / 2, (x + 1) / 2).double().cpu().numpy()]
    if perceptual is None:
        return rows
    lpips = perceptual(recon, x).double().cpu().numpy()  # the mean of the batch
    return [row | {"lpips": lpips} for row in rows]


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
