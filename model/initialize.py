"""Initial weights of 4M, after MAE (He et al. 2022) as apple/ml-4m applies it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .fourm import FourM

STD = 0.02


@torch.no_grad()
def initialize(model: FourM) -> None:
    """Fill all parameters: Xavier for matrices, N(0, 0.02) for tables, 1 and 0 for norms and biases.

    Queries, keys and values are separate matrices to Xavier, though they are stored as one. Heads are matrices
    too, each modality's on its own; where they are tied to the decoder's token embeddings, the head's values win.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if name.endswith("qkv") else 2 if name.endswith("kv") else 1
            _xavier(module.weight, parts)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for table in (
        model.encoder_embeddings.tokens,
        model.encoder_embeddings.learned_positions,
        model.decoder_embeddings.tokens,
        model.decoder_embeddings.learned_positions,
        model.modality_table,
        model.decoder_modality_table,
        model.mask_token,
        model.register_tokens,
    ):
        if table is not None:
            nn.init.normal_(table, std=STD)
    for name in model.config.outputs:
        _xavier(model.head(name), parts=1)


def _xavier(weight: Tensor, parts: int) -> None:
    fan_out, fan_in = weight.shape
    limit = math.sqrt(6 / (fan_out // parts + fan_in))
    nn.init.uniform_(weight, -limit, limit)
