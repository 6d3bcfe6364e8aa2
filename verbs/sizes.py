"""Which sizes suit a dataset and a machine: what `init` writes for tokenizers, model, steps and workers.

The largest model is taken that has enough samples to learn from and sees each of them EPOCHS times within a day; the
papers' own sizes are in recipes/. Everything is a pure function of the number of samples and the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .machines import GIB, Machine

EPOCHS = 20
LEAST_SEEN = 5_600  # samples, repeated: with fewer a model of the smallest size has learnt nothing yet
TRAIN_SECONDS, FIT_SECONDS = 24 * 3600, 12 * 3600
TOKENS = 196  # of a grid, 14 x 14
BUDGET = 128  # input tokens and target tokens of a sample
# Bytes that the backward pass needs of a block, for each token and channel: 17 float32 numbers (24 with
# cross-attention). Measured: 20.5 GB for 256 samples of 196 tokens through 16 blocks 384 wide.
BLOCK_BYTES, CROSS_BLOCK_BYTES = 70, 95


@dataclass(frozen=True)
class ModelSize:
    """Of the 4M transformer. samples: least number that it is worth training on. lr: highest learning rate."""

    dim: int
    encoder_depth: int
    decoder_depth: int
    heads: int
    samples: int
    lr: float

    @property
    def sample_flops(self) -> float:
        """Forward and backward of one sample, without heads: see train/flops.py."""
        blocks = 12 * self.encoder_depth + 16 * self.decoder_depth
        return 3.0 * 2 * BUDGET * self.dim**2 * blocks

    @property
    def sample_bytes(self) -> float:
        return BUDGET * self.dim * (BLOCK_BYTES * self.encoder_depth + CROSS_BLOCK_BYTES * self.decoder_depth)


@dataclass(frozen=True)
class TokenizerSize:
    """Of a VQ-VAE with a ViT decoder. samples: least number of photos that it is worth fitting on."""

    dim: int
    encoder_depth: int
    decoder_depth: int
    heads: int
    codebook_size: int
    samples: int
    steps: int
    batch_size: int
    lr: float
    short: bool  # fitted in minutes: begins as principal components, with a codebook that follows quickly

    @property
    def sample_flops(self) -> float:
        return 3.0 * 2 * TOKENS * 12 * self.dim**2 * (self.encoder_depth + self.decoder_depth)

    @property
    def sample_bytes(self) -> float:
        return TOKENS * self.dim * BLOCK_BYTES * (self.encoder_depth + self.decoder_depth)


MODELS = (
    ModelSize(128, 3, 2, 4, 0, 2e-3),  # the demo's
    ModelSize(256, 4, 4, 4, 5_000, 1e-3),
    ModelSize(384, 6, 6, 6, 50_000, 5e-4),  # 4M-Ti
    ModelSize(768, 12, 12, 12, 1_000_000, 2e-4),  # 4M-B
    ModelSize(1024, 24, 24, 16, 30_000_000, 1e-4),  # 4M-L
)
TOKENIZERS = (
    TokenizerSize(128, 1, 2, 4, 2_048, 0, 400, 8, 3e-3, True),  # the demo's
    TokenizerSize(256, 4, 4, 4, 4_096, 20_000, 10_000, 32, 1e-3, True),
    TokenizerSize(384, 8, 8, 6, 8_192, 100_000, 50_000, 256, 1e-4, False),
    TokenizerSize(768, 12, 12, 12, 16_384, 5_000_000, 200_000, 256, 1e-4, False),  # ViT-B, as 4M's
)


@dataclass(frozen=True)
class Sizes:
    """What `init` writes into a recipe; names are those of its fields."""

    image_size: int
    patch_size: int
    vocab_size: int
    tokenizer: TokenizerSize
    fit_steps: int
    fit_batch: int
    fit_accumulate: int
    fit_samples: int
    fit_workers: int
    fit_precision: str
    model: ModelSize
    batch_size: int
    steps: int
    accumulate: int
    train_workers: int
    validation_samples: int
    gpus: int  # of each worker


def choose(samples: int, machine: Machine, grids: int = 2) -> Sizes:
    """Sizes for so many training samples on a machine.

    Args:
        grids: tokenizers that are fitted.
    """
    gpus = 1 if machine.gpu else 0
    image_size, patch_size = (224, 16) if gpus else (112, 8)
    workers = max(1, min(grids, machine.gpus if gpus else machine.cores))
    memory = machine.worker_memory / (1 if gpus else workers)
    tokenizer = _largest(
        TOKENIZERS, samples, machine.flops * FIT_SECONDS / grids, lambda t: t.sample_flops * t.steps * t.batch_size
    )
    fit_batch, fit_accumulate = _within(memory, tokenizer.batch_size, tokenizer.sample_bytes)
    # Crops wait in a file that the page cache holds: three bytes a pixel of colours, one of edges.
    cached = max(1_000, int(machine.memory / 4 * GIB / (4 * image_size**2)))
    fit_samples = min(3_000 if tokenizer.short else 100_000, cached)
    seconds = machine.flops * TRAIN_SECONDS
    model = _largest(MODELS, samples, seconds, lambda m: m.sample_flops * EPOCHS * samples)
    seen = min(max(LEAST_SEEN, EPOCHS * samples), max(LEAST_SEEN, seconds / model.sample_flops))
    batch = min(256, max(8, _power_of_two(seen / 500)))
    trainers = min(_power_of_two(machine.gpus), batch // 8) if gpus else 1  # fewer samples than 8 do not fill a GPU
    per_worker, accumulate = _within(machine.worker_memory, batch // trainers, model.sample_bytes)
    return Sizes(
        image_size=image_size,
        patch_size=patch_size,
        vocab_size=6_000 if samples < 20_000 else 30_000,
        tokenizer=tokenizer,
        fit_steps=min(3_000, max(tokenizer.steps, samples // 4)) if tokenizer is TOKENIZERS[0] else tokenizer.steps,
        fit_batch=fit_batch * fit_accumulate,
        fit_accumulate=fit_accumulate,
        fit_samples=fit_samples,
        fit_workers=workers,
        fit_precision="bf16" if machine.gpu and machine.gpu.bf16 and not tokenizer.short else "fp32",
        model=model,
        batch_size=per_worker * accumulate * trainers,
        steps=math.ceil(seen / batch),
        accumulate=accumulate,
        train_workers=trainers,
        validation_samples=1_024 if gpus else 128,
        gpus=gpus,
    )


Size = TypeVar("Size", ModelSize, TokenizerSize)


def _largest(sizes: Sequence[Size], samples: int, flops: float, needed: Callable[[Size], float]) -> Size:
    """The largest of `sizes` that has enough samples and needs no more than `flops`; the smallest if none does."""
    fitting = [size for size in sizes if size.samples <= samples and needed(size) <= flops]
    return fitting[-1] if fitting else sizes[0]


def _within(memory: float, batch: int, sample_bytes: float) -> tuple[int, int]:
    """(samples of a micro-batch, micro-batches) whose activations take at most 60 % of `memory` GiB."""
    accumulate = 1
    while batch > 1 and batch * sample_bytes > 0.6 * memory * GIB:
        batch, accumulate = batch // 2, accumulate * 2
    return batch, accumulate


def _power_of_two(value: float) -> int:
    """The largest power of two that is not above `value`, at least 1."""
    return 2 ** max(0, math.floor(math.log2(max(value, 1))))
