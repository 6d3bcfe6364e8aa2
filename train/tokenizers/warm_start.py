"""A warm start for small VQ-VAE fits: begin as principal components of patches rather than as noise.

A randomly initialized ViT tokenizer codes positions and noise at first, and needs thousands of steps to find the mean
colours of patches. Started here, it is a working linear tokenizer before its first step, and training only improves it.
On crops of photos at 32 px, 64 codes and 100 steps this was worth 2 dB. Not in 4M, whose fits are long.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ...tokenize.networks.quantize import is_distributed
from ...tokenize.networks.vit import ViTDecoder, ViTEncoder
from ...tokenize.networks.vqvae import VQVAE, VQConfig

# Fixed positions weigh as much as pixels in an untrained encoder: contents first.
_POSITION_SCALE = 0.1
# What keeps a random value: enough for the other channels to start learning, too little to drown the components.
_NOISE_SCALE = 0.3


@torch.no_grad()
def warm_start(model: VQVAE, x: torch.Tensor) -> None:
    """Sets the weights of an untrained model in place so that it codes and decodes the L - 1 first components.

    A latent is (components / s, 1) with s the deviation of the first component: a cosine codebook sees only directions,
    and the constant turns brightness and contrast into a direction. Residual branches start at zero. Under
    torch.distributed all ranks take rank 0's weights.

    Args:
        model: one that can, see `cannot_warm_start` (ValueError otherwise).
        x: (B, C, H, W), one batch as `VQVAE.encode` takes it. FloatingPointError if a value is not finite.
    """
    config, encoder, decoder = model.config, model.encoder, model.decoder
    assert isinstance(encoder, ViTEncoder) and isinstance(decoder, ViTDecoder)
    latent, patch = config.latent_dim, encoder.patch_size
    if why := cannot_warm_start(config):
        raise ValueError(f"warm start: {why}; switch warm_start off")
    patches = F.unfold(x.to(encoder.proj.weight.dtype), patch, stride=patch).transpose(1, 2).flatten(0, 1)
    if not patches.isfinite().all():
        raise FloatingPointError("warm start: the first batch holds values that are not finite; check the labels")
    mean, components, scale = _principal_components(patches, latent - 1)
    coordinates = (patches - mean) @ components / scale
    length = (1 + coordinates.square().sum(1)).sqrt().mean()

    # The encoder's first layer is the projection on the components, and everything behind it lets them through.
    for vit in (encoder, decoder):
        vit.pos_emb.mul_(_POSITION_SCALE)
        _silence_residuals(vit)
    project = encoder.proj.weight.view(encoder.proj.weight.shape[0], -1).mul_(_NOISE_SCALE)
    project[:latent] = 0
    project[: latent - 1] = components.t() / scale
    for linear in (encoder.proj, model.quant_proj, model.post_quant_proj):
        assert linear.bias is not None
        linear.bias.zero_()
    assert encoder.proj.bias is not None
    encoder.proj.bias[: latent - 1] = -(components.t() @ mean) / scale
    encoder.proj.bias[latent - 1] = 1
    model.quant_proj.weight.zero_()
    model.quant_proj.weight[:, :latent, 0, 0] = torch.eye(latent)
    model.post_quant_proj.weight.mul_(_NOISE_SCALE)
    model.post_quant_proj.weight[:latent, :, 0, 0] = torch.eye(latent)
    decoder.out_proj.weight.zero_()
    # Codes have unit length; latents had `length` on average.
    decoder.out_proj.weight[:, : latent - 1] = components * scale * length
    decoder.out_proj.bias.copy_(mean)
    # Ranks see other first batches, and so find other components.
    if is_distributed():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def cannot_warm_start(config: VQConfig) -> str:
    """Why a tokenizer of ViTs cannot begin as principal components, "" if it can."""
    latent, values = config.latent_dim, config.n_channels * (config.patch_size**2 if config.patch_proj else 1)
    width = min(config.size("enc").dim_tokens, config.size("dec").dim_tokens)
    if not config.n_labels and 2 <= latent <= min(width, values):
        return ""
    return (
        f"got latent_dim {latent}, tokens of width {width}, patches of {values} values, n_labels {config.n_labels}; "
        "expected 2 <= latent_dim <= width and values, and no labels"
    )


def _principal_components(patches: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (V,), the first components as columns (V, count), and the deviation along the first one ()."""
    mean = patches.mean(0)
    # In float64, and by the covariance, which has 768 rows for patches of 16 px however many patches there are.
    covariance = torch.cov(patches.t().double())
    variances, directions = torch.linalg.eigh(covariance)
    components = directions.flip(1)[:, :count].to(patches.dtype)
    # The sign of an eigenvector is arbitrary and differs between machines: its largest entry becomes positive.
    largest = components.abs().argmax(0)
    signs = components.gather(0, largest[None]).sign()
    return mean, components * signs, variances[-1].clamp(min=1e-6).sqrt().to(patches.dtype)


def _silence_residuals(vit: nn.Module) -> None:
    """Last layers of all residual branches to zero: the blocks begin as the identity."""
    for name, module in vit.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("attn.proj", "mlp.fc2")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
