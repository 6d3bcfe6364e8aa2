"""Spectra as AION-1 codes them: ConvNeXt V2 on a common grid of wavelengths, LFQ, and a token of how bright all is.

Legend: B batch, n samples of a spectrum, L those of the grid, t tokens.

A spectrum is divided by its mean, whose logarithm is a token of its own, before the others; then flux and its deviation
go to the grid, are compressed by an arcsinh, and coded together. Written after the description in AION-1's paper and
package (polymathic-aion, MIT); see published/aion.py for the names of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from .convnext import Block, ConvNeXtEncoder, Norm
from .finite import LookupFree
from .quantizers import bits_of
from .stages import ConvNeXtSize

_EPS = 1e-6
_LEAST = 0.1  # of a mean flux, and of what is divided by


class SpectraConfig(BaseModel):
    """Settings of a codec of spectra.

    length: samples of the grid. n_channels: of the input, flux and inverse variance.
    encoder_widths, encoder_depths, decoder_widths, decoder_depths: of the stages, in their order; the last width of the
        decoder is 1, flux alone, or 2, with a second value that is not used.
    most_certain: largest inverse variance that counts. most_flux: largest flux, None without a bound.
    input_scale: of what the network sees.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    codebook_size: int = Field(gt=1, le=2**16)
    length: int = Field(gt=0)
    n_channels: int = 2
    encoder_widths: tuple[int, ...]
    encoder_depths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    most_certain: float | None = None
    most_flux: float | None = None
    input_scale: float = Field(gt=0)

    def strides(self) -> tuple[int, ...]:
        """Of the encoder's stages."""
        return (4, *(2 for _ in self.encoder_widths[1:]))


