"""How many bytes of a device a stage takes, counted before there is a device.

A step runs on tensors that have shapes and no data: every tensor that it makes is noted when it is made and when it
is dropped, so that the most at once is what an allocator would have given out. Blocks are alike, and samples are alike:
two depths and two batches say what each further block and sample takes. Not counted are what compiled blocks do not
keep (less is taken then), the device's own libraries, and what its allocator loses between tensors; `ROOM` is for
these.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..modalities import MODALITIES, Kind
from ..model.batch import PackedBatch
from ..model.config import FourMConfig
from ..model.fourm import FourM
from ..model.generation.sampling import guide, sample
from ..model.prepare import group_targets
from ..tokenize.settings import TokenizerSettings
from .costs import example
from .downstream.settings import Chain
from .settings import Train, in_bf16
from .tokenizers import build

ROOM = 0.92  # of a device's memory that tensors may take
_SAMPLES = (64, 128)  # so many that logits are not kept, see model/cross_entropy.py
_GATHERED = 3  # blocks of which FSDP holds all parameters at once: the one at work, and those before and after it

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def _is_made_of_others(func: Any) -> bool:
    return bool(func.namespace != "prim" and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE))


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations within have made and that are not dropped yet, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode operations that are made of others come whole.
        if torch.is_inference_mode_enabled() and _is_made_of_others(func):
            with self:
                return func._op_dk(_COMPOSITE, *args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                self._note(x.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        at = storage._cdata
        if at in self._sizes:
            return
        self._sizes[at] = storage.nbytes()
        self.bytes += self._sizes[at]
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, at).atexit = False

    def _drop(self, at: int) -> None:
        self.bytes -= self._sizes.pop(at)


@dataclass(frozen=True)
class Need:
    """Bytes on one device. state: whatever is done. work: of a step with any number of samples. sample: of each."""

    state: float
    work: float
    sample: float

    def bytes(self, samples: int) -> float:
        return self.state + self.work + samples * self.sample

    def fits(self, room: float) -> int:
        """The most samples at a time that so many bytes are enough for; 0 if one is too many."""
        return max(0, int((room - self.state - self.work) // self.sample))


def of_training(config: FourMConfig, train: Train, device: str = "cuda") -> Need:
    """What one worker of a training run takes.

    Args:
        device: kind of its device, which says in what precision "auto" computes.
    """
    # A run of one block a side, and of two.
    peaks = {(d, n): _peak(config, train, d, n, device) for d in (1, 2) for n in _SAMPLES}
    few, many = _SAMPLES
    sample = {d: (peaks[d, many] - peaks[d, few]) / (many - few) for d in (1, 2)}
    work = {d: peaks[d, few] - few * sample[d] for d in (1, 2)}
    depth = max(config.encoder_depth, config.decoder_depth)

    def grown(of: dict[int, float]) -> float:
        return of[1] + (of[2] - of[1]) * (depth - 1)

    return Need(_state(config, train), max(0.0, grown(work)), grown(sample))


def _peak(config: FourMConfig, train: Train, depth: int, samples: int, device: str) -> int:
    """Most bytes at once beyond parameters and their gradients, of a step of a model with so many blocks a side."""
    batch = _batch(config, samples, *train.budgets)
    groups = group_targets(batch, len(config.modalities))
    with _shapes():
        model = FourM(replace(config, encoder_depth=depth, decoder_depth=depth)).train()
        model.checkpoint_blocks(train.activation_checkpointing)

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16(train.precision, device)):
                return model(batch.to("cpu"), groups=groups).loss

        return _of_step(list(model.parameters()), loss)


def _of_step(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> int:
    """Most bytes at once of a forward and backward pass, beyond parameters and their gradients."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)  # as DDP's buckets, and from the second micro-batch on
    with Live() as live:
        loss().backward()  # type: ignore[no-untyped-call]
    return live.peak


