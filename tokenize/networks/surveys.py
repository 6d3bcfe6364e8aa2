"""Images of sky surveys as AION-1 codes them: convolutions after MAGVIT, any of nine bands, FSQ.

Legend: B batch, C bands of the input, N all bands that it knows, P width of their projection, D of the network.

Fluxes are bounded, brought to one zero point, compressed by an arcsinh, and put into their places among N bands, the
rest 0; a linear layer brings N bands to P, scaled up for those that are not there. Written after the description in
AION-1's paper and package (polymathic-aion, MIT); see published/aion.py for the names of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from .convnext import Norm
from .finite import BoundedScalar
from .vqvae import VQVAE, VQVAEConfig, seeded

# Of the bands in their order, the largest flux; what lies beyond is cut.
BANDS: Mapping[str, float] = {
    "HSC-G": 80, "HSC-R": 110, "HSC-I": 200, "HSC-Z": 330, "HSC-Y": 500, "DES-G": 6, "DES-R": 15, "DES-I": 20,
    "DES-Z": 25,
}  # fmt: skip
_ZERO_POINT = 22.5  # magnitudes, that all are brought to
_ZERO_POINTS = {"HSC": 27.0, "DES": 22.5}


class SurveyConfig(VQVAEConfig):
    """Settings of a codec of survey images.

    bands: of the input, in its order; of one survey. projection: width that all bands are brought to.
    hidden: width of the network where it is coarsest. halvings: of its resolution. consecutive: blocks after each.
    softening: flux below which the arcsinh is linear. gain: what it is multiplied by.
    """

    bands: tuple[str, ...] = Field(min_length=1)
    projection: int = Field(gt=0)
    hidden: int = Field(gt=0)
    halvings: int = Field(ge=0)
    consecutive: int = Field(ge=0)
    softening: float = Field(gt=0)
    gain: float = Field(gt=0)

    @model_validator(mode="after")
    def _known(self) -> SurveyConfig:
        if unknown := [band for band in self.bands if band not in BANDS]:
            raise ValueError(f"got the band {unknown[0]!r}; it knows {', '.join(BANDS)}: name the sensor's bands so")
        if len({band[:3] for band in self.bands}) > 1:
            raise ValueError(f"got bands of two surveys ({', '.join(self.bands)}); expected those of one")
        return self


class _Gate(nn.Module):
    """A weight for each channel, of a mean over the pixels that the network chooses."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(16, width // 2)
        self.where, self.inner = nn.Conv2d(width, 1, 1), nn.Conv2d(width, hidden, 1)
        self.outer = nn.Conv2d(hidden, width, 1)
        nn.init.zeros_(self.outer.weight)
        assert self.outer.bias is not None
        nn.init.constant_(self.outer.bias, -10)  # at first a block changes nothing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.where(x).flatten(2).softmax(2)
        mean = torch.einsum("bin,bcn->bci", shares, x.flatten(2))[..., None]
        return torch.sigmoid(self.outer(F.leaky_relu(self.inner(mean), 0.1))) * x


class _Block(nn.Module):
    """(B, D, h, w) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.gate = _Gate(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.gate(F.elu(self.narrow(F.elu(self.wide(x)))))
        return out + x


class _Finer(nn.Module):
    """(B, D, h, w) to (B, out, 2 h, 2 w)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, 4 * out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(F.silu(self.spread(x)), 2)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def _encoder(config: SurveyConfig) -> nn.Sequential:
    width = config.hidden // 2**config.halvings
    layers: list[nn.Module] = [nn.Conv2d(config.projection, width, 7, padding=3), _Block(width)]
    for _ in range(config.halvings):
        layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), _blocks(2 * width, config.consecutive)]
        width *= 2
    layers += [nn.Conv2d(width, width, 7, padding=3), _blocks(width, config.consecutive), Norm(width)]
    return nn.Sequential(*layers)


def _decoder(config: SurveyConfig) -> nn.Sequential:
    width = config.hidden // 2**config.halvings * 2**config.halvings
    layers: list[nn.Module] = [_blocks(width, config.consecutive), nn.Conv2d(width, width, 3, padding=1)]
    for _ in range(config.halvings):
        layers += [_blocks(width, config.consecutive), _Finer(width, width // 2)]
        width //= 2
    return nn.Sequential(*layers, _Block(width), nn.Conv2d(width, config.projection, 3, padding=1))


class SurveyImages(VQVAE):
    """Fluxes (B, C, H, W) in the unit of the survey's images to ids (B, h, w), and back."""

    config: SurveyConfig

    def __init__(self, config: SurveyConfig, seed: int = 0) -> None:
        nn.Module.__init__(self)
        self.config, self.cls_emb = config, None
        with seeded(seed):
            self.encoder = _encoder(config)  # type: ignore[assignment]
            self.decoder = _decoder(config)  # type: ignore[assignment]
            self.projection_in = nn.Linear(len(BANDS), config.projection)
            self.projection_out = nn.Linear(config.projection, len(BANDS))
            self.quant_proj = nn.Conv2d(config.hidden, config.latent_dim, 1)
            self.post_quant_proj = nn.Conv2d(config.latent_dim, config.hidden, 1)
            self.quantize = BoundedScalar(config.levels or ())  # type: ignore[assignment]
        self._places = [list(BANDS).index(band) for band in config.bands]
        self._scale = 10 ** ((_ZERO_POINTS[config.bands[0][:3]] - _ZERO_POINT) / 2.5)

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        config = self.config
        most = x.new_tensor([BANDS[band] for band in config.bands])[:, None, None]
        flux = torch.arcsinh(x.clamp(-most, most) / self._scale / config.softening) * config.softening * config.gain
        whole = flux.new_zeros(len(flux), len(BANDS), *flux.shape[2:])
        whole[:, self._places] = flux
        projected = self.projection_in(whole.movedim(1, -1)) * math.sqrt(len(BANDS) / len(config.bands))
        latents: torch.Tensor = self.quant_proj(self.encoder(projected.movedim(-1, 1)))
        return latents

    def _reconstruct(self, quantized: torch.Tensor) -> torch.Tensor:
        config = self.config
        decoded = self.decoder(self.post_quant_proj(quantized)).movedim(1, -1)
        flux = self.projection_out(decoded).movedim(-1, 1)[:, self._places] / config.gain
        return torch.sinh(flux / config.softening) * config.softening * self._scale

    def pixels(self, x: torch.Tensor) -> torch.Tensor:
        return x


def settings(config: Mapping[str, Any], bands: tuple[str, ...]) -> dict[str, Any]:
    """Ours of the arguments of AION-1's class. ValueError if they are too few."""
    try:
        levels, halvings = tuple(config["quantizer_levels"]), int(config.get("n_compressions", 2))
        return {
            "bands": bands, "n_channels": len(bands), "image_size": 96, "patch_size": 2**halvings, "quant_type": "fsq",
            "levels": levels, "codebook_size": math.prod(levels), "latent_dim": int(config.get("embedding_dim", 5)),
            "projection": int(config.get("multisurvey_projection_dims", 54)), "halvings": halvings,
            "hidden": int(config.get("hidden_dims", 512)), "consecutive": int(config.get("num_consecutive", 4)),
            "softening": float(config.get("range_compression_factor", 0.01)),
            "gain": float(config.get("mult_factor", 10.0)),
        }  # fmt: skip
    except (TypeError, ValueError) as error:
        raise ValueError(f"its config.json is of no codec of images: {error}") from None
