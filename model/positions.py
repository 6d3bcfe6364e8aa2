"""Fixed sine-cosine position tables, as published 4M checkpoints hold them.

Vaswani et al. 2017 for sequences and the 2-D form of MAE for grids, with apple/ml-4m's order of axes and blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..modalities import Kind, ModalitySpec
from .config import TEMPERATURE

# apple/ml-4m cuts its table of 512 rows along the wrong axis, so published checkpoints hold 512 rows for every
# sequence, however short. Longer sequences get as many as they need.
SEQUENCE_ROWS = 512


def sincos_1d(length: int, dim: int) -> Tensor:
    """Positions of a sequence: float32 (length, dim), [sin(n w), cos(n w)] with w_k = 10000^(-2k / dim)."""
    return _waves(torch.arange(length), dim)


def sincos_2d(height: int, width: int, dim: int, temperature: float = TEMPERATURE) -> Tensor:
    """Positions of a grid: float32 (height * width, dim); `dim` is a multiple of 4.

    Row n holds the waves of a = n // height, then those of b = n % height. On square grids in raster order, the only
    ones 4M uses, a is the row and b the column; on others the table is apple/ml-4m's, not a raster.
    """
    n = torch.arange(height * width)
    return torch.cat([_waves(n // height, dim // 2, temperature), _waves(n % height, dim // 2, temperature)], dim=1)


def position_rows(spec: ModalitySpec) -> int:
    """Rows of a modality's position table."""
    if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING):
        return max(SEQUENCE_ROWS, spec.max_tokens)
    return spec.max_tokens


def position_table(spec: ModalitySpec, dim: int, grid_temperature: float = TEMPERATURE) -> Tensor:
    """The fixed table of one modality: float32 (position_rows(spec), dim)."""
    if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING):
        return sincos_1d(position_rows(spec), dim)
    # With height and width exchanged the table of a grid that is no square is in raster order, too.
    rows, columns = spec.grid
    return sincos_2d(columns, rows, dim, grid_temperature)


def _waves(positions: Tensor, dim: int, temperature: float = TEMPERATURE) -> Tensor:
    omega = 1.0 / temperature ** (torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    angles = positions[:, None].float() * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)
