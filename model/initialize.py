"""Initial weights of 4M, after MAE (He et al. 2022) as apple/ml-4m applies it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STD = 0.02  # of embedding tables


@torch.no_grad()
def fill_layers(model: nn.Module) -> None:
    """Xavier for the weights of all linear layers, 1 and 0 for norms, 0 for biases."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Queries, keys and values are one layer here, and three (or two) matrices to Xavier.
            parts = 3 if name.endswith("qkv") else 2 if name.endswith("kv") else 1
            xavier(module.weight, parts)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


@torch.no_grad()
def fill_table(table: Tensor) -> None:
    """N(0, 0.02), for embeddings of tokens, positions and modalities."""
    nn.init.normal_(table, std=STD)


@torch.no_grad()
def xavier(weight: Tensor, parts: int = 1) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)); `parts` matrices of one size lie in the rows of `weight` (O, I)."""
    fan_out, fan_in = weight.shape
    limit = math.sqrt(6 / (fan_out // parts + fan_in))
    nn.init.uniform_(weight, -limit, limit)
