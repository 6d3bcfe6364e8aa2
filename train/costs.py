"""What training takes: operations, memory, and how fast this machine does them, before anything is trained.

Operations and the tensors that the backward pass needs are counted on one sample that really passes through the model;
4M's operations follow from its sizes (flops.py). Throughput is measured in half a second on blocks of the model's
width: a small model reaches a tenth of what a large one does on the same cores. It is taken of the time that the cores
worked, so that what else runs at the moment does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..modalities import TOKENIZERS, Form, height_width
from ..model.blocks import DecoderBlock, EncoderBlock
from ..model.config import FourMConfig
from ..model.fourm import FourM
from ..tokenize.settings import CHANNELS, TokenizerSettings
from .flops import forward_flops
from .settings import Train
from .tokenizers import build

PROCESS_BYTES = 0.7 * 2**30  # a worker with torch and its loader, before it has a model
MEASURED_SECONDS = 0.5
MEASURED_FLOPS = 5e9  # of one timed pass, at most: a fifth of a second on two idle cores
_FEATURE_CHANNELS = 768  # of a label whose width is known when it comes


@dataclass(frozen=True)
class Cost:
    """Of a model in training.

    Attributes:
        parameters: how many.
        flops: of one sample, forward and backward.
        bytes: that one sample's backward pass needs, in float32.
        state_bytes: of each parameter: weight, gradient, two moments, and averages if there are any.
    """

    parameters: int
    flops: float
    bytes: float
    state_bytes: int

    def memory(self, samples: int, narrow: bool = False) -> float:
        """Bytes of a worker that has so many samples at a time; `narrow` for 16-bit activations."""
        activations = samples * self.bytes * (0.5 if narrow else 1.0)
        return PROCESS_BYTES + self.parameters * self.state_bytes + activations


def of_tokenizer(name: str, settings: TokenizerSettings, image_size: int, n_labels: int = 0) -> tuple[Cost, float]:
    """A tokenizer's cost, and the FLOP/s that this machine reached on it.

    Args:
        settings: with `codebook_size` and `patch_size`.
        image_size: pixels along a side of a crop.
        n_labels: classes of a class map, see `build.model`.
    """
    x = example(name, settings, image_size)
    row: tuple[int, ...] = (x.shape[-1],) if x.ndim == 2 else (*x.shape[-2:], x.shape[1] if x.ndim == 4 else 1)
    if TOKENIZERS[name].form is Form.SERIES:
        row = (x.shape[2], x.shape[1])
    model = build.model(name, settings, image_size, row, n_labels=n_labels).train()

    def step(x: Tensor) -> Tensor:
        result = model.step(x, generator=torch.Generator().manual_seed(0))
        return result.prediction.float().mean() + result.commitment

    with FlopCounterMode(display=False) as counter:
        saved = _saved_bytes(model, lambda: step(x))
    flops = float(counter.get_total_flops())
    cost = Cost(_count(model), flops, saved, 20 if settings.average else 16)
    samples = max(1, min(settings.batch_size, int(MEASURED_FLOPS / flops)))
    return cost, flops * samples / _seconds(lambda: step(x.expand(samples, *x.shape[1:])))


def example(name: str, settings: TokenizerSettings, image_size: int) -> Tensor:
    """One input of a tokenizer, of zeros."""
    entry = TOKENIZERS[name]
    sides = height_width(entry.image_size or image_size)
    channels = entry.channels or _FEATURE_CHANNELS
    if entry.form is Form.VECTOR:
        return torch.zeros(1, channels)
    if entry.form is Form.SERIES:
        return torch.zeros(1, channels, entry.length or entry.tokens * (settings.patch_size or 1))
    if entry.form is Form.CLASSES:
        return torch.zeros(1, *sides, dtype=torch.long)
    if entry.form is Form.FEATURES:
        cells = image_size // (settings.patch_size or 1)
        return torch.zeros(1, channels, cells, cells)
    return torch.zeros(1, CHANNELS.get(entry.form) or channels, *sides)


def of_transformer(config: FourMConfig, train: Train) -> tuple[Cost, float]:
    """4M's cost at the budgets of `train`, and the FLOP/s that this machine reached on its blocks."""
    inputs, targets = train.budgets
    blocks = nn.ModuleList([EncoderBlock(config), DecoderBlock(config)])
    for parameter in blocks.parameters():
        nn.init.normal_(parameter, std=0.02)

    def encode(samples: int) -> Tensor:
        y: Tensor = blocks[0](torch.zeros(samples, inputs, config.dim, requires_grad=True), None)
        return y.mean()

    def decode(samples: int) -> Tensor:
        queries, context = (torch.zeros(samples, n, config.dim, requires_grad=True) for n in (targets, inputs))
        y: Tensor = blocks[1](queries, context, None, None)
        return y.mean()

    saved = _saved_bytes(blocks, lambda: encode(1)), _saved_bytes(blocks, lambda: decode(1))
    # Logits and their gradient, of one modality after the other.
    vocabulary = max((spec.vocab_size for spec in config.modalities), default=0)
    bytes_ = config.encoder_depth * saved[0] + config.decoder_depth * saved[1] + 8 * targets * vocabulary
    with torch.device("meta"):
        parameters = _count(FourM(config))
    cost = Cost(parameters, 3 * _forward(config, inputs, targets), bytes_, 20 if train.ema else 16)
    pair = 3 * (_forward(config, inputs, targets, heads=False) / max(config.encoder_depth, config.decoder_depth))
    samples = max(1, min(train.batch_size, int(MEASURED_FLOPS / pair)))
    return cost, pair * samples / _seconds(lambda: encode(samples) + decode(samples))


def _forward(config: FourMConfig, inputs: int, targets: int, heads: bool = True) -> float:
    """Operations of one sample's forward pass; its targets are shared out evenly among the modalities."""
    outputs = config.outputs if heads else ()
    predicted = {name: targets / len(outputs) for name in outputs}
    return forward_flops(config, 1, inputs, targets, predicted)


def _saved_bytes(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Bytes of what one forward pass keeps for the backward pass, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())  # the tensor: its address must not be used again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss().backward()  # type: ignore[no-untyped-call]
    return float(sum(size for _, size in kept.values()))


def _seconds(loss: Callable[[], Tensor]) -> float:
    """Seconds of one forward and backward pass on idle cores: the fastest of those that fit in MEASURED_SECONDS."""
    threads, times = torch.get_num_threads(), list[float]()
    while sum(times) < MEASURED_SECONDS and len(times) < 10:
        start = time.process_time()
        loss().backward()  # type: ignore[no-untyped-call]
        times.append((time.process_time() - start) / threads)
    return min(times)


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
