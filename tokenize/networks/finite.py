"""Quantizers without a codebook to learn: FSQ, iFSQ and LFQ. Each value of a latent is rounded by itself.

Legend: B batch, L latent width, h w token grid, N = B h w latents, n books, d = L / n values of a code, K codes a book.

A code is d digits; its id is the number that they write. So ids and codes say the same, no code can die, and the size
of the vocabulary follows from the digits.

- FSQ (finite scalar quantization, arXiv 2309.15505) keeps value i at one of `levels[i]` equally spaced values, and
  needs no loss. The form is TerraMind's: sigmoid(x) for the bound (FSQ's tanh, of half the slope), codes in [0, 1], the
  first digit counts least. Even numbers of levels need no offset by it.
  AION-1's is that of the FSQ paper: tanh, from -(n // 2) to (n - 1) // 2 for n levels, over n // 2.
- iFSQ (arXiv 2601.17124) bounds by 2 sigmoid(1.6 x) - 1, by which latents of a normal distribution take all levels
  about equally often; codes are in [-1, 1].
- LFQ (lookup-free quantization, arXiv 2310.05737) keeps signs, d bits, the first counts most. Its loss asks for latents
  that are sure of their code (small entropy of each), that use all codes (large entropy of the mean), and that stay
  close to them (commitment).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .quantize import is_distributed

SLOPE = 1.6  # of iFSQ
# LFQ's logits are so many times the products of latents and codes (MAGVIT-v2's code has a temperature of 0.01).
_SHARPNESS = 100.0
_LEAST = 1e-5  # probabilities below it count as it, so that their logarithm is finite


class _Digits(nn.Module):
    """Latents (B, L, h, w) to n codes of d digits each, and back by a table of all codes."""

    codes: torch.Tensor
    weights: torch.Tensor
    steps: torch.Tensor
    last_replaced = 0.0  # codes: none ever is

    def __init__(self, levels: Sequence[int], heads: int, low: float, least_first: bool) -> None:
        super().__init__()
        self.levels, self.heads, self.low = tuple(levels), heads, low
        order = range(len(self.levels)) if least_first else reversed(range(len(self.levels)))
        weights, size = [0] * len(self.levels), 1
        for place in order:
            weights[place], size = size, size * self.levels[place]
        # Follow from the settings, so that they are in no file of weights.
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.register_buffer("steps", torch.tensor(self.levels) - 1, persistent=False)
        digits = torch.arange(size)[:, None] // self.weights % torch.tensor(self.levels)
        self.register_buffer("codes", self._values(digits.to(torch.get_default_dtype())), persistent=False)

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to ids (B, h, w) int64, or (B, n, h, w) with n > 1 books."""
        with torch.autocast(z.device.type, enabled=False):
            return self._ids(self._digits(self._split(z)), z.shape)

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids as from `encode` to the codes' values (B, L, h, w), float32."""
        with torch.autocast(ids.device.type, enabled=False):
            values = F.embedding(ids.long().view(len(ids), self.heads, -1), self.codes)
            return self._merge(values, ids.shape[-2:])

    def forward(
        self, z: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantized latents (B, L, h, w) with straight-through gradient, loss (), ids as from `encode`.

        `generator` is for the other quantizers: here the choice of a code is not random.
        """
        # In float32 under autocast too: in bfloat16 neighbours of 8 bits would be one.
        with torch.autocast(z.device.type, enabled=False):
            latents = self._split(z)
            digits = self._digits(latents)
            ids = self._ids(digits, z.shape)
            values = self._values(digits)
            if not self.training:
                return self._merge(values, z.shape[2:]), values.new_zeros(()), ids
            smooth = self._bounded(latents)
            # Straight through: the value of the code, the gradient of the bounded latent.
            quantized = self._merge(smooth + (values - smooth).detach(), z.shape[2:])
            return quantized, self._loss(latents, values), ids

    def _bounded(self, latents: torch.Tensor) -> torch.Tensor:
        """What is rounded, in the range of the codes."""
        raise NotImplementedError

    def _digits(self, latents: torch.Tensor) -> torch.Tensor:
        """Digits of latents (..., d), of their floating point type, without a gradient."""
        raise NotImplementedError

    def _loss(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _values(self, digits: torch.Tensor) -> torch.Tensor:
        """Digits (..., d) as values from `low` to 1."""
        shares = digits / self.steps
        return shares if self.low == 0 else self.low + (1 - self.low) * shares

    def _split(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to (B, n, h w, d) in the codes' dtype."""
        parts = z.to(self.codes.dtype).flatten(2).transpose(1, 2)
        return parts.reshape(*parts.shape[:2], self.heads, -1).transpose(1, 2)

    def _merge(self, values: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """(B, n, h w, d) to (B, L, h, w)."""
        return values.transpose(1, 2).flatten(2).transpose(1, 2).reshape(len(values), -1, *size)

    def _ids(self, digits: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ids = (digits.long() * self.weights).sum(3).view(shape[0], self.heads, *shape[2:])
        return ids[:, 0] if self.heads == 1 else ids


class FiniteScalar(_Digits):
    """FSQ: value i of a latent is one of `levels[i]`. iFSQ with a `slope` of `SLOPE` and values from -1 on."""

    def __init__(self, levels: Sequence[int], heads: int = 1, slope: float = 1.0, low: float = 0.0) -> None:
        super().__init__(levels, heads, low, least_first=True)
        self.slope = slope

    def _shares(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents if self.slope == 1 else self.slope * latents).sigmoid()

    def _bounded(self, latents: torch.Tensor) -> torch.Tensor:
        return self.low + (1 - self.low) * self._shares(latents)

    @torch.no_grad()
    def _digits(self, latents: torch.Tensor) -> torch.Tensor:
        return (self._shares(latents) * self.steps).round()

    def _loss(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(())


class BoundedScalar(_Digits):
    """FSQ as its paper has it: tanh of a latent, an even number of levels moved by half a step; 0 is a code."""

    def __init__(self, levels: Sequence[int], heads: int = 1, margin: float = 1e-3) -> None:
        """`margin` keeps a latent from the end of the bound before its outermost level."""
        super().__init__(levels, heads, -1.0, least_first=True)
        self.margin = margin

    @property
    def _half(self) -> torch.Tensor:
        return (self.steps + 1) // 2

    def _places(self, latents: torch.Tensor) -> torch.Tensor:
        """Bounded latents, whose levels are whole numbers around 0."""
        reach = self.steps * (1 + self.margin) / 2
        offset = torch.where(self.steps % 2 == 0, 0.0, 0.5)
        return torch.tanh(latents + torch.atanh(offset / reach)) * reach - offset

    def _bounded(self, latents: torch.Tensor) -> torch.Tensor:
        return self._places(latents) / self._half

    @torch.no_grad()
    def _digits(self, latents: torch.Tensor) -> torch.Tensor:
        return self._places(latents).round() + self._half

    def _values(self, digits: torch.Tensor) -> torch.Tensor:
        return (digits - self._half) / self._half

    def _loss(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(())


class LookupFree(_Digits):
    """LFQ: the signs of `bits` values, -1 or 1.

    Under torch.distributed the mean use of codes, whose entropy is to be large, is that over all ranks.
    """

    def __init__(self, bits: int, heads: int = 1, entropy: float = 0.1, commitment: float = 0.25) -> None:
        """`entropy` and `commitment` are the weights of the two losses."""
        super().__init__([2] * bits, heads, -1.0, least_first=False)
        self.entropy, self.commitment = entropy, commitment

    def _bounded(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    @torch.no_grad()
    def _digits(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents > 0).to(latents.dtype)

    def _loss(self, latents: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        loss = self.commitment * F.mse_loss(latents, values)
        return loss + self.entropy * self.entropies(latents) if self.entropy else loss

    def entropies(self, latents: torch.Tensor) -> torch.Tensor:
        """Mean entropy of each latent's code, less the entropy of the mean over latents (B, n, h w, d), in nats; mean
        over books.

        A latent's probability of code c is the softmax of `_SHARPNESS` 2 z c over all K codes. Since codes are signs it
        is a product over bits: the first half of them and the second are independent, and what K x N probabilities
        would say needs two matrices of about sqrt(K) x N.
        """
        ones = (4 * _SHARPNESS * latents.transpose(0, 1).flatten(1, 2)).sigmoid()  # of each bit, (n, N, d)
        alone = (_surprise(ones) + _surprise(1 - ones)).sum(2).mean()
        half = ones.shape[2] // 2
        mean = _joint(ones[..., :half]).mT @ _joint(ones[..., half:]) / ones.shape[1]
        if is_distributed():
            mean = _mean_of_ranks(mean)
        return alone - _surprise(mean).sum((1, 2)).mean()


def _joint(ones: torch.Tensor) -> torch.Tensor:
    """Probabilities of all combinations of independent bits: (n, N, d) to (n, N, 2^d)."""
    both = ones.new_ones(*ones.shape[:2], 1)
    for bit in ones.unbind(2):
        both = torch.cat([both * (1 - bit)[..., None], both * bit[..., None]], dim=2)
    return both


def _surprise(p: torch.Tensor) -> torch.Tensor:
    """-p log p, 0 where p is."""
    return -p * p.clamp(min=_LEAST).log()


def _mean_of_ranks(mean: torch.Tensor) -> torch.Tensor:
    """The value of the mean over ranks; the gradient of this rank's part, which DDP takes the mean of."""
    total = mean.detach().clone()
    dist.all_reduce(total)
    return mean + (total / dist.get_world_size() - mean).detach()
