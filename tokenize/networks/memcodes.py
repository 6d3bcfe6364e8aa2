"""Memcodes: several codebooks learned by gradients, for vectors that become a few tokens (4M-21, section 3.2).

Legend: B batch, L latent width, h w token grid, N = B h w latents, n books ("heads"), K codes a book, d = L / n.

A latent is cut into n parts; part i attends to the codes of book i. The id is the code of largest score, and the
quantized part is that code's value. Training draws codes from the softmax of the scores (Gumbel noise, temperature 1)
and passes gradients straight through the draw, so codes learn without averages or a commitment loss (NWT, arXiv
2106.04283). Names of parameters are apple/ml-4m's: `codes`, `to_k.weight`, `to_v.weight`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .products import products
from .quantize import on_device, row_chunks

_TEMPERATURE = 1.0


class Memcodes(nn.Module):
    """Latents (B, L, h, w) to n codes each, and back."""

    def __init__(self, codebook_size: int, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"Memcodes: got latent_dim {dim} and num_codebooks {heads}; expected a multiple of it")
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.last_replaced = 0.0
        # Names and order of the parameters are the reference's: state dicts and seeds depend on them.
        self.codes = nn.Parameter(torch.randn(heads, codebook_size, dim // heads))
        self.to_k = _PerHead(heads, dim // heads)
        self.to_v = _PerHead(heads, dim // heads)

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to ids (B, n, h, w) int64, or (B, h, w) of one book; the lowest id of equal scores."""
        # bfloat16 has 8 bits of precision: scores of neighbouring codes would tie, and ids differ between devices.
        with torch.autocast(z.device.type, enabled=False), products(z.device, tf32=False):
            # (q W) c = q (c W'): projecting the queries is cheaper than projecting K codes.
            queries = self._queries(z) @ self.to_k.weight.transpose(1, 2)
            ids = torch.stack([
                torch.cat([(chunk @ codes.t()).argmax(1) for chunk in row_chunks(part, len(codes))])
                for part, codes in zip(queries, self.codes, strict=True)
            ])  # fmt: skip
        return self._grid(ids, z.shape)

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids as from `encode` to values (B, L, h, w), float32."""
        with torch.autocast(ids.device.type, enabled=False):
            flat = ids.long().view(len(ids), self.heads, -1).transpose(0, 1).flatten(1)
            codes = torch.stack([F.embedding(i, book) for i, book in zip(flat, self.codes, strict=True)])
            return self._merge(self.to_v(codes), torch.Size((len(ids), *ids.shape[-2:])))

    def forward(
        self, z: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantized latents (B, L, h, w), 0, ids as from `encode`. In training mode codes are drawn.

        Args:
            generator: CPU generator that seeds the draws, None for torch's global one.
        """
        zero = z.new_zeros((), dtype=torch.float32)
        if not self.training:
            ids = self.encode(z)
            return self.decode(ids), zero, ids
        with torch.autocast(z.device.type, enabled=False), products(z.device, tf32=False):
            scores = self.scale * self._queries(z) @ self.to_k(self.codes).transpose(1, 2)
            # -log of an exponential is Gumbel noise; torch's own function takes no generator.
            noise = torch.empty_like(scores).exponential_(generator=on_device(generator, z.device)).log()
            soft = ((scores - noise) / _TEMPERATURE).softmax(2)
            ids = soft.argmax(2)
            # The value of the draw, the gradient of the softmax. (F.one_hot would wait for the device to compare ids
            # with the number of codes.)
            drawn = torch.zeros_like(soft).scatter_(2, ids[..., None], 1) - soft.detach() + soft
            values = drawn @ self.to_v(self.codes)
        return self._merge(values, torch.Size((len(z), *z.shape[2:]))), zero, self._grid(ids, z.shape)

    def _queries(self, z: torch.Tensor) -> torch.Tensor:
        """(B, L, h, w) to (n, N, d) in the codes' dtype."""
        parts = z.to(self.codes.dtype).reshape(len(z), self.heads, z.shape[1] // self.heads, -1)
        return parts.permute(1, 0, 3, 2).flatten(1, 2)

    def _grid(self, ids_nN: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ids = ids_nN.view(self.heads, shape[0], *shape[2:]).transpose(0, 1)
        return ids[:, 0] if self.heads == 1 else ids

    def _merge(self, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(n, N, d) to (B, L, h, w), with `shape` (B, h, w)."""
        return values.view(self.heads, *shape, -1).permute(1, 0, 4, 2, 3).flatten(1, 2)


class _PerHead(nn.Module):
    """A linear map without bias for each head: (n, N, d) to (n, N, d)."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        bound = (3 / dim) ** 0.5  # keeps the variance
        self.weight = nn.Parameter(torch.empty(heads, dim, dim).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight
