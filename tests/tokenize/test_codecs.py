"""Grids: many crops go through the encoder together, and what is wrong with one sample is that one's alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fourmill.modalities import spec
from fourmill.tokenize import tokenizer
from fourmill.tokenize.codecs import FittedTokenizer, Grid, Labelled, Options
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig


def test_uncodable_sample_is_rejected_alone(tmp_path: Path) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "codebook_size": 16, "latent_dim": 4}
    model = VQVAE(VQVAEConfig.small(16, 1, 2, n_channels=3, patch_proj=False, **sizes))
    tokenizer.save(model, tmp_path / "tok_clip", {})
    tok_clip = spec("tok_clip", vocab_size=16, image_size=32, patch_size=8)
    grid = Grid(
        tok_clip,
        Options(seed=0, image_size=32, crops=1),
        FittedTokenizer("tok_clip", str(tmp_path / "tok_clip"), "cpu"),
    )
    values = [np.random.default_rng(i).normal(size=(4, 4, 3)).astype(np.float32) for i in range(4)]
    crop = [Crop(0, 0, 32, 32)]
    alone = [grid.encode([Labelled(str(i), value, crop, (32, 32))])[0] for i, value in enumerate(values)]
    values[1] = np.full((4, 4, 3), 1e6, np.float32)  # beyond float16
    values[2] = np.ones((4, 4, 5), np.float32)  # of another model
    rows = grid.encode([Labelled(str(i), value, crop, (32, 32)) for i, value in enumerate(values)])
    assert np.array_equal(rows[0], alone[0]) and np.array_equal(rows[3], alone[3]) and rows[0].shape == (1, 16)
    assert isinstance(rows[1], ValueError) and "beyond 65504" in str(rows[1])
    assert isinstance(rows[2], ValueError) and "(1, 5, 4, 4)" in str(rows[2]) and "3 channels" in str(rows[2])
