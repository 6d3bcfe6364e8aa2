"""What two ranks do together in the tests of tokenizers; in a module of its own, which they import quickly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fourmill.tokenize.networks.quantize import Codebook
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.settings import TokenizerSettings
from fourmill.train.tokenizers.vq import VQTrainer

from .precision import float64

SIZES = VQVAEConfig.small(16, 1, 2, image_size=16, patch_size=8, codebook_size=16, latent_dim=8)
# Without replaced codes: all ranks take what rank 0 sees, on purpose.
SETTINGS = TokenizerSettings(steps=9, base_lr=3e-3, warmup_steps=2, dead_code_coefficient=0.0, average=0.9)


def latents() -> torch.Tensor:
    """What codes learn from, float64 (40, 4)."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((40, 4)))


def fit(part: slice) -> dict[str, torch.Tensor]:
    """The weights after three steps, each on a part of a batch of 8."""
    random = torch.Generator().manual_seed(0)
    trainer = VQTrainer(VQVAE(SIZES), SETTINGS)
    for _ in range(3):
        trainer.step(torch.rand(8, 3, 16, 16, generator=random)[part] * 2 - 1)
    return trainer.result().state_dict()


def codebooks(part: slice) -> tuple[Codebook, Codebook]:
    """Two codebooks after three updates; codes of the second die and are replaced."""
    books = Codebook(16, 4, 0.9, 0.0, seed=0), Codebook(16, 4, 0.9, 1.0, seed=0)
    for _ in range(3):
        for book in books:
            book.update(latents()[part], book.assign(latents()[part]))
    return books


def work(rank: int, world: int, folder: Path) -> None:
    """Everything that the tests ask of one rank, in one start of the processes: importing PyTorch takes seconds."""
    with float64():
        living, dying = codebooks(slice(rank, None, world))
        np.savez(folder / f"rank{rank}.npz", embed=living.embed, size=living.cluster_size, dying=dying.embed)
        torch.save(fit(slice(rank, None, world)), folder / f"fit{rank}.pt")
