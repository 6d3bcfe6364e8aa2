"""VQ-VAE: images, feature maps, label maps and vectors as token ids, and back; and what it shares with DiVAE.

Legend: B batch, C channels, H W pixels, h w token grid, L latent width, K codes, n codebooks, D width of a vector.

Names of weights and of settings are apple/ml-4m's, so that published folders open as they are (see `tokenizer.load`);
ours add `sizes`, for encoders and decoders that have no published name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from ...modalities import height_width
from ..sensors.statistics import Statistics
from .arch import Size, sizes_of
from .convnext import ConvNeXtDecoder, ConvNeXtEncoder
from .finite import SLOPE, FiniteScalar, LookupFree
from .memcodes import Memcodes
from .mlp import BottleneckMLP, is_mlp, mlp_name
from .quantize import VectorQuantizer
from .quantizers import bits_of, codes_of
from .stages import ConvNeXtSize
from .vit import PRESETS, ViTDecoder, ViTEncoder, ViTSize

# ImageNet's mean and deviation of pixels in [0, 1], for `undo_std`.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_Pixels = Annotated[int, Field(gt=0)]
Sides = _Pixels | tuple[_Pixels, _Pixels]


class VQConfig(BaseModel):
    """Settings of what encodes and quantizes, by apple/ml-4m's names.

    enc_type, dec_type: a preset (`vit_b_enc`, `vit_s_dec`, ...), `BottleneckMLP/B_6-Wi_1024` for vectors, or a name in
        `sizes`.
    image_size: pixels (of the input, for feature maps too) that the positions are made for, or [height, width]; other
        sizes work.
    n_channels: of the input and the reconstruction; with `n_labels` the width of a class embedding.
    n_labels: the input is a map of so many class ids and the reconstruction its logits.
    patch_proj: False for feature maps, whose pixels are tokens already.
    quant_type: "lucid", one codebook that learns by averages, "memcodes", `num_codebooks` that learn by gradients, or
        "fsq", "ifsq" or "lfq", which have none (finite.py). A latent of these three holds `num_codebooks` codes.
    codebook_size: ids of a book; TerraMind's configs say the levels of "fsq" here, "8-8-8-6-5".
    levels: of "fsq" and "ifsq"; their product is `codebook_size`. entropy_weight: of "lfq".
    length: of series, samples that positions are made for, which the last patch may reach beyond; other lengths work if
        they are whole patches. A patch is of `patch_size` samples.
    norm_codes: compare by cosine, as every published tokenizer does; else by distance.
    frame: of normals, if it is not the declared one (tokenize/frames.py); a key of ours.
    statistics: of a sensor's bands, by which they were standardized in the fit; a key of ours.
    undo_std: pictures come with ImageNet's mean and deviation, and are brought to [-1, 1] first.
    Keys that say how the reference trains are not read, and null is a key's default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_size: Sides = 224
    image_size_enc: Sides | None = None
    image_size_dec: Sides | None = None
    n_channels: int = Field(3, gt=0)
    n_labels: int | None = None
    enc_type: str = "vit_b_enc"
    dec_type: str = "vit_b_dec"
    patch_proj: bool = True
    patch_size: int = Field(16, gt=0)
    post_mlp: bool = False
    quant_type: str = Field("lucid", pattern="^(lucid|memcodes|fsq|ifsq|lfq)$")
    codebook_size: int = Field(16_384, gt=1, le=2**16)
    num_codebooks: int = Field(1, gt=0)
    latent_dim: int = Field(32, gt=0)
    norm_codes: bool = True
    norm_latents: bool = False
    ema_decay: float = Field(0.99, ge=0, le=1)
    threshold_ema_dead_code: float = Field(0.0, ge=0)
    commitment_weight: float = Field(1.0, ge=0)
    undo_std: bool = False
    frame: str | None = None
    levels: tuple[int, ...] | None = None
    entropy_weight: float | None = Field(None, ge=0)
    length: int | None = Field(None, gt=0)
    statistics: Statistics | None = None
    sizes: dict[str, Size] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        # Published configs write null where a flag was not given.
        given = {name: value for name, value in data.items() if value is not None}
        if isinstance(given.get("codebook_size"), str):
            given |= _of_text(given["codebook_size"])
        if isinstance(given.get("sizes"), Mapping):
            named = (str(given.get(part, cls.model_fields[part].default)) for part in ("enc_type", "dec_type"))
            given["sizes"] = sizes_of(given["sizes"], *named)
        return given

    @model_validator(mode="after")
    def _standardized_pictures(self) -> VQConfig:
        if self.undo_std and (self.n_labels or self.n_channels != 3):
            raise ValueError(
                f"got undo_std with n_channels {self.n_channels}, n_labels {self.n_labels}; expected pictures of 3 "
                "channels"
            )
        return self

    @model_validator(mode="after")
    def _digits_fit(self) -> VQConfig:
        width, books = self.latent_dim, self.num_codebooks
        if self.quant_type in ("fsq", "ifsq"):
            levels = self.levels or ()
            if not levels or min(levels) < 2 or (codes_of(levels), len(levels) * books) != (self.codebook_size, width):
                raise ValueError(
                    f"got levels {list(levels)}, codebook_size {self.codebook_size}, latent_dim {width} and "
                    f"num_codebooks {books}; expected levels of 2 and more, their product, and as many values of a "
                    "latent as books have levels"
                )
        bits = bits_of(self.codebook_size)
        if self.quant_type == "lfq" and (not bits or bits * books != width):
            raise ValueError(
                f"got codebook_size {self.codebook_size}, latent_dim {width} and num_codebooks {books}; lfq needs a "
                "power of two, and as many values of a latent as books have bits"
            )
        return self

    def size(self, part: str) -> ViTSize:
        """The ViT of `part`, "enc" or "dec"."""
        name = self.enc_type if part == "enc" else self.dec_type
        size = self.sizes.get(name) or PRESETS.get(name.removesuffix(f"_{part}"))
        if not isinstance(size, ViTSize):
            raise unknown_type(f"{part}_type", name, [f"{preset}_{part}" for preset in PRESETS], self.sizes)
        return size

    def convolutions(self, part: str) -> ConvNeXtSize | None:
        """The ConvNeXt of `part`, "enc" or "dec", None of another kind. ValueError if it does not fit."""
        name = self.enc_type if part == "enc" else self.dec_type
        size = self.sizes.get(name)
        if not isinstance(size, ConvNeXtSize):
            return None
        if self.length is None or size.patch != self.patch(part):
            raise ValueError(
                f"tokenizer: got {part}_type {name!r}, whose tokens cover {size.patch} samples, with length "
                f"{self.length} and patch_size {self.patch(part)}; expected a series, and patches of as many"
            )
        return size

    def grid(self, part: str) -> tuple[int, int]:
        """Rows and columns of tokens, one row of a series, at the size that the positions of `part` are made for."""
        patch = self.patch(part)
        if self.length is not None:
            return 1, -(-self.length // patch)
        pixels = (self.image_size_enc if part == "enc" else self.image_size_dec) or self.image_size
        height, width = height_width(pixels)
        if height % patch or width % patch:
            raise ValueError(f"tokenizer: an image of {pixels} px does not divide into patches of {patch} px")
        return height // patch, width // patch

    def patch(self, part: str) -> int:
        """Pixels along one side of a patch of `part`."""
        return self.patch_size


class VQVAEConfig(VQConfig):
    """Settings of a VQ-VAE.

    out_conv: two ConvNeXt blocks on the pixels of the decoder.
    patch_size_dec: of the decoder, if it differs: the reconstruction then has another size than the input.
    """

    out_conv: bool = False
    patch_size_dec: int | None = None

    def patch(self, part: str) -> int:
        return (self.patch_size_dec if part == "dec" else None) or self.patch_size

    @classmethod
    def small(cls, dim: int, depth: int, heads: int, decoder_depth: int = 0, **settings: Any) -> VQVAEConfig:
        """A free size, for small data: one width, `depth` blocks to encode, `decoder_depth` (0: as many) to decode."""
        sizes = {
            f"vit_{dim}x{depth}_enc": ViTSize(dim, depth, heads),
            f"vit_{dim}x{decoder_depth or depth}_dec": ViTSize(dim, decoder_depth or depth, heads),
        }
        encoder, decoder = sizes
        return cls(enc_type=encoder, dec_type=decoder, sizes=sizes, **settings)

    @classmethod
    def mlp(cls, n_channels: int, width: int, blocks: int, **settings: Any) -> VQVAEConfig:
        """For vectors of `n_channels` values: a bottleneck MLP both ways around Memcodes (`num_codebooks` tokens)."""
        name = mlp_name(blocks, width)
        return cls(n_channels=n_channels, enc_type=name, dec_type=name, **{"quant_type": "memcodes", **settings})


def _of_text(codes: str) -> dict[str, Any]:
    """The fields that TerraMind's "8-8-8-6-5" stands for."""
    try:
        levels = tuple(map(int, codes.split("-")))
    except ValueError:
        raise ValueError(f"got codebook_size {codes!r}; expected a number, or levels as in '8-8-8-6-5'") from None
    return {"codebook_size": codes_of(levels)} | ({"levels": levels} if len(levels) > 1 else {})


def unknown_type(field: str, name: str, presets: list[str], sizes: dict[str, Size]) -> ValueError:
    known = [*presets, *(n for n in sizes if n not in presets)]
    return ValueError(f"tokenizer: got {field} {name!r}; expected one of {known}, or give its size in `sizes`")


class StepOutput(NamedTuple):
    """What a training step compares: the loss is criterion(prediction, target) + commitment."""

    prediction: torch.Tensor
    target: torch.Tensor
    commitment: torch.Tensor
    ids: torch.Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights of what is built inside depend on the seed alone; the global generator does not notice."""
    # The CPU's generator only: weights are made on the CPU, and forking those of GPUs waits for them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class VQ(nn.Module):
    """Encoder and quantizer; subclasses, which decode, build all their weights inside `seeded`."""

    config: VQConfig

    def __init__(self, config: VQConfig, seed: int) -> None:
        super().__init__()
        self.cls_emb = nn.Embedding(config.n_labels, config.n_channels) if config.n_labels else None
        self.encoder: ViTEncoder | BottleneckMLP | ConvNeXtEncoder
        if is_mlp(config.enc_type):
            self.encoder = BottleneckMLP(config.enc_type, dim_in=config.n_channels)
            width = self.encoder.width
        elif convolutions := config.convolutions("enc"):
            self.encoder = ConvNeXtEncoder(convolutions, config.n_channels)
            width = convolutions.widths[-1]
        else:
            size, shared = config.size("enc"), (config.patch_proj, config.post_mlp, config.length is not None)
            self.encoder = ViTEncoder(size, config.n_channels, config.patch_size, config.grid("enc"), *shared)
            width = size.dim_tokens
        self.quant_proj = nn.Conv2d(width, config.latent_dim, 1)
        self.quantize = _quantizer(config, seed)

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """What is quantized, (B, L, h, w); `x` as in `encode`."""
        if self.cls_emb is not None:
            x = self.cls_emb(x.long()).permute(0, 3, 1, 2)
        elif x.ndim == 2:
            x = x[:, :, None, None]  # a vector is a map of one cell
        elif x.ndim == 3:
            # A series is a map of one row; beyond its end is the mean, 0.
            beyond = -x.shape[-1] % self.config.patch_size if x.shape[-1] == self.config.length else 0
            x = F.pad(x, (0, beyond))[:, :, None]
        else:
            x = self.pixels(x)
        features = self.encoder(x)
        if self.training:
            return self.quant_proj(features)
        # What decides between neighbouring codes is float32 where encoding is not: next to no work.
        with torch.autocast(x.device.type, enabled=False):
            return self.quant_proj(features.to(self.quant_proj.weight.dtype))

    def pixels(self, x: torch.Tensor) -> torch.Tensor:
        """What comes in as it is reconstructed: with `undo_std`, pictures (B, 3, H, W) in [-1, 1]."""
        if not self.config.undo_std:
            return x
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        return 2 * (x * deviation + mean) - 1

    @torch.no_grad()
    def encode(self, x: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Token ids, int64 in [0, K): (B, h, w), or (B, n, h, w) of n > 1 codebooks; (B, n) of vectors and series.

        Args:
            x: (B, C, H, W) of any floating point type, images in [-1, 1] (standardized ones with `undo_std`) and
                feature maps as they are; (B, H, W) class ids with `n_labels`; vectors (B, D); with `length` series
                (B, C, L). H and W, or an L that is not `length`, are multiples of the patch size; other sizes than
                `image_size` are fine.

        Raises:
            ValueError: that is not what `x` is, or something in it is not finite, or too large to be coded.
        """
        x = self._input(x)
        # An empty batch has the shape of one sample's ids, with no rows.
        if not len(x):
            return self.encode(x.new_zeros(1, *x.shape[1:]))[:0]
        latents = self.latents(x)
        # The argmax of NaN is an id like any other: without this check a broken label would become tokens.
        if not latents.isfinite().all():
            raise ValueError("tokenizer: got values whose latents are not finite; check the label, and the weights")
        return self._flat(self.quantize.encode(latents), x)

    def _flat(self, map: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A map (..., h, w) without the axes that an input or ids `x` do not have."""
        if self.config.length is not None:
            return map.squeeze(-2)
        return map.flatten(1) if x.ndim == 2 else map

    def _input(self, x: torch.Tensor | np.ndarray) -> torch.Tensor:
        """What `encode` got, checked, with the type and on the device of the weights."""
        x, weight, config = torch.as_tensor(x), self.quant_proj.weight, self.config
        if config.n_labels:
            if x.ndim != 3:
                raise ValueError(f"tokenizer: got class ids {tuple(x.shape)}; expected (B, H, W)")
            x = x.long().to(weight.device)
            if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < config.n_labels:
                raise ValueError(f"tokenizer: got class ids {x.min()} to {x.max()} of {config.n_labels} classes")
            return x
        axes = (2, 4) if isinstance(self.encoder, BottleneckMLP) else (3,) if config.length is not None else (4,)
        if x.ndim not in axes or x.shape[1] != config.n_channels or not x.is_floating_point():
            more = {2: "", 3: ", L", 4: ", H, W"}[axes[0]]
            expected = f"(B, {config.n_channels}{more})"
            raise ValueError(
                f"tokenizer: got {x.dtype} {tuple(x.shape)}; expected floating point {expected}, as it was fitted on "
                f"{config.n_channels} channels"
            )
        return x.to(weight)

    def _codes(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (B, L, h, w) of ids as from `encode`; those of vectors (B, n) are a grid of 1 x 1."""
        heads = self.quantize.heads
        if self.config.length is not None:
            ids = ids.unsqueeze(-2)  # a series is a grid of one row
        # (B, n) are ids of vectors; they take the shape of a grid of one cell.
        elif ids.ndim == 2 and ids.shape[1] == heads:
            ids = ids[..., None, None] if heads > 1 else ids[..., None]
        if ids.ndim != (4 if heads > 1 else 3):
            grid = f"(B, {heads}, h, w)" if heads > 1 else "(B, h, w)"
            raise ValueError(f"tokenizer: got ids {tuple(ids.shape)}; expected {grid}, or (B, {heads}) of vectors")
        return self.quantize.decode(ids)


def _quantizer(config: VQConfig, seed: int) -> VectorQuantizer | Memcodes | FiniteScalar | LookupFree:
    kind, books = config.quant_type, config.num_codebooks
    if kind == "memcodes":
        return Memcodes(config.codebook_size, config.latent_dim, books)
    if kind == "fsq":
        return FiniteScalar(config.levels or (), books)
    if kind == "ifsq":
        return FiniteScalar(config.levels or (), books, SLOPE, low=-1.0)
    if kind == "lfq":
        entropy = {} if config.entropy_weight is None else {"entropy": config.entropy_weight}
        return LookupFree(bits_of(config.codebook_size), books, **entropy)
    return VectorQuantizer(
        config.codebook_size, config.latent_dim, config.ema_decay, config.threshold_ema_dead_code,
        config.commitment_weight, config.norm_latents, seed, books, config.norm_codes,
    )  # fmt: skip


class VQVAE(VQ):
    """ViT or MLP encoder, quantizer, decoder of the same kind. The initial weights depend on config and seed alone."""

    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig, seed: int = 0) -> None:
        with seeded(seed):
            super().__init__(config, seed)
            self.config = config
            out_channels = config.n_labels or config.n_channels
            self.decoder: ViTDecoder | BottleneckMLP | ConvNeXtDecoder
            if is_mlp(config.dec_type):
                self.decoder = BottleneckMLP(config.dec_type, dim_out=out_channels)
                width = self.decoder.width
            elif convolutions := config.convolutions("dec"):
                self.decoder = ConvNeXtDecoder(convolutions, out_channels)
                width = convolutions.widths[-1]
            else:
                size = config.size("dec")
                shared = (config.patch_proj, config.post_mlp, config.out_conv, config.length is not None)
                self.decoder = ViTDecoder(size, out_channels, config.patch("dec"), config.grid("dec"), *shared)
                width = size.dim_tokens
            self.post_quant_proj = nn.Conv2d(config.latent_dim, width, 1)

    @torch.no_grad()
    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids as from `encode` to the reconstruction (B, C, H, W), not clamped; logits (B, n_labels, H, W) with
        `n_labels`; vectors (B, D) of ids (B, n); series (B, C, L) of ids (B, n)."""
        recon, length = self._flat(self._reconstruct(self._codes(ids)), ids), self.config.length
        is_whole = length is not None and 0 < recon.shape[-1] - length < self.config.patch_size
        return recon[..., :length] if is_whole else recon

    def forward(
        self, x: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction, commitment loss (), ids; shapes as in `encode` and `decode`.

        In training mode the codebook takes an EMA step, or Memcodes draw codes (from `generator`, see `step`).
        """
        quantized, commitment, ids = self.quantize(self.latents(x), generator)
        recon = self._reconstruct(quantized)
        recon = self._flat(recon, x)
        recon = recon[..., : x.shape[-1]] if self.config.length is not None else recon
        return recon, commitment, self._flat(ids, x)

    def step(self, x: torch.Tensor, generator: torch.Generator | None = None) -> StepOutput:
        """What a training step compares: the target is `x` itself, class ids with `n_labels`.

        Args:
            generator: on the CPU, for all random draws of the step; None is torch's global one. Where each step has its
                own, made of (seed, rank, step), a checkpoint needs no state of it.
        """
        recon, commitment, ids = self(x, generator)
        return StepOutput(recon, self.pixels(x), commitment, ids)

    def _reconstruct(self, quantized: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_proj(quantized))
