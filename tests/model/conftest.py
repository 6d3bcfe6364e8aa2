"""A tiny model over every kind of modality, and random packed batches for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM

torch.set_num_threads(1)  # on tensors this small, threads only wait for each other

SPECS = (
    ModalitySpec("rgb", Kind.PIXELS, 0, 9, 12),
    ModalitySpec("tok_rgb", Kind.GRID, 30, 9),
    ModalitySpec("caption", Kind.SEQUENCE, 40, 12),
    ModalitySpec("tok_dinov2_global", Kind.GRID, 20, 4, learned_positions=True),
    ModalitySpec("t5_caption", Kind.EMBEDDING, 0, 5, 6),
)


def _random_batch(config: FourMConfig, seed: int, batch: int = 3, inputs: int = 10, targets: int = 8) -> PackedBatch:
    """Valid tokens of random modalities at random positions; targets sorted by modality, causal within each."""
    rng = np.random.default_rng(seed)
    specs = config.modalities
    out = [i for i, s in enumerate(specs) if s.is_target]
    mod = rng.integers(0, len(specs), (batch, inputs))
    target_mod = np.sort(rng.choice(out, (batch, targets)), axis=1)
    sizes = np.array([s.vocab_size or s.max_tokens for s in specs])
    lengths = np.array([s.max_tokens for s in specs])
    grid = np.array([s.kind is Kind.GRID for s in specs])[target_mod]
    return PackedBatch(
        input_ids=rng.integers(0, sizes[mod]).astype(np.int32),
        input_mod=mod.astype(np.int32),
        input_pos=rng.integers(0, lengths[mod]).astype(np.int32),
        input_valid=np.arange(inputs) < rng.integers(1, inputs + 1, (batch, 1)),
        target_ids=rng.integers(0, sizes[target_mod]).astype(np.int32),
        query_ids=np.where(grid, -1, rng.integers(0, sizes[target_mod])).astype(np.int32),
        target_mod=target_mod.astype(np.int32),
        target_pos=rng.integers(0, lengths[target_mod]).astype(np.int32),
        target_end=np.where(grid, targets, np.arange(1, targets + 1)).astype(np.int32),
        target_valid=np.arange(targets) < rng.integers(1, targets + 1, (batch, 1)),
        values={
            s.name: rng.integers(0, 256, (batch, s.max_tokens, s.input_dim)).astype(np.uint8)
            if s.kind is Kind.PIXELS
            else rng.standard_normal((batch, s.max_tokens, s.input_dim)).astype(np.float16)
            for s in specs
            if not s.is_target
        },
        keys=[f"sample{i}" for i in range(batch)],
    )


@pytest.fixture
def random_batch() -> Callable[..., PackedBatch]:
    return _random_batch


@pytest.fixture
def config() -> FourMConfig:
    return FourMConfig(SPECS, dim=16, num_heads=2, encoder_depth=2, decoder_depth=2)


@pytest.fixture
def model(config: FourMConfig) -> FourM:
    torch.manual_seed(0)
    return FourM(config).eval()
