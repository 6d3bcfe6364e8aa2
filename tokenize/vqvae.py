"""VQ-VAE: images, feature maps and label maps as grids of token ids, and back.

Legend: B batch, C channels, H W pixels, h w token grid, L latent width, K codes.

A folder holds `model.safetensors` and `config.json`. Names of weights and of settings are apple/ml-4m's, so published
VQ-VAE folders open as they are; ours add `sizes` (ViT widths that have no published name), and `quality`, what the fit
measured. Tokenizers with a diffusion decoder or memory codes are other classes; their folders are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from .quantize import VectorQuantizer
from .vit import PRESETS, ViTDecoder, ViTEncoder, ViTSize

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class VQVAEConfig(BaseModel):
    """Settings of a VQ-VAE, by apple/ml-4m's names.

    enc_type, dec_type: a preset (`vit_s_enc`, `vit_b_dec`, ...) or a name in `sizes`.
    image_size: pixels (of the input, for feature maps too) that the positions are made for; other sizes work.
    n_channels: of the input and the reconstruction; with `n_labels` the width of a class embedding.
    n_labels: the input is a map of so many class ids and the reconstruction its logits.
    patch_proj: False for feature maps, whose pixels are tokens already.
    `undo_std` and other keys that say how the reference prepares its data are not read: inputs here are in [-1, 1].
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_size: int = Field(224, gt=0)
    image_size_enc: int | None = None
    image_size_dec: int | None = None
    n_channels: int = Field(3, gt=0)
    n_labels: int | None = None
    enc_type: str = "vit_b_enc"
    dec_type: str = "vit_b_dec"
    patch_proj: bool = True
    patch_size: int = Field(16, gt=0)
    post_mlp: bool = False
    out_conv: bool = False
    quant_type: str = "lucid"
    codebook_size: int = Field(16_384, gt=1, le=2**16)
    num_codebooks: int = 1
    latent_dim: int = Field(32, gt=0)
    norm_codes: bool = True
    norm_latents: bool = False
    ema_decay: float = Field(0.99, ge=0, lt=1)
    threshold_ema_dead_code: float = Field(0.0, ge=0)
    commitment_weight: float = Field(1.0, ge=0)
    sizes: dict[str, ViTSize] = {}

    @field_validator("quant_type")
    @classmethod
    def _only_lucid(cls, value: str) -> str:
        if value != "lucid":
            raise ValueError(f"got quant_type {value!r}; a VQ-VAE has 'lucid', a cosine codebook")
        return value

    @field_validator("norm_codes")
    @classmethod
    def _only_cosine(cls, value: bool) -> bool:
        if not value:
            raise ValueError("got norm_codes false; expected true (every published 4M tokenizer compares by cosine)")
        return value

    @field_validator("num_codebooks")
    @classmethod
    def _only_one(cls, value: int) -> int:
        if value != 1:
            raise ValueError(f"got num_codebooks {value}; expected 1 (a token is one id)")
        return value

    def size(self, part: str) -> ViTSize:
        """The ViT of `part`, "enc" or "dec"."""
        name = self.enc_type if part == "enc" else self.dec_type
        size = self.sizes.get(name) or PRESETS.get(name.removesuffix(f"_{part}"))
        if size is None:
            known = [f"{preset}_{part}" for preset in PRESETS] + list(self.sizes)
            raise ValueError(f"VQ-VAE: got {part}_type {name!r}; expected one of {known}, or give its size in `sizes`")
        return size

    def grid(self, part: str) -> int:
        """Tokens along one side at the size that the positions of `part` are made for."""
        pixels = (self.image_size_enc if part == "enc" else self.image_size_dec) or self.image_size
        if pixels % self.patch_size:
            raise ValueError(f"VQ-VAE: an image of {pixels} px does not divide into patches of {self.patch_size} px")
        return pixels // self.patch_size

    @classmethod
    def small(cls, dim: int, depth: int, heads: int, decoder_depth: int = 0, **settings: Any) -> VQVAEConfig:
        """A free size, for small data: one width, `depth` blocks to encode, `decoder_depth` (0: as many) to decode."""
        sizes = {
            f"vit_{dim}x{depth}_enc": ViTSize(dim, depth, heads),
            f"vit_{dim}x{decoder_depth or depth}_dec": ViTSize(dim, decoder_depth or depth, heads),
        }
        encoder, decoder = sizes
        return cls(enc_type=encoder, dec_type=decoder, sizes=sizes, **settings)


