"""Fits on CPUs: in which precision, and whether they would ever end. Nothing is loaded and nothing is measured."""

from __future__ import annotations

from ...modalities import TOKENIZERS, Form, height_width
from ...tokenize.settings import PICTURES, TokenizerSettings

CORE_FLOPS = 4e10  # FLOP/s of float32 training on one core that no CPU has sustained so far
LONGEST = 14  # days of a fit that one would wait for
_DAY = 86_400


def on(device: str, settings: TokenizerSettings) -> TokenizerSettings:
    """The settings as a device computes them: CPUs multiply float16 some hundred times more slowly than float32."""
    slow = device.startswith("cpu") and settings.precision == "fp16"
    return settings.model_copy(update={"precision": "fp32"}) if slow else settings


def days(name: str, settings: TokenizerSettings, image_size: int, cores: float) -> float:
    """Days that a fit takes at least; 0 of a finished tokenizer, and of a table.

    Args:
        settings: with `patch_size`, see `Recipe.tokenizer`.
        image_size: pixels along a side of a crop.
    """
    if settings.weights is not None or TOKENIZERS[name].is_table:
        return 0.0
    samples = settings.total_steps * settings.batch_size
    return 3 * samples * _forward(name, settings, image_size) / (cores * CORE_FLOPS) / _DAY


def size_of(name: str, settings: TokenizerSettings) -> str:
    """What makes a fit long, for people."""
    decoder = f", decoder: {settings.decoder}" if TOKENIZERS[name].form in PICTURES else ""
    return f"{settings.total_steps:,} steps of {settings.batch_size}, dim: {settings.dim}{decoder}"


ADVICE = (
    "published models were fitted so, on GPUs (fit.gpus=1); for CPUs give tokenizers.common what `fourmill "
    "init` writes there: {decoder: vit, dim: 128, heads: 4, encoder_depth: 1, decoder_depth: 2, codebook_size: 2048, "
    "warm_start: true, out_conv: false, norm_latents: true, loss: mse, ema_decay: 0.95, dead_code_coefficient: 8, "
    "average: 0.9, steps: 400, batch_size: 8, base_lr: 9.6e-2, precision: fp32}"
)


def _forward(name: str, settings: TokenizerSettings, image_size: int) -> float:
    """Operations of one sample's forward pass, at least: the products of its blocks."""
    entry = TOKENIZERS[name]
    if entry.form is Form.VECTOR:
        return 0.0  # of a few tokens
    height, width = height_width(entry.image_size or image_size)
    patch = settings.patch_size or 1
    of_series = -(-entry.length // patch) if entry.length else entry.tokens
    tokens = of_series if entry.form is Form.SERIES else (height // patch) * (width // patch)
    depth = settings.encoder_depth + (settings.decoder_depth if settings.decoder == "vit" else 0)
    convolutions = _unet(settings, height * width) if settings.decoder == "unet" else 0.0
    return 2 * 12 * settings.dim**2 * tokens * depth + convolutions


def _unet(settings: TokenizerSettings, pixels: int) -> float:
    """Of the convolutions of a patched UNet: two of each block, those on the way up of twice the width and its own."""
    places, total = pixels / settings.decoder_patch_size**2, 0.0
    for multiplier in settings.unet_multipliers:
        products = 9 * (settings.unet_channels * multiplier) ** 2 * places
        total += 2 * products * (2 * settings.unet_blocks + 3 * (settings.unet_blocks + 1))
        places /= 4
    return total
