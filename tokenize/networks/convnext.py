"""ConvNeXt V2 in one dimension (arXiv 2301.00808): encoder and decoder of series and spectra, as AION-1 has them.

Legend: B batch, C channels, L samples along a series, n tokens, D width of a token.

A stage has blocks of one width, between stages the series gets shorter by a convolution of its own stride (a token then
covers as many samples as the product of strides), in the decoder longer again. Maps have a height of 1, so that
quantizers and projections are those of pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .stages import ConvNeXtSize

_EPS = 1e-6
_DEVIATION = 0.02  # of initial weights


class Block(nn.Module):
    """Depthwise convolution of 7 samples, MLP with global response normalization; (B, D, n) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.scale = nn.Parameter(torch.zeros(4 * width))
        self.shift = nn.Parameter(torch.zeros(4 * width))
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.pwconv1(self.norm(self.dwconv(x).transpose(1, 2))))
        # How strong a channel is along the series, relative to the mean channel.
        strength = hidden.norm(dim=1, keepdim=True)
        relative = strength / (strength.mean(2, keepdim=True) + _EPS)
        hidden = hidden + self.scale * (hidden * relative) + self.shift
        return x + self.pwconv2(hidden).transpose(1, 2)


class Norm(nn.LayerNorm):
    """LayerNorm over the channels of (B, D, ...)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtEncoder(nn.Module):
    """Series (B, C, 1, L) to token features (B, D, 1, n)."""

    def __init__(self, size: ConvNeXtSize, channels: int) -> None:
        super().__init__()
        self.size, layers, width = size, list[nn.Module](), channels
        for i, (out, depth, stride) in enumerate(zip(size.widths, size.depths, size.strides, strict=True)):
            # A norm on either side of a convolution: samples themselves are not normalized, they are standardized.
            layers += [Norm(width, eps=_EPS)] if i else []
            layers += [nn.Conv1d(width, out, stride, stride), *([] if i else [Norm(out, eps=_EPS)])]
            layers += [Block(out) for _ in range(depth)]
            width = out
        self.layers = nn.Sequential(*layers, Norm(width, eps=_EPS))
        _initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % self.size.patch:
            raise ValueError(f"got a series of {x.shape[-1]} samples; expected a multiple of {self.size.patch}")
        features: torch.Tensor = self.layers(x.squeeze(2))
        return features.unsqueeze(2)


class ConvNeXtDecoder(nn.Module):
    """Token features (B, D, 1, n) to series (B, C, 1, L): the encoder's stages, backwards."""

    def __init__(self, size: ConvNeXtSize, channels: int) -> None:
        super().__init__()
        self.size, layers = size, list[nn.Module]()
        outs = (channels, *size.widths[:-1])
        for width, depth, stride, out in reversed(list(zip(size.widths, size.depths, size.strides, outs, strict=True))):
            layers += [*(Block(width) for _ in range(depth)), Norm(width, eps=_EPS)]
            layers.append(nn.ConvTranspose1d(width, out, stride, stride))
        self.layers = nn.Sequential(*layers)
        _initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        series: torch.Tensor = self.layers(x.squeeze(2))
        return series.unsqueeze(2)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
