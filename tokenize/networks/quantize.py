"""Vector quantization with one codebook of vectors, as in 4M's tokenizers.

Legend: B batch, L latent width, h w token grid, N = B h w latents, K codes, n heads.

A latent's code is the one of largest cosine; the codebook learns by exponential moving averages (EMA) of the
normalized latents assigned to it, not by gradients; the encoder learns through the straight-through estimator and the
commitment loss. Buffers have apple/ml-4m's names (`quantize._codebook.embed`, ...).

Decisions:
- A dead code (EMA of its uses below `threshold`) takes the place of a random latent of the batch, and starts with the
  average cluster size, so that it has some log(coefficient) / (1 - decay) steps to find latents before it may be
  replaced again. The reference leaves the old size, so that most codes are replaced in each of the first steps.
- Random picks come from a generator of our own: a fit resumes bit for bit, and on several ranks all take rank 0's.
- Euclidean codebooks and several heads that share a codebook are not used by 4M's published tokenizers; they are here
  because its configs can ask for them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .products import products

# Scores of one matrix product, at most so many at once: on a CPU 2 MB, which stay in its cache (2 to 4 times as fast as
# through memory, measured), elsewhere 256 MB.
CPU_SCORES, DEVICE_SCORES = 2**19, 2**26
_SMOOTHING = 1e-5


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
        # Read by nothing here: 4M's folders hold it, and strict loading wants every name.
        self.register_buffer("initted", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", F.normalize(embed, dim=1))

    def assign(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """The code of largest cosine, (N,) int64; the lowest of equals."""
        # The length of a latent does not change its argmax, so only the codes are normalized.
        codes_LK = F.normalize(self.embed, dim=1).t()
        with products(latents_NL.device, tf32=False):
            return torch.cat([(chunk @ codes_LK).argmax(1) for chunk in row_chunks(latents_NL, len(self.embed))])

    @torch.no_grad()
    def update(self, latents_NL: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """One EMA step from a batch of latents and their codes; returns the number of codes replaced, a scalar."""
        latents = F.normalize(latents_NL.to(self.embed.dtype), dim=1)
        counts, sums = self._counts_and_sums(latents, ids_N)
        # A code that no latent takes stays where it is; its count alone decays.
        used = counts[:, None] > 0
        codes = F.normalize(self.embed, dim=1)
        means = torch.where(used, F.normalize(sums / counts.clamp(min=1)[:, None], dim=1), codes)
        self.embed.lerp_(means, 1 - self.decay)
        return self._replace_dead(latents, counts) if self.threshold > 0 else counts.new_zeros(())

    def _counts_and_sums(self, latents: torch.Tensor, ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of each code (K,) and their sum (K, L), over all ranks; the cluster sizes take their step."""
        # Not torch.bincount, which waits for the device to learn how many codes there are.
        counts = latents.new_zeros(len(self.embed)).index_add_(0, ids_N, latents.new_ones(len(ids_N)))
        sums = torch.zeros_like(self.embed).index_add_(0, ids_N, latents)
        # Sums, not means, over ranks: two ranks learn what one would from both batches.
        if is_distributed():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        return counts, sums

    def _replace_dead(self, latents: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        dead = self.cluster_size < self.threshold
        # A look at a GPU would wait for it; there nothing depends on how many codes are dead.
        if dead.device.type == "cpu" and not dead.numpy().any():
            return dead.sum()
        source = on_device(self.generator, latents.device)
        order = torch.randperm(len(latents), generator=source, device=latents.device)
        # The first of the dead takes the first latent of this order, and so on. With more dead codes than latents some
        # are picked twice; later updates move the copies apart.
        fresh = latents[order[(dead.cumsum(0) - 1) % len(latents)]]
        # Ranks see other latents: without rank 0's picks their codebooks would part here.
        if is_distributed():
            dist.broadcast(fresh, 0)
        self._place(dead, fresh, counts.sum() / len(counts))
        return dead.sum()

    def _place(self, codes: torch.Tensor, vectors: torch.Tensor, size: torch.Tensor) -> None:
        """Codes, bool (K,), take their rows of vectors (K, L), and a cluster size."""
        self.embed.copy_(torch.where(codes[:, None], vectors, self.embed))
        # See Decisions: the old size would let it die again at the next step.
        self.cluster_size.copy_(torch.where(codes, size, self.cluster_size))


class EuclideanCodebook(Codebook):
    """K vectors (K, L) of any length, chosen by distance (`norm_codes` false); their EMA is `embed_avg` over sizes."""

    embed_avg: torch.Tensor

    def __init__(self, size: int, dim: int, decay: float, threshold: float, seed: int) -> None:
        super().__init__(size, dim, decay, threshold, seed)
        self.register_buffer("embed_avg", self.embed.clone())

    def assign(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """The nearest code, (N,) int64; the lowest of equals."""
        # |z - e|^2 without |z|^2, which is the same for all codes.
        codes_LK, squares_K = 2 * self.embed.t(), self.embed.square().sum(1)
        chunks = row_chunks(latents_NL, len(self.embed))
        with products(latents_NL.device, tf32=False):
            return torch.cat([torch.addmm(-squares_K, chunk, codes_LK).argmax(1) for chunk in chunks])

    @torch.no_grad()
    def update(self, latents_NL: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """As in `Codebook`; sizes are smoothed (Laplace), so that a code without latents stays finite."""
        latents = latents_NL.to(self.embed.dtype)
        counts, sums = self._counts_and_sums(latents, ids_N)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total = self.cluster_size.sum()
        sizes = (self.cluster_size + _SMOOTHING) / (total + len(counts) * _SMOOTHING) * total
        self.embed.copy_(self.embed_avg / sizes[:, None])
        return self._replace_dead(latents, counts) if self.threshold > 0 else counts.new_zeros(())

    def _place(self, codes: torch.Tensor, vectors: torch.Tensor, size: torch.Tensor) -> None:
        super()._place(codes, vectors, size)
        self.embed_avg.copy_(torch.where(codes[:, None], vectors * size, self.embed_avg))


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
        heads: int = 1,
        cosine: bool = True,
    ) -> None:
        """`threshold` is in latents a batch; 0 never replaces a code. `heads`: codes of one latent, projected apart."""
        super().__init__()
        self.commitment, self.norm_latents, self.heads = commitment, norm_latents, heads
        self.last_replaced: torch.Tensor | float = 0.0
        self.project_in = nn.Linear(dim, heads * dim) if heads > 1 else nn.Identity()
        self.project_out = nn.Linear(heads * dim, dim) if heads > 1 else nn.Identity()
        kind = Codebook if cosine else EuclideanCodebook
        self._codebook = kind(codebook_size, dim, decay, threshold, seed)

    @property
    def codebook(self) -> Codebook:
        return self._codebook

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to ids (B, h, w) int64, or (B, n, h, w) with n > 1 heads. Does not change the codebook."""
        # In float32 under autocast too: in bfloat16 a code's neighbours score the same.
        with torch.autocast(z.device.type, enabled=False):
            return self._ids(self._split(z), z.shape)

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids as from `encode` to the codes' vectors (B, L, h, w), float32."""
        with torch.autocast(ids.device.type, enabled=False):
            size = ids.shape[-2:]
            return self._merge(F.embedding(ids.long().view(len(ids), self.heads, -1), self._codebook.embed), size)

    def forward(
        self, z: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantized latents (B, L, h, w) with straight-through gradient, commitment loss (), ids (B, h, w).

        In training mode the codebook takes an EMA step, after it has coded the batch. `generator` is for the other
        quantizers: here the choice of a code is not random.
        """
        with torch.autocast(z.device.type, enabled=False):
            latents = self._split(z)
            ids = self._ids(latents, z.shape)
            quantized = F.embedding(ids.view(latents.shape[:3]), self._codebook.embed)
            if not self.training:
                return self._merge(quantized, z.shape[2:]), latents.new_zeros(()), ids
            # Codes learn by averages, so that this loss moves the encoder alone (codes are buffers).
            loss = self.commitment * F.mse_loss(latents, quantized)
            self.last_replaced = self._codebook.update(latents.detach().flatten(0, 2), ids.flatten())
            # Straight through: the value of the code, the gradient of the latent.
            return self._merge(latents + (quantized - latents).detach(), z.shape[2:]), loss, ids

    def _split(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to what is compared with the codes, (B, n, h w, L) in their dtype: float32 also of bfloat16."""
        latents: torch.Tensor = self.project_in(z.to(self._codebook.embed.dtype).flatten(2).transpose(1, 2))
        latents = latents.view(*latents.shape[:2], self.heads, -1).transpose(1, 2)
        return F.normalize(latents, dim=3) if self.norm_latents else latents

    def _ids(self, latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ids = self._codebook.assign(latents.flatten(0, 2)).view(shape[0], self.heads, *shape[2:])
        return ids[:, 0] if self.heads == 1 else ids

    def _merge(self, vectors: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """(B, n, h w, L) to (B, L, h, w)."""
        merged: torch.Tensor = self.project_out(vectors.transpose(1, 2).flatten(2))
        return merged.transpose(1, 2).reshape(len(merged), -1, *size)


def dead_code_threshold(tokens_in_batch: int, codebook_size: int, coefficient: float) -> float:
    """4M's rule: a code is dead below 1 / coefficient of its uniform share of a batch (all ranks); 0 switches off."""
    return tokens_in_batch / codebook_size / coefficient if coefficient else 0.0


def row_chunks(rows: torch.Tensor, scores: int) -> tuple[torch.Tensor, ...]:
    """Rows (N, L) in chunks that have few enough `scores` in each row for one matrix product."""
    most = CPU_SCORES if rows.device.type == "cpu" else DEVICE_SCORES
    return torch.split(rows, max(most // scores, 1))


def on_device(generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A generator for draws on `device`, seeded by one draw of a CPU generator; None stays None."""
    if generator is None or device.type == generator.device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def is_distributed() -> bool:
    """Whether there are several ranks to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
