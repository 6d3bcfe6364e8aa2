"""Position tables against the recorded ones of apple/ml-4m."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import TEMPERATURE, FourMConfig
from fourmill.model.embeddings import Embeddings
from fourmill.model.positions import position_table, sincos_1d, sincos_2d

GOLDEN = Path(__file__).parents[1] / "golden" / "fm_schedules_and_embeddings.npz"


def test_tables_are_those_of_the_reference() -> None:
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(sincos_1d(9, 16), golden["posemb_1d/n9_d16"][0], atol=1e-5)
        np.testing.assert_allclose(sincos_2d(3, 5, 16), golden["posemb_2d/h3_w5_d16"][0], atol=1e-5)


def test_square_grid_is_in_raster_order() -> None:
    """The first half says the row, the second the column."""
    table = position_table(ModalitySpec("tok_rgb", Kind.GRID, 4, 16), 8).view(4, 4, 8)
    assert torch.equal(table[:, :, :4], table[:, :1, :4].expand(-1, 4, -1))
    assert torch.equal(table[:, :, 4:], table[:1, :, 4:].expand(4, -1, -1))
    assert torch.equal(table[:, 0, :4], sincos_1d(4, 4))


def test_sequences_have_at_least_the_published_rows() -> None:
    assert position_table(ModalitySpec("caption", Kind.SEQUENCE, 4, 256), 8).shape == (512, 8)
    assert position_table(ModalitySpec("book", Kind.SEQUENCE, 4, 700), 8).shape == (700, 8)


def test_a_lower_temperature_tells_places_of_small_grids_apart() -> None:
    """Of 4M's waves most are constant over 8 rows: neighbours differ by less, next to what all have in common."""

    def contrast(temperature: float) -> float:
        table = position_table(ModalitySpec("tok_rgb", Kind.GRID, 64, 16), 128, temperature)
        shared = table.mean(0)
        return float(((table - shared).square().sum(1) / shared.square().sum()).mean())

    assert contrast(20.0) > 2 * contrast(TEMPERATURE)


def test_temperature_is_kept_in_configurations() -> None:
    specs = (ModalitySpec("tok_rgb", Kind.GRID, 4, 16),)
    default, other = FourMConfig(specs), FourMConfig(specs, grid_temperature=20.0)
    assert "grid_temperature" not in default.to_dict()
    assert FourMConfig.from_dict(default.to_dict()) == default
    assert FourMConfig.from_dict(other.to_dict()) == other
    assert not torch.equal(Embeddings(default, ("tok_rgb",)).positions, Embeddings(other, ("tok_rgb",)).positions)
