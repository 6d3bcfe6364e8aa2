"""DiVAE: a VQ-VAE whose decoder is a diffusion model conditioned on the codes (arXiv 2206.00386), as in 4M.

Legend: B batch, C channels, H W pixels, h w token grid, L latent width, T training steps.

The encoder and the codebook learn through the decoder's denoising loss. What is decoded is drawn from a distribution:
`decode` fixes the draw by a seed, and no sample depends on the others of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from . import unet, uvit
from .diffusion import Diffusion, Prediction, alphas_cumprod, sampling_steps
from .mlp import is_mlp
from .quantize import on_device
from .vit import ViTEncoder, ViTSize
from .vqvae import VQ, StepOutput, VQConfig, seeded, unknown_type

_PRESETS: dict[str, unet.UNetSize | uvit.UViTSize] = {**unet.PRESETS, **uvit.PRESETS}


class DiVAEConfig(VQConfig):
    """Settings of a DiVAE, by apple/ml-4m's names. Defaults are its class's; 4M's own recipes say
    prediction_type "sample" and beta_schedule "linear".

    dec_type: `unet_patched`, a UViT preset (`uvit_b_p4_f16`, ...), or a name in `sizes`.
    thresholding, clip_sample: each keeps the estimates of sampling in [-1, 1]. For pictures: standardized depth has
        larger values.
    cls_free_guidance_dropout: share of training samples that are decoded without their codes; needed by `guidance`.
    conditioning, dec_transformer_dropout: of UViT.
    """

    dec_type: str = "unet_patched"
    num_train_timesteps: int = Field(1000, gt=1)
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: Prediction = "v_prediction"
    zero_terminal_snr: bool = True
    thresholding: bool = True
    clip_sample: bool = False
    cls_free_guidance_dropout: float = Field(0.0, ge=0, le=1)
    conditioning: Literal["concat", "xattn"] = "concat"
    dec_transformer_dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> DiVAEConfig:
        if self.n_labels:
            raise ValueError(f"got n_labels {self.n_labels}; class maps cannot be noised, use a VQ-VAE")
        if is_mlp(self.enc_type):
            raise ValueError(f"got enc_type {self.enc_type!r}; a diffusion decoder needs a ViT, a vector a VQ-VAE")
        self.diffusion()  # raises what is wrong with the schedule while the config is read
        return self

    def decoder_size(self) -> unet.UNetSize | uvit.UViTSize:
        size = self.sizes.get(self.dec_type) or _PRESETS.get(self.dec_type)
        if not isinstance(size, unet.UNetSize | uvit.UViTSize):
            raise unknown_type("dec_type", self.dec_type, list(_PRESETS), self.sizes)
        return size

    def diffusion(self) -> Diffusion:
        """The forward process; ValueError if there is none of these settings."""
        alphas = alphas_cumprod(self.beta_schedule, self.num_train_timesteps, self.zero_terminal_snr)
        return Diffusion(alphas, self.prediction_type)

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of, in pixels."""
        return math.lcm(self.patch_size if self.patch_proj else 1, self.decoder_size().multiple)

    @classmethod
    def small(
        cls,
        dim: int,
        depth: int,
        heads: int,
        channels: int,
        channel_mult: tuple[float, ...] = (1, 2),
        num_res_blocks: int = 1,
        attention_resolutions: tuple[int, ...] = (),
        decoder_patch_size: int = 4,
        **settings: Any,
    ) -> DiVAEConfig:
        """A free size, for small data: a ViT of one width to encode, a patched UNet to decode."""
        sizes: dict[str, Any] = {
            f"vit_{dim}x{depth}_enc": ViTSize(dim, depth, heads),
            f"unet_{channels}x{num_res_blocks}": unet.UNetSize(
                channels, channel_mult, num_res_blocks, attention_resolutions, decoder_patch_size
            ),
        }
        encoder, decoder = sizes
        return cls(enc_type=encoder, dec_type=decoder, sizes=sizes, **settings)