class _Decoder(nn.Module):
    """Token features (B, D, t) to (B, out, L): each stage has its blocks after it has made the series longer."""

    def __init__(self, width: int, config: SpectraConfig) -> None:
        super().__init__()
        self.stages, last = nn.ModuleList(), len(config.decoder_widths) - 1
        for i, (out, depth) in enumerate(zip(config.decoder_widths, config.decoder_depths, strict=True)):
            stride = 4 if i == last and i else 2
            longer = nn.ConvTranspose1d(width, out, stride, stride)
            # A norm on either side of a convolution, as in the encoder.
            begin = [Norm(width, eps=_EPS), longer] if i else [longer, Norm(out, eps=_EPS)]
            self.stages.append(nn.Sequential(*begin, *(Block(out) for _ in range(depth))))
            width = out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class Spectra(nn.Module):
    """Buffers `wavelength`, (1, L), of the grid, and `levels`, (K,), of the logarithm of the mean."""

    wavelength: torch.Tensor
    levels: torch.Tensor

    def __init__(self, config: SpectraConfig) -> None:
        super().__init__()
        self.config, width, bits = config, config.encoder_widths[-1], bits_of(config.codebook_size)
        size = ConvNeXtSize(config.encoder_widths, config.encoder_depths, config.strides())
        self.encoder, self.decoder = ConvNeXtEncoder(size, 2), _Decoder(width, config)
        self.norm = Norm(width)
        self.quant_proj, self.post_quant_proj = nn.Conv1d(width, bits, 1), nn.Conv1d(bits, width, 1)
        self.quantize = LookupFree(bits)
        self.register_buffer("wavelength", torch.zeros(1, config.length))
        self.register_buffer("levels", torch.zeros(config.codebook_size))

    @torch.no_grad()
    def encode(self, x: torch.Tensor | np.ndarray, wavelength: torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
        """Ids, int64 (B, 1 + t): how bright, then along the spectrum.

        Args:
            x: flux and inverse variance, floating point (B, 2, n). A flux that is not finite is not there.
            wavelength: of the samples, in the unit of the grid, rising, (B, n); None if they are those of the grid.

        ValueError if shapes do not fit.
        """
        x = torch.as_tensor(x).to(self.levels)
        at = self.wavelength if wavelength is None else torch.as_tensor(wavelength).to(self.levels)
        if x.ndim != 3 or x.shape[1] != 2 or at.shape[-1] != x.shape[2]:
            raise ValueError(
                f"tokenizer: got spectra {tuple(x.shape)} at {at.shape[-1]} wavelengths; expected (B, 2, n), flux and "
                "inverse variance, and as many wavelengths"
            )
        at, grid = (one.expand(len(x), -1).contiguous() for one in (at, self.wavelength))
        config, there = self.config, x[:, 0].isfinite()
        flux, certainty = torch.where(there, x[:, 0], 0), x[:, 1].nan_to_num()
        if config.most_flux is not None:
            flux = flux.clamp(-config.most_flux, config.most_flux)
        if config.most_certain is not None:
            certainty = certainty.clamp(0, config.most_certain)
        bright = self._level((flux.sum(1) / (there.sum(1) + 1.0)).clamp(_LEAST))
        mean = self._mean(bright)
        seen = [(flux / mean - 1.0) * config.input_scale, certainty.sqrt() / mean * config.input_scale]
        both = torch.stack([_resampled(at, one, grid) for one in seen], 1).arcsinh()
        features = self.encoder(both.unsqueeze(2)).squeeze(2)
        latents = self.quant_proj(self.norm(features))
        ids = self.quantize.encode(latents.unsqueeze(2)).squeeze(1)
        return torch.cat([bright[:, None], ids], 1)

    @torch.no_grad()
    def decode(self, ids: torch.Tensor, wavelength: torch.Tensor | None = None) -> torch.Tensor:
        """Ids (B, 1 + t) to flux, (B, L) on the grid, or (B, n) at some wavelengths (B, n)."""
        ids = ids.long()
        codes = self.quantize.decode(ids[:, None, 1:]).squeeze(2)
        flux = self.decoder(self.post_quant_proj(codes))[:, 0]
        if wavelength is not None:
            flux = _resampled(self.wavelength.expand(len(ids), -1).contiguous(), flux, wavelength.to(self.levels))
        return (flux + 1.0) * self._mean(ids[:, 0])

    def _level(self, mean: torch.Tensor) -> torch.Tensor:
        """The token of a mean flux (B,), int64."""
        return torch.bucketize(torch.log10(mean + 1.0), self.levels).clamp(max=len(self.levels) - 1)

    def _mean(self, level: torch.Tensor) -> torch.Tensor:
        """What a spectrum is divided by, (B, 1)."""
        return (10 ** self.levels[level][:, None] - 1.0).clamp(_LEAST)


def _resampled(x: torch.Tensor, y: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values y (B, n) at rising x (B, n), linear between them, at other places (B, m); 0 beyond."""
    place = (torch.searchsorted(x, at.contiguous()) - 1).clamp(0, x.shape[1] - 2)
    slope = y.diff(dim=1) / x.diff(dim=1)
    found = y.gather(1, place) + (at - x.gather(1, place)) * slope.gather(1, place)
    return torch.where((at < x[:, :1]) | (at > x[:, -1:]), 0.0, found)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Ours of the arguments of AION-1's class. ValueError if they are of a form that is not read."""
    codes = int(config["codebook_size"])
    if not bits_of(codes) or {bits_of(codes)} != {int(config.get(name, 10)) for name in ("dim", "embedding_dim")}:
        raise ValueError(
            f"its codes are of {config.get('dim')} and {config.get('embedding_dim')} values, its codebook of {codes}; "
            "expected as many values as codes have bits"
        )
    return {
        "codebook_size": codes, "length": config["num_pixels"],
        "encoder_widths": config["encoder_dims"], "encoder_depths": config["encoder_depths"],
        "decoder_widths": config["decoder_dims"], "decoder_depths": config["decoder_depths"],
        "most_certain": config.get("clip_ivar"), "most_flux": config.get("clip_flux"),
        "input_scale": config.get("input_scaling", 0.2),
    }  # fmt: skip
