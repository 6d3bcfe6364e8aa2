"""Tokenizers that are a table and no network: statistics of pixels, and quantiles of numbers.

A number is one token: the id of the interval between two quantiles that it lies in. Each number of a vector has a table
of its own, of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ..sensors.statistics import Statistics


class TableConfig(BaseModel):
    """Settings of a table, as they are in its config.json.

    codebook_size: codes of each number; 0 of the statistics of pixels, which make no tokens.
    num_codebooks: numbers of a vector. n_channels: bands, or numbers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    table: Literal["quantiles", "statistics"]
    codebook_size: int = Field(0, ge=0, le=2**16)
    num_codebooks: int = Field(1, gt=0)
    n_channels: int = Field(1, gt=0)
    statistics: Statistics
    frame: None = None


class Table(nn.Module):
    """Buffers `edges`, float64 (numbers, codes + 1), rising, after the transform of the statistics; and `centres`,
    (numbers, codes), the median of each interval.
    """

    edges: torch.Tensor
    centres: torch.Tensor

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.config = config
        numbers, codes = config.num_codebooks, config.codebook_size
        self.register_buffer("edges", torch.zeros(numbers, codes + 1, dtype=torch.float64))
        self.register_buffer("centres", torch.zeros(numbers, codes, dtype=torch.float64))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers (n, numbers) in their unit to ids, int64 of the same shape. What lies beyond all that was seen has
        the first or last id. ValueError for a number that is missing.
        """
        values = self.config.statistics.transformed(x)
        if not values.isfinite().all():
            raise ValueError("a number is missing, or has no logarithm")
        inner = self.edges[:, 1:-1].contiguous()
        return torch.searchsorted(inner, values.t().contiguous(), right=True).t().contiguous()

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (n, numbers) to the median of their intervals, float32 in the unit of the numbers."""
        found = self.centres.gather(1, ids.view(len(ids), -1).t().long()).t()
        return self.config.statistics.untransformed(found).float()


def quantiles(
    config: TableConfig, rows: np.ndarray, ranges: Sequence[tuple[float, float] | None] | None = None
) -> Table:
    """The table of training rows (n, numbers).

    Args:
        ranges: of numbers whose intervals are equal parts of a range, in their unit; None for those by quantiles.
    """
    table = Table(config)
    values = config.statistics.transformed(torch.from_numpy(np.array(rows, np.float64))).numpy()
    shares = np.linspace(0, 1, config.codebook_size + 1)
    for number in range(config.num_codebooks):
        known = np.sort(values[:, number][np.isfinite(values[:, number])])
        edges = np.quantile(known, shares)
        if ranges is not None and (ends := ranges[number]) is not None:
            edges = config.statistics.transformed(torch.linspace(*ends, len(shares), dtype=torch.float64)).numpy()
            known = known[(known >= edges[0]) & (known <= edges[-1])]
        table.edges[number] = torch.from_numpy(edges)
        table.centres[number] = torch.from_numpy(_medians(known, edges))
    return table


def _medians(known: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The median of the sorted values of each interval; its middle if there are none."""
    places = np.searchsorted(edges[1:-1], known, side="right")
    begins = np.searchsorted(places, np.arange(len(edges)))
    middle = (edges[:-1] + edges[1:]) / 2
    for code in range(len(middle)):
        inside = known[begins[code] : begins[code + 1]]
        if len(inside):
            middle[code] = np.median(inside)
    return middle
