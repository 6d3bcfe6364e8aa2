"""From a tokenizer's settings to its untrained model, and to how it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...modalities import TOKENIZERS, Form
from ...tokenize.networks.divae import DiVAE, DiVAEConfig
from ...tokenize.networks.unet import UNetSize
from ...tokenize.networks.uvit import UViTSize
from ...tokenize.networks.vit import ViTSize
from ...tokenize.networks.vqvae import VQVAE, VQVAEConfig
from ...tokenize.settings import TokenizerSettings, warm_starts
from ...tokenize.tokenizer import Tokenizer
from .vq import Adaptation, VQFitConfig

_CHANNELS = {Form.COLORS: 3, Form.NORMALS: 3, Form.EDGES: 1, Form.DEPTH: 1}


def model(name: str, settings: TokenizerSettings, image_size: int, row: Sequence[int], seed: int = 0) -> Tokenizer:
    """An untrained tokenizer; its weights depend on the arguments alone.

    Args:
        name: a key of TOKENIZERS.
        settings: with `codebook_size` and `patch_size`, see `Recipe.tokenizer`.
        image_size: pixels along a side of a crop.
        row: shape of a row of its examples, without the batch: the last axis of features and vectors is their width.
    """
    entry = TOKENIZERS[name]
    codes = {"codebook_size": settings.codebook_size, "latent_dim": settings.latent_dim}
    if entry.form is Form.VECTOR:
        mlp = VQVAEConfig.mlp(row[-1], settings.dim, settings.encoder_depth, num_codebooks=entry.tokens, **codes)
        return VQVAE(mlp, seed)
    shared: dict[str, Any] = codes | {
        "image_size": entry.image_size or image_size,
        "patch_size": settings.patch_size,
        "n_channels": settings.class_dim if entry.form is Form.CLASSES else _CHANNELS.get(entry.form, row[-1]),
        "n_labels": entry.n_labels or None,
        "patch_proj": entry.form is not Form.FEATURES,
        "post_mlp": True,
        "norm_latents": settings.norm_latents,
        "ema_decay": settings.ema_decay,
    }
    encoder = (settings.dim, settings.encoder_depth, settings.heads)
    if settings.decoder == "vit":
        return VQVAE(VQVAEConfig.small(*encoder, settings.decoder_depth, out_conv=settings.out_conv, **shared), seed)
    return DiVAE(_diffusion(settings, encoder, shared), seed)


def _diffusion(settings: TokenizerSettings, encoder: tuple[int, int, int], shared: dict[str, Any]) -> DiVAEConfig:
    """A diffusion decoder: of a UNet on patches, or a UViT, whose transformer has the sizes of the decoder's ViT."""
    decoder: UNetSize | UViTSize
    if settings.decoder == "unet":
        levels = (settings.unet_channels, tuple(float(m) for m in settings.unet_multipliers), settings.unet_blocks)
        decoder = UNetSize(*levels, settings.unet_attention, settings.decoder_patch_size)
    else:
        transformer = (settings.decoder_depth, settings.heads, settings.dim)
        decoder = UViTSize(settings.uvit_channels, *transformer, True, settings.decoder_patch_size)
    names = (f"vit_{settings.dim}x{settings.encoder_depth}_enc", f"{settings.decoder}_own")
    return DiVAEConfig(
        enc_type=names[0],
        dec_type=names[1],
        sizes={names[0]: ViTSize(*encoder), names[1]: decoder},
        prediction_type=settings.prediction,
        beta_schedule=settings.noise_schedule,
        zero_terminal_snr=settings.zero_terminal_snr,
        thresholding=settings.thresholding,
        clip_sample=settings.clip_sample,
        cls_free_guidance_dropout=settings.guidance_dropout,
        dec_transformer_dropout=0.0,
        **shared,
    )


def fit_config(name: str, settings: TokenizerSettings, batch: int, seed: int) -> VQFitConfig:
    """How a tokenizer is fitted on `batch` samples of each rank; learning rates are those of the whole batch."""
    scale, later = settings.batch_size / 256, settings.resolutions
    adaptation = Adaptation(steps=later.steps, lr=later.base_lr * scale, warmup=later.warmup) if later else None
    return VQFitConfig(
        steps=settings.steps,
        batch_size=batch,
        accumulate=min(settings.accumulate, batch),
        lr=settings.base_lr * scale,
        warmup=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        clip=settings.clip_norm,
        loss=settings.loss,
        gradient_weight=settings.gradient_weight,
        perceptual_weight=settings.perceptual_weight,
        dead_code_coefficient=settings.dead_code_coefficient,
        average=settings.average,
        warm_start=warm_starts(name, settings),
        precision=settings.precision,
        compile=settings.compile,
        adaptation=adaptation,
        seed=seed,
    )
