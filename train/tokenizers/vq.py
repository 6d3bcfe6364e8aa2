"""Fitting a tokenizer: one training step, exact resume, and the model that is kept in the end.

Pure of Ray and of files: a driver feeds batches, saves `state_dict()`, and writes the folder with the measured quality.
One trainer serves all kinds: `Tokenizer.step` says what a reconstruction (or a diffusion model's prediction) is to be
compared with, and a loss of the recipe compares them.

Decisions:
- Defaults are 4M's (AdamW betas (0.9, 0.99), weight decay 0.05, lr 1e-4 x batch / 256 with linear warm-up from 1e-6
  and cosine decay, clipping at 1, dead codes at 1/32 of their uniform share, weight averaging). Fits of minutes
  want `warm_start`, a larger rate (2e-3), `norm_latents`, `ema_decay` 0.95, and a `gradient_weight`: a squared error
  alone gives blurred edges, which a diffusion decoder like 4M's does not have.
- Everything random in a step comes from a generator made of (seed, rank, step, part): a resumed fit needs no state of
  it. The codebook's own generator, which picks replacements of dead codes, is in the checkpoint.
- Gradients are summed over ranks before they are unscaled, so that all ranks skip the same fp16 steps.
- Convolutions are not put into channels last by hand: GroupNorm on CUDA makes its input channels first again (PyTorch's
  native_group_norm), and a UNet has one before each convolution. Inductor chooses the layout of a graph whole.
- The host waits for no number of a step (window.py reads them later): what it would wait for, the device would.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ...tokenize.networks.divae import DiVAE
from ...tokenize.networks.products import products
from ...tokenize.networks.quantize import VectorQuantizer, dead_code_threshold, is_distributed
from ...tokenize.networks.vit import ViTDecoder, ViTEncoder
from ...tokenize.networks.vqvae import StepOutput
from ...tokenize.settings import TokenizerSettings
from ...tokenize.tokenizer import Network
from .losses import reconstruction_loss
from .window import Values

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Start = Callable[[Any, torch.Tensor], None]
WARMUP_LR = 1e-6  # of the first step
BETAS = (0.9, 0.99)


class _Step(nn.Module):
    """A tokenizer's step as a call, around which DDP exchanges gradients."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, generator: torch.Generator) -> StepOutput:
        return self.model.step(x, generator=generator)


def _shared(model: Network) -> nn.Module:
    """A tokenizer's step; of several ranks with the mean of their gradients, exchanged beside the backward pass."""
    step = _Step(model)
    if not is_distributed():
        return step
    # DDP would wait for gradients that do not come.
    unread = model.unread_parameters() if isinstance(model, DiVAE) else []
    for parameter in unread:
        parameter.requires_grad_(False)
    # Buffers are the codebook, which shares its sums itself, and constant tables.
    parallel = nn.parallel.DistributedDataParallel(step, broadcast_buffers=False, gradient_as_bucket_view=True)
    for parameter in unread:
        parameter.requires_grad_(True)
    return parallel


