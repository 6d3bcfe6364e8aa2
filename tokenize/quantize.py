"""Vector quantization with a cosine codebook, as in 4M's tokenizers.

Legend: B batch, L latent width, h w token grid, N = B h w latents, K codes.

A latent's code is the one of largest cosine; the codebook learns by exponential moving averages (EMA) of the
normalised latents assigned to it, not by gradients; the encoder learns through the straight-through estimator and the
commitment loss. Buffers have apple/ml-4m's names (`quantize._codebook.embed`, ...).

Decisions:
- A dead code (EMA of its uses below `threshold`) takes the place of a random latent of the batch, and starts with the
  average cluster size, so that it has some log(coefficient) / (1 - decay) steps to find latents before it may be
  replaced again. The reference leaves the old size, so that most codes are replaced in each of the first steps.
- Random picks come from a generator of our own: a fit resumes bit for bit, and on several ranks all take rank 0's.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# Scores of one matrix product, at most so many at once: 2^26 float32 are 256 MB.
_MAX_SCORES = 2**26


class Codebook(nn.Module):
    """K unit vectors (K, L) and the EMA of how many latents of a batch each one takes (K,)."""

    initted: torch.Tensor
    cluster_size: torch.Tensor
    embed: torch.Tensor

    def __init__(self, size: int, dim: int, decay: float, threshold: float, seed: int) -> None:
        super().__init__()
        self.decay, self.threshold = decay, threshold
        self.generator = torch.Generator().manual_seed(seed)
        embed = torch.empty(size, dim)
        nn.init.kaiming_uniform_(embed, generator=self.generator)
        self.register_buffer("initted", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", F.normalize(embed, dim=1))

    def assign(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """The code of largest cosine, (N,) int64; the lowest of equals."""
        # The length of a latent does not change its argmax, so only the codes are normalised.
        codes_LK = F.normalize(self.embed, dim=1).t()
        rows = max(_MAX_SCORES // codes_LK.shape[1], 1)
        return torch.cat([(chunk @ codes_LK).argmax(1) for chunk in torch.split(latents_NL, rows)])

    @torch.no_grad()
    def update(self, latents_NL: torch.Tensor, ids_N: torch.Tensor) -> int:
        """One EMA step from a batch of latents and their codes; returns the number of codes replaced."""
        latents = F.normalize(latents_NL.float(), dim=1)
        counts = torch.bincount(ids_N, minlength=self.embed.shape[0]).to(latents.dtype)
        sums = torch.zeros_like(self.embed).index_add_(0, ids_N, latents)
        if _distributed():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        used = counts[:, None] > 0
        codes = F.normalize(self.embed, dim=1)
        means = torch.where(used, F.normalize(sums / counts.clamp(min=1)[:, None], dim=1), codes)
        self.embed.lerp_(means, 1 - self.decay)
        return self._replace_dead(latents, counts) if self.threshold > 0 else 0

    def _replace_dead(self, latents: torch.Tensor, counts: torch.Tensor) -> int:
        dead = torch.nonzero(self.cluster_size < self.threshold)[:, 0]
        if len(dead) == 0:
            return 0
        # With more dead codes than latents some are picked twice; the copies part later.
        order = torch.randperm(len(latents), generator=self.generator)
        picks = order.repeat(-(-len(dead) // len(latents)))[: len(dead)]
        fresh = latents[picks.to(latents.device)]
        if _distributed():
            dist.broadcast(fresh, 0)
        self.embed[dead] = fresh
        self.cluster_size[dead] = counts.sum() / len(counts)
        return len(dead)


class VectorQuantizer(nn.Module):
    """Latents (B, L, h, w) to codes, and back."""

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        decay: float = 0.99,
        threshold: float = 0.0,
        commitment: float = 1.0,
        norm_latents: bool = False,
        seed: int = 0,
    ) -> None:
        """`threshold` is in latents a batch; 0 never replaces a code."""
        super().__init__()
        self.commitment, self.norm_latents = commitment, norm_latents
        self.last_replaced = 0
        self._codebook = Codebook(codebook_size, dim, decay, threshold, seed)

    @property
    def codebook(self) -> Codebook:
        return self._codebook

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to ids (B, h, w) int64. Does not change the codebook."""
        with torch.autocast(z.device.type, enabled=False):
            ids = self._codebook.assign(_rows(z.float()))
        return ids.view(z.shape[0], *z.shape[2:])

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, h, w) to the codes' vectors (B, L, h, w), float32."""
        return F.embedding(ids.long(), self._codebook.embed).permute(0, 3, 1, 2).contiguous()

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantized latents (B, L, h, w) with straight-through gradient, commitment loss (), ids (B, h, w).

        In training mode the codebook takes an EMA step, after it has coded the batch.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float(), dim=1) if self.norm_latents else z.float()
            ids = self.encode(z)
            quantized = self.decode(ids)
            if not self.training:
                return quantized, z.new_zeros(()), ids
            loss = self.commitment * F.mse_loss(z, quantized)
            self.last_replaced = self._codebook.update(_rows(z.detach()), ids.flatten())
            return z + (quantized - z).detach(), loss, ids


def dead_code_threshold(tokens_in_batch: int, codebook_size: int, coefficient: float) -> float:
    """4M's rule: a code is dead below 1 / coefficient of its uniform share of a batch (all ranks); 0 switches off."""
    return tokens_in_batch / codebook_size / coefficient if coefficient else 0.0


def _rows(z: torch.Tensor) -> torch.Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
