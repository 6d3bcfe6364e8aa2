"""How much arithmetic a training step takes, for the share of the device's peak that is used (MFU).

Only matrix products count, two operations for each multiply-add: projections, attention over all pairs (masked ones
too), and heads for the valid targets. Tokens count by budget, padding included, or without it (`useful_flops`); zeros
that fill up a hidden width, products that are computed again and pixels that no input shows do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..model.batch import PackedBatch
    from ..model.config import FourMConfig

# Dense bfloat16 peak of one device in FLOP/s (data sheets); the first name that the device's name holds.
PEAK_FLOPS: dict[str, float] = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
    "MI250X": 383e12,
}


def peak_flops(device_name: str) -> float | None:
    """The peak of a device by the name that CUDA gives it; None if it is not in the table."""
    # As a whole word: "L4" must not match an L40. The A10G is an A10 of a cloud with the same peak.
    return next((peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}G?\b", device_name)), None)


class Lengths(NamedTuple):
    """How long samples are, as sums over them: n inputs with registers, m targets, and their products."""

    samples: float = 0
    n: float = 0
    m: float = 0
    nn: float = 0
    mm: float = 0
    mn: float = 0

    @classmethod
    def same(cls, samples: float, n: float, m: float) -> Lengths:
        """Of samples that are all as long."""
        return cls(samples, *(samples * x for x in (n, m, n * n, m * m, m * n)))

    @classmethod
    def of(cls, batch: PackedBatch, registers: int = 0) -> Lengths:
        """Of a NumPy batch, without padding."""
        import numpy as np  # plan, which counts operations, does without

        n, m = (np.asarray(valid).sum(1).astype(float) for valid in (batch.input_valid, batch.target_valid))
        n += registers
        return cls(float(len(n)), *(float(x) for x in (n.sum(), m.sum(), n @ n, m @ m, m @ n)))

    @classmethod
    def total(cls, parts: Iterable[Lengths]) -> Lengths:
        return cls(*(sum(values) for values in zip(*parts, strict=True)))


def step_flops(config: FourMConfig, samples: int, inputs: int, targets: int, predicted: Mapping[str, float]) -> float:
    """Operations of one optimizer step, forward and backward.

    Args:
        samples: of the batch, over all workers.
        inputs, targets: token budgets of a sample.
        predicted: modality -> valid targets in the batch.
    """
    return useful_flops(config, Lengths.same(samples, inputs + config.num_register_tokens, targets), predicted)


def useful_flops(config: FourMConfig, lengths: Lengths, predicted: Mapping[str, float]) -> float:
    """As `step_flops`, of samples of these lengths."""
    # Backward: one product for the gradient of the inputs, one for that of the weights. What activation checkpointing
    # computes again does not count: this is MFU, not HFU (PaLM, appendix B).
    return 3 * _forward(config, lengths, predicted)


def forward_flops(
    config: FourMConfig, samples: int, inputs: int, targets: int, predicted: Mapping[str, float]
) -> float:
    """Operations of the forward pass; see `step_flops`."""
    return _forward(config, Lengths.same(samples, inputs + config.num_register_tokens, targets), predicted)


def _forward(config: FourMConfig, lengths: Lengths, predicted: Mapping[str, float]) -> float:
    samples, n, m, nn, mm, mn = lengths
    d = config.dim
    # Of one token: 4 projections d x d are 8 d^2 operations; a gated MLP has 3 matrices, another one 2.
    mlp = 2 * (3 if config.gated_mlp else 2) * d * config.mlp_hidden
    encoder = n * (8 * d * d + mlp) + 4 * nn * d
    self_attention = m * 8 * d * d + 4 * mm * d
    # Queries and outputs are of the m targets, keys and values of the n inputs.
    cross_attention = m * 4 * d * d + n * 4 * d * d + 4 * mn * d
    decoder = self_attention + cross_attention + m * mlp
    projections = sum(
        2 * spec.max_tokens * spec.input_dim * d
        for spec in config.modalities
        if spec.name in config.inputs and not spec.is_target
    )
    body = config.encoder_depth * encoder + config.decoder_depth * decoder + n * 2 * d * d + samples * projections
    # A head runs on the valid targets of its modality alone, so that this part varies from batch to batch.
    heads = sum(2 * count * d * config.spec(name).vocab_size for name, count in predicted.items())
    return body + heads