class VQVAE(nn.Module):
    """ViT encoder, cosine codebook, ViT decoder. The initial weights depend on the config and the seed alone."""

    def __init__(self, config: VQVAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.size("enc"), config.size("dec")
        shared = (config.patch_proj, config.post_mlp)
        out_channels = config.n_labels or config.n_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cls_emb = nn.Embedding(config.n_labels, config.n_channels) if config.n_labels else None
            self.encoder = ViTEncoder(encoder, config.n_channels, config.patch_size, config.grid("enc"), *shared)
            self.quant_proj = nn.Conv2d(encoder.dim_tokens, config.latent_dim, 1)
            self.quantize = VectorQuantizer(
                config.codebook_size, config.latent_dim, config.ema_decay, config.threshold_ema_dead_code,
                config.commitment_weight, config.norm_latents, seed,
            )  # fmt: skip
            self.post_quant_proj = nn.Conv2d(config.latent_dim, decoder.dim_tokens, 1)
            self.decoder = ViTDecoder(
                decoder, out_channels, config.patch_size, config.grid("dec"), *shared, config.out_conv
            )

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """What is quantized, (B, L, h, w); `x` as in `encode`."""
        if self.cls_emb is not None:
            x = self.cls_emb(x.long()).permute(0, 3, 1, 2)
        z: torch.Tensor = self.quant_proj(self.encoder(x))
        return z

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Token ids (B, h, w), int64 in [0, K).

        Args:
            x: (B, C, H, W) float, images in [-1, 1] and feature maps as they are; (B, H, W) class ids with `n_labels`.
                H and W are multiples of the patch size; other sizes than `image_size` are fine.
        """
        return self.quantize.encode(self.latents(x))

    @torch.no_grad()
    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, h, w) to the reconstruction (B, C, H, W), not clamped; logits (B, n_labels, H, W) with `n_labels`."""
        return self._reconstruct(self.quantize.decode(ids))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction, commitment loss (), ids (B, h, w). In training mode the codebook takes an EMA step."""
        quantized, commitment, ids = self.quantize(self.latents(x))
        return self._reconstruct(quantized), commitment, ids

    def _reconstruct(self, quantized: torch.Tensor) -> torch.Tensor:
        recon: torch.Tensor = self.decoder(self.post_quant_proj(quantized))
        return recon


def save(model: VQVAE, folder: str | Path, quality: dict[str, float]) -> None:
    """Writes weights and config; each file replaces its older version at once, the config last."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = folder / f".{WEIGHTS}.{os.getpid()}.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / WEIGHTS)
    config = model.config.model_dump(mode="json", exclude_none=True) | {"quality": quality}
    partial = folder / f".{CONFIG}.{os.getpid()}.partial"
    partial.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / CONFIG)


def load(folder: str | Path, sizes: dict[str, ViTSize] | None = None) -> VQVAE:
    """Opens a folder, in evaluation mode.

    Args:
        folder: with `model.safetensors` and `config.json`, ours or a published one.
        sizes: ViT sizes by name, for a config that names some which are neither presets nor in its own `sizes`.

    Raises:
        ValueError: a file is missing, the config is of another kind of tokenizer, or the weights do not fit it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    settings = _read_config(folder)
    settings["sizes"] = {**settings.get("sizes", {}), **(sizes or {})}
    try:
        config = VQVAEConfig.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    model = VQVAE(config)
    weights = load_file(folder / WEIGHTS)
    # A running sum that some releases stored; nothing reads it.
    weights.pop("quantize._codebook.embed_avg", None)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS}: the weights do not fit config.json: {error}") from error
    return model.eval()


def read_quality(folder: str | Path) -> dict[str, float]:
    """What the fit measured, {} for a published folder."""
    quality: dict[str, float] = _read_config(Path(folder)).get("quality", {})
    return quality


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits of the weights and settings; the measured quality does not count."""
    folder = Path(folder)
    settings = _read_config(folder)
    settings.pop("quality", None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(folder / WEIGHTS, "rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()[:16]


def _read_config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"tokenizer: found no {folder / name}; run `fourmill fit`, or name another folder")
    settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return settings