class VQTrainer:
    """Owns the model, its optimizer and its step counter."""

    def __init__(
        self,
        model: Network,
        settings: TokenizerSettings,
        seed: int = 0,
        perceptual: Perceptual | None = None,
        start: Start | None = None,
    ) -> None:
        """`model` is on its device already.

        Under torch.distributed each rank makes the same model and steps on its own part of the batch; DDP shares the
        gradients, the codebook its sums.

        Args:
            settings: how it is fitted; those of its sizes are not read.
            seed: of the random draws in a step.
            perceptual: distance of two batches of pictures in [-1, 1], for `perceptual_weight`; see `losses.lpips`.
            start: sets the weights in place by (model, first batch) before the first step, see warm_start.py.
        """
        assert not settings.perceptual_weight or perceptual is not None
        self.model, self.settings, self.seed, self.steps_done = model, settings, seed, 0
        self.perceptual, self.start = perceptual, start
        self.rank = dist.get_rank() if is_distributed() else 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]  # biases, LayerNorms, layer scales
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)  # `step` sets the rate
        # Parameters only: the codebook is an average already.
        self.averages = [p.detach().clone() for p in self.parameters] if settings.average else []
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._scale: torch.Tensor | None = None  # of the last step's gradients, with fp16
        if self.device.type == "cuda" if settings.compile is None else settings.compile:
            compile_parts(model)
        self.shared = _shared(model)

    def lr(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: linear warm-up, then half a cosine to 0; and again for an adaptation."""
        c = self.settings
        base, steps, warmup = c.base_lr, c.steps, c.warmup_steps
        if c.resolutions is not None and step >= c.steps:
            step, base, steps, warmup = step - c.steps, c.resolutions.base_lr, c.resolutions.steps, c.resolutions.warmup
        peak = base * (c.batch_size / 256)
        # The first step has a rate above 0, or it would be one step of nothing.
        if step < warmup:
            return WARMUP_LR + (peak - WARMUP_LR) * step / warmup
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return peak * 0.5 * (1 + math.cos(math.pi * share))

    def step(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> Values:
        """One step on a batch (as the tokenizer's `encode` takes it); its metrics, of this rank's samples.

        A step whose gradient is not finite leaves the weights as they were; `Window.read` says so.

        Args:
            weight: of the values of the reconstruction, see `reconstruction_loss`. Parts of a batch (`accumulate`) and
                ranks count by their samples.

        Raises:
            FloatingPointError: the first batch, which a warm start looks at, is not finite.
        """
        if self.steps_done == 0 and self.start is not None:
            self.start(self.model, x)
            if self.averages:
                torch._foreach_copy_(self.averages, [p.detach() for p in self.parameters])
        lr = self.lr(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        # A batch smaller than `accumulate` has empty parts at its end.
        parts = [part for part in torch.tensor_split(x, self.settings.accumulate) if len(part)]
        weights = [None] * len(parts) if weight is None else torch.tensor_split(weight, self.settings.accumulate)
        results = []
        for i, part in enumerate(parts):
            # Gradients are exchanged with those of the last part.
            with nullcontext() if i == len(parts) - 1 else self._alone():
                results.append(self._backward(part, weights[i], i, len(part) / len(x)))
        norm = self._update()
        self.steps_done += 1
        metrics: Values = {name: sum(values[name] for values, _ in results) for name in results[0][0]}
        metrics |= {"gradient_norm": norm, "codes_in_batch": self._codes([ids for _, ids in results])}
        metrics |= {"codes_replaced": self.model.quantize.last_replaced, "lr": lr}
        return metrics | ({"scale": self._scale} if self._scale is not None else {})

    def _alone(self) -> Any:
        """Where ranks keep their gradients to themselves."""
        parallel = self.shared
        return parallel.no_sync() if isinstance(parallel, nn.parallel.DistributedDataParallel) else nullcontext()

    def _codes(self, ids: list[torch.Tensor]) -> torch.Tensor:
        """How many codes were taken."""
        taken = torch.zeros(self.model.config.codebook_size, device=self.device)
        for part in ids:
            taken.index_fill_(0, part.flatten(), 1)
        return taken.sum()

    def _backward(
        self, x: torch.Tensor, weight: torch.Tensor | None, part: int, share: float
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gradients of a part of the batch; its losses, weighted by its share, and ids."""
        c = self.settings
        self._set_threshold(x)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(c.precision, torch.float32)
        half = c.precision != "fp32"
        # What autocast leaves in float32 is in TF32 then, but for the codebook: 5 % of the work of a ViT-B, which exact
        # products do at a fifteenth of a H200's peak.
        with torch.autocast(x.device.type, dtype, enabled=half), products(x.device, tf32=half):
            output = self.shared(x, generator=generator(self.seed, self.rank, self.steps_done, part))
        # The loss in the weights' float32: squares of small errors vanish in half precision.
        prediction, target = output.prediction.to(self.parameters[0].dtype), output.target
        reconstruction = reconstruction_loss(prediction, target, c.loss, c.gradient_weight, weight)
        loss = reconstruction + output.commitment
        values = {"reconstruction": reconstruction, "commitment": output.commitment}
        if self.perceptual is not None and c.perceptual_weight:
            values["perceptual"] = self.perceptual(prediction, target)
            loss = loss + c.perceptual_weight * values["perceptual"]
        with products(x.device, tf32=half):
            torch.autograd.backward(self.scaler.scale(share * loss))
        return {name: share * value.detach() for name, value in ({"loss": loss} | values).items()}, output.ids

    def _set_threshold(self, x: torch.Tensor) -> None:
        """Below how many uses a code is dead, in a batch of this size over all ranks."""
        quantizer = self.model.quantize
        if not isinstance(quantizer, VectorQuantizer):
            return
        config, world = self.model.config, dist.get_world_size() if is_distributed() else 1
        # Other sizes of pictures have other numbers of tokens.
        if config.length is not None:
            area = -(-x.shape[-1] // config.patch_size)
        else:
            area = math.prod(x.shape[-2:]) // (config.patch_size**2 if config.patch_proj else 1)
        quantizer.codebook.threshold = dead_code_threshold(
            len(x) * world * area, config.codebook_size, self.settings.dead_code_coefficient
        )

    def _update(self) -> torch.Tensor:
        """One step of the optimizer and of the averages; the norm of the gradient before it was clipped."""
        self._scale = None
        if self.scaler.is_enabled():
            self._scale = self.scaler.scale(torch.ones((), device=self.device))
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_norm:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self._scale is None:
            # As a scaler of fp16 gradients says it to AdamW's kernel: a step that is not finite changes nothing.
            self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averages:
            # Early on nearly the plain mean: with a decay of 0.999 a fit of 1,000 steps would keep 37 % of its random
            # initial weights.
            decay = min(self.settings.average, (1 + self.steps_done) / (10 + self.steps_done))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    def result(self) -> Network:
        """A copy with the averaged weights, in evaluation mode: what is saved and used."""
        # A copy: training goes on with its own weights.
        model = copy.deepcopy(self.model).eval()
        if self.averages:
            kept = [p for p in model.parameters() if p.requires_grad]
            with torch.no_grad():
                for parameter, value in zip(kept, self.averages, strict=True):
                    parameter.copy_(value)
        return model

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on; tensors and plain values, `weights_only` loads it."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "scaler": self.scaler.state_dict(),
            "steps_done": self.steps_done,
        }
        if isinstance(self.model.quantize, VectorQuantizer):
            state["generator"] = self.model.quantize.codebook.generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues as if never interrupted, bit for bit on the same machine."""
        self.model.load_state_dict(state["model"])
        # Checkpoints of older releases say how AdamW stepped there.
        groups = [group | {"fused": True, "foreach": None} for group in state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        if len(state["averages"]) != len(self.averages):
            raise ValueError(
                "tokenizer: the checkpoint was written with another setting of `average`; keep it to resume"
            )
        if self.averages:
            torch._foreach_copy_(self.averages, list(state["averages"]))
        if self.scaler.is_enabled() and state["scaler"]:  # {} of steps on a CPU, where nothing is scaled
            self.scaler.load_state_dict(state["scaler"])
        if isinstance(self.model.quantize, VectorQuantizer):
            self.model.quantize.codebook.generator.set_state(state["generator"].cpu())
        self.steps_done = int(state["steps_done"])


def compile_parts(model: Network, **options: Any) -> None:
    """torch.compile encoder and decoder in place: a block at a time where they are transformers, whose blocks share a
    graph, else whole."""
    for part in (model.encoder, model.decoder):
        blocks = part.blocks if isinstance(part, ViTEncoder | ViTDecoder) else [part]
        for block in blocks:
            block.compile(**options)


def generator(seed: int, rank: int, step: int, part: int = 0) -> torch.Generator:
    """The random numbers of one step."""
    (state,) = np.random.SeedSequence((seed, rank, step, part)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)