class DiVAE(VQ):
    """ViT encoder, quantizer, diffusion decoder. The initial weights depend on config and seed alone."""

    config: DiVAEConfig

    def __init__(self, config: DiVAEConfig, seed: int = 0) -> None:
        size = config.decoder_size()
        with seeded(seed):
            super().__init__(config, seed)
            self.config, self.diffusion = config, config.diffusion()
            # After the encoder and quantizer, whose initial weights must not depend on the kind of decoder.
            self.decoder: nn.Module
            if isinstance(size, unet.UNetSize):
                self.decoder = unet.PatchedUNet(size, config.n_channels, config.latent_dim)
            else:
                how = (config.conditioning, config.dec_transformer_dropout)
                self.decoder = uvit.UViT(size, config.n_channels, config.latent_dim, *how)

    @torch.no_grad()
    def decode(
        self,
        ids: torch.Tensor,
        timesteps: int | None = None,
        seed: int | np.integer[Any] | Sequence[int] = 0,
        guidance: float = 1.0,
        image_size: int | tuple[int, int] | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Samples of images (B, C, H, W) by DDIM from ids as of `encode`.

        Args:
            timesteps: of sampling, at most T; more are better and slower. None: 50, or all T of a shorter process.
            seed: of the noise that a sample starts from: one for all, or one for each sample.
            guidance: weight w in unconditional + w (conditional - unconditional); 1 is no guidance and half the work.
            image_size: height and width, or the side of a square; None: those that make these ids.
            noise: (B, C, H, W) in place of seeded noise.

        Raises:
            ValueError: sizes or steps do not fit, or the model predicts the noise and starts from noise alone.
        """
        cond = self._codes(ids)
        if noise is None:
            assert isinstance(self.encoder, ViTEncoder)
            # Ids do not say how large their image was, but an encoder makes one for each patch.
            if isinstance(image_size, int):
                image_size = (image_size, image_size)
            height, width = image_size or (side * self.encoder.patch_size for side in ids.shape[-2:])
            noise = _noise((self.config.n_channels, height, width), seed, len(ids)).to(cond)
        self._check_size(noise)
        clamp = self.config.thresholding or self.config.clip_sample
        # Guided, a batch goes through the decoder twice at once: with its codes, and with all of them masked.
        unguided = guidance == 1.0
        both = cond if unguided else cond.repeat(2, 1, 1, 1)
        mask = torch.zeros(len(both), *cond.shape[2:], dtype=torch.bool, device=cond.device)
        mask[len(cond) :] = True

        def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if unguided:
                return self.decoder(x, t, cond)
            with_codes, without = self.decoder(x.repeat(2, 1, 1, 1), t.repeat(2), both, mask).chunk(2)
            return torch.lerp(without, with_codes, guidance)

        steps = min(50, len(self.diffusion)) if timesteps is None else timesteps
        return self.diffusion.ddim(model, noise, sampling_steps(len(self.diffusion), steps), clamp)

    def forward(
        self,
        x: torch.Tensor,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        cond_mask: torch.Tensor | None = None,
    ) -> StepOutput:
        """One denoising of `x` (B, C, H, W) in [-1, 1], conditioned on its own codes.

        In training mode the codebook takes an EMA step, and some samples lose their codes (guidance dropout).

        Args:
            generator: on the CPU, for whatever is not given here; None is torch's global one.
            noise: (B, C, H, W), standard normal.
            timesteps: (B,) in [0, T), uniform.
            cond_mask: bool (B, h, w), True: decoded without the code there.
        """
        self._check_size(x)
        clean = self.pixels(x)
        # Drawn in this order: a resumed fit must take the same numbers from its generator.
        batch, source = len(x), on_device(generator, x.device)
        if timesteps is None:
            timesteps = torch.randint(len(self.diffusion), (batch,), generator=source, device=x.device)
        if noise is None:
            noise = torch.randn(x.shape, generator=source, device=x.device, dtype=clean.dtype)
        quantized, commitment, ids = self.quantize(self.latents(x), source)
        dropout = self.config.cls_free_guidance_dropout
        if cond_mask is None and self.training and dropout:
            dropped = torch.rand(batch, 1, 1, generator=source, device=x.device) < dropout
            cond_mask = dropped.expand(-1, *quantized.shape[2:])
        noisy = self.diffusion.add_noise(clean, noise, timesteps)
        prediction = self.decoder(noisy, timesteps, quantized, cond_mask)
        return StepOutput(prediction, self.diffusion.target(clean, noise, timesteps), commitment, ids)

    def step(self, x: torch.Tensor, generator: torch.Generator | None = None) -> StepOutput:
        """What a training step compares, see `VQVAE.step`; the target is x, the noise or the velocity."""
        return self(x, generator)

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those that no step of a fit reads, and that get no gradient: what stands for a code that is dropped."""
        if self.config.cls_free_guidance_dropout:
            return []
        return [p for name, p in self.decoder.named_parameters() if name.endswith("mask_token")]

    def _check_size(self, x: torch.Tensor) -> None:
        height, width = x.shape[2:]
        if height % self.config.multiple or width % self.config.multiple:
            raise ValueError(
                f"DiVAE: got an image of {height} x {width} px; expected multiples of {self.config.multiple} px, for "
                "its encoder and decoder"
            )


def _noise(shape: tuple[int, int, int], seed: int | np.integer[Any] | Sequence[int], count: int) -> torch.Tensor:
    """Standard normal (count, C, H, W), drawn on the CPU so that all devices start from the same."""
    # One generator for each sample: none depends on its place in the batch, or on the batch's size.
    if isinstance(seed, int | np.integer):
        return torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))).expand(count, -1, -1, -1)
    if len(seed) != count:
        raise ValueError(f"DiVAE: got {len(seed)} seeds for {count} samples; expected one for each, or a single number")
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seed])