@contextmanager
def _shapes() -> Iterator[None]:
    """Tensors have no data. They say that they are a CPU's, which can take gradients of them without a driver: what a
    GPU keeps is the same."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def _batch(config: FourMConfig, samples: int, inputs: int, targets: int) -> PackedBatch:
    """A full batch: all inputs of one modality with ids, targets shared out among the outputs."""
    shape, width = (samples, inputs), (samples, targets)
    shown = next((i for i, spec in enumerate(config.modalities) if spec.is_target and spec.name in config.inputs), 0)
    mods = torch.tensor([config.index(name) for name in config.outputs], dtype=torch.int32)
    of_target = mods.repeat_interleave(-(-targets // len(mods)))[:targets].expand(width).contiguous()
    ends = torch.full(width, targets, dtype=torch.int32)
    values: dict[str, Any] = {
        spec.name: torch.zeros(1, spec.input_dim, dtype=torch.float16 if spec.has_bands else torch.uint8)
        for spec in config.modalities
        if not spec.is_target and spec.name in config.inputs
    }
    zeros, none = torch.zeros(shape, dtype=torch.int32), torch.zeros(width, dtype=torch.int32)
    return PackedBatch(
        input_ids=zeros, input_mod=torch.full(shape, shown, dtype=torch.int32), input_pos=zeros,
        input_valid=torch.ones(shape, dtype=torch.bool), target_ids=none, query_ids=none - 1, target_mod=of_target,
        target_pos=none, target_end=ends, target_valid=torch.ones(width, dtype=torch.bool), values=values,
    )  # fmt: skip


def _state(config: FourMConfig, train: Train) -> float:
    """Parameters, gradients, two moments, and the average if there is one: float32, a share of it with FSDP."""
    with torch.device("meta"):
        model = FourM(config)
    every = sum(p.numel() for p in model.parameters())
    each = 20 if train.ema else 16
    if train.parallel != "fsdp":
        return float(every * each)
    blocks = [*model.encoder, *model.decoder]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    tables = sum(p.numel() for side in (model.encoder_embeddings, model.decoder_embeddings) for p in side.parameters())
    # Beside its share a worker holds some blocks and the tables whole, in 16 bits with their gradients in float32, and
    # in float32 what belongs to neither.
    whole = (_GATHERED * max(sizes) + tables) * (2 + 4) + (every - sum(sizes) - tables) * (4 + 4)
    return every * each / train.worker_range[1] + whole


def of_fit(name: str, settings: TokenizerSettings, image_size: int, n_labels: int = 0) -> Need:
    """What one worker takes that fits a tokenizer; arguments as of `costs.of_tokenizer`. A network of
    `perceptual_weight` is not counted."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
    samples = _SAMPLES[0]
    with _shapes():
        x = example(name, settings, image_size)
        row = (x.shape[-1],) if x.ndim == 2 else (*x.shape[-2:], x.shape[1] if x.ndim == 4 else 1)
        model: Any = build.model(name, settings, image_size, row, n_labels=n_labels).train()
        if hasattr(model.quantize, "codebook"):
            # It looks at values, and keeps nothing that grows with the batch.
            model.quantize.codebook.update = lambda latents, ids: 0
        batch = x.expand(samples, *x.shape[1:]).contiguous()

        def loss() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                output = model.step(batch)
            error: Tensor = F.mse_loss(output.prediction.float(), torch.zeros_like(output.prediction).float())
            return error + output.commitment

        parameters = [p for p in model.parameters() if p.requires_grad]
        peak = _of_step(parameters, loss)
    state = sum(p.numel() for p in parameters) * (20 if settings.average else 16)
    return Need(float(state), 0.0, peak / samples)


def of_generation(config: FourMConfig, chains: Sequence[Chain], narrow: bool) -> Need:
    """What generation takes.

    Args:
        narrow: whether it computes in bfloat16, under autocast, which keeps a copy of the weights.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in FourM(config).parameters())
    most = 0.0
    for chain in chains:
        known = [config.spec(name) for name in chain.inputs]
        for step in chain.to:
            read = sum(spec.max_tokens for spec in known if spec.name in config.inputs)
            scales = list(step.guidance.values()) if isinstance(step.guidance, dict) else [step.guidance]
            scales = [] if scales == [1.0] else scales
            spec, text = config.spec(step.target), MODALITIES[step.target].kind is Kind.SEQUENCE
            length = (step.max_tokens or spec.max_tokens) if text else spec.max_tokens
            inputs, queries = (read + 1, 1) if text else (read + length, length)
            of_sample = _of_pass(config, inputs, queries, spec.name, scales, narrow)
            if text:  # keys and values of all layers, of what is read and of what is written
                kept = 2 * config.decoder_depth * config.dim * (inputs + length) * (2 if narrow else 4)
                of_sample += kept * (1 + len(scales))
            most = max(most, of_sample)
            known.append(spec)
    return Need(float(parameters * (6 if narrow else 4)), 0.0, most)


@torch.no_grad()
def _of_pass(
    config: FourMConfig, inputs: int, queries: int, target: str, scales: Sequence[float], narrow: bool
) -> float:
    """Most bytes at once of a sample that is read and answered; no block keeps anything for the next one.

    Args:
        scales: of guidance, each of which is one more pass.
    """
    samples = _SAMPLES[0]
    rows = samples * (1 + len(scales))
    with _shapes():
        model = FourM(replace(config, encoder_depth=1, decoder_depth=1)).eval()
        read, asked = (torch.zeros(rows, n, dtype=torch.long) for n in (inputs, queries))
        with Live() as live, torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            context = model.encode(read, read, read, read == 0, {})
            x = model.embed_queries(asked, asked, asked, asked == 0)
            logits = guide(F.linear(model.decode(x, context, None), model.head(target)), scales)
            sample(logits, torch.zeros(samples, queries), 1.0, 0, 1.0)
    return live.peak / samples
