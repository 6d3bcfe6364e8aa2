"""From a tokenizer's settings to its untrained model.

A network's config holds the sizes that the settings give, under apple/ml-4m's names, and what only the label knows (its
channels and classes). It is written into config.json: other bytes there would be another tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from ...modalities import TOKENIZERS, Form
from ...tokenize.networks import quantizers
from ...tokenize.networks.divae import DiVAE, DiVAEConfig
from ...tokenize.networks.stages import ConvNeXtSize
from ...tokenize.networks.unet import UNetSize
from ...tokenize.networks.uvit import UViTSize
from ...tokenize.networks.vit import ViTSize
from ...tokenize.networks.vqvae import VQVAE, VQVAEConfig
from ...tokenize.sensors.statistics import Statistics
from ...tokenize.settings import CHANNELS, TokenizerSettings, quantizer
from ...tokenize.tokenizer import Network

# Settings that a config calls by another name; the others of both have one name.
_RENAMED = {
    "prediction": "prediction_type", "noise_schedule": "beta_schedule", "guidance_dropout": "cls_free_guidance_dropout",
}  # fmt: skip


def config_fields(kind: type[BaseModel], settings: TokenizerSettings) -> dict[str, Any]:
    """The fields of a network's config that a tokenizer's settings give."""
    given = {_RENAMED.get(name, name): value for name, value in settings}
    return {name: value for name, value in given.items() if name in kind.model_fields}


def model(
    name: str,
    settings: TokenizerSettings,
    image_size: int,
    row: Sequence[int],
    seed: int = 0,
    n_labels: int = 0,
    statistics: Statistics | None = None,
) -> Network:
    """An untrained tokenizer; its weights depend on the arguments alone.

    Args:
        name: a key of TOKENIZERS.
        settings: with `codebook_size` and `patch_size`, see `Recipe.tokenizer`.
        image_size: pixels along a side of a crop.
        row: shape of a row of its examples, without the batch: the last axis of features and vectors is their width.
        n_labels: classes of a class map with "none", see `class_lists.n_labels`; the published number if 0.
        statistics: of the bands of a sensor, by which it reads and gives them.
    """
    entry = TOKENIZERS[name]
    encoder = (settings.dim, settings.encoder_depth, settings.heads)
    quant_type = quantizers.TYPES[quantizer(name, settings)]
    if entry.form is Form.VECTOR:
        # What is set of EMA codebooks, patches and convolutions has no meaning here.
        of_codes = ("codebook_size", "latent_dim", "levels", "entropy_weight")
        fields = {field: getattr(settings, field) for field in of_codes} | {"quant_type": quant_type}
        return VQVAE(VQVAEConfig.mlp(row[-1], *encoder[:2], num_codebooks=entry.tokens, **fields), seed)
    label: dict[str, Any] = {
        "quant_type": quant_type,
        "image_size": entry.image_size or image_size,
        "n_channels": settings.class_dim if entry.form is Form.CLASSES else CHANNELS.get(entry.form, row[-1]),
        "n_labels": n_labels or entry.n_labels or None,
        "patch_proj": entry.form is not Form.FEATURES,  # cells of a feature map are tokens already
        "post_mlp": True,  # as in all published tokenizers
        "statistics": statistics,
    }
    if entry.form is Form.SERIES:
        return VQVAE(_series(settings, encoder, {"length": row[0], **label}), seed)
    if settings.decoder == "vit":
        fields = config_fields(VQVAEConfig, settings) | label
        return VQVAE(VQVAEConfig.small(*encoder, settings.decoder_depth, **fields), seed)
    return DiVAE(_diffusion(settings, encoder, label), seed)


def _series(settings: TokenizerSettings, encoder: tuple[int, int, int], label: dict[str, Any]) -> VQVAEConfig:
    """One network from samples to tokens, and one back: of a ViT with patches of samples, or of convolutions."""
    fields = config_fields(VQVAEConfig, settings) | label | {"out_conv": False}
    if settings.network == "vit":
        return VQVAEConfig.small(*encoder, settings.decoder_depth, **fields)
    depths = {"enc": settings.encoder_depth, "dec": settings.decoder_depth}
    patch = settings.patch_size or 1
    sizes = {
        f"convnext_{settings.dim}x{depth}_{part}": ConvNeXtSize.of_patch(patch, settings.dim, depth)
        for part, depth in depths.items()
    }
    enc_type, dec_type = sizes
    return VQVAEConfig(enc_type=enc_type, dec_type=dec_type, sizes=sizes, **fields | {"post_mlp": False})


def _diffusion(settings: TokenizerSettings, encoder: tuple[int, int, int], label: dict[str, Any]) -> DiVAEConfig:
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
        dec_transformer_dropout=0.0,
        **config_fields(DiVAEConfig, settings),
        **label,
    )
