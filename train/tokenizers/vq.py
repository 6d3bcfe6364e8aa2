"""Fitting a tokenizer: one training step, exact resume, and the model that is kept in the end.

Pure of Ray and of files: a driver feeds batches, saves `state_dict()`, and writes the folder with the measured quality.
One trainer serves all kinds: `Tokenizer.step` says what a reconstruction (or a diffusion model's prediction) is to be
compared with, and a loss of the recipe compares them.

Decisions:
- Defaults are 4M's (AdamW betas (0.9, 0.99), weight decay 0.05, lr 1e-4 x batch / 256 with linear warm-up from 1e-6
  and cosine decay, clipping at 1, dead codes at 1/32 of their uniform share, weight averaging). Fits of minutes
  want `warm_start`, a larger lr (2e-3), and a model with `norm_latents` and `ema_decay` 0.95.
- Everything random in a step comes from a generator made of (seed, rank, step, part): a resumed fit needs no state of
  it. The codebook's own generator, which picks replacements of dead codes, is in the checkpoint.
- Gradients are summed over ranks before they are unscaled, so that all ranks skip the same fp16 steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from ...tokenize.networks.quantize import VectorQuantizer, dead_code_threshold
from ...tokenize.networks.vqvae import VQVAE
from ...tokenize.tokenizer import Tokenizer
from .losses import reconstruction_loss
from .warm_start import warm_start

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_LEAST_SCALE = 2.0**-14  # of fp16 gradients: still not finite below it, and no scale will help


class Adaptation(BaseModel):
    """A second schedule after `steps`: multi-resolution adaptation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(gt=0)
    lr: float = Field(gt=0)
    warmup: int = Field(0, ge=0)


class VQFitConfig(BaseModel):
    """How a tokenizer is fitted.

    batch_size: samples of one rank in a step.
    accumulate: parts that a batch goes through the model in; their gradients add up. The codebook learns from
        each part.
    lr: at the peak; None is 4M's 1e-4 x batch / 256 (batch over all ranks).
    dead_code_coefficient: a code is replaced below 1 / coefficient of its uniform share; 0 never replaces.
    average: decay of the averaged weights that are kept in the end; 0 keeps the last ones.
    warm_start: begin as principal components of the first batch's patches, see warm_start.py. For fits of minutes.
    gradient_weight: of the error of finite differences at three scales. A squared error alone is content with blur;
        differences make edges count. 0 is 4M, whose diffusion decoder has no such need.
    precision: of activations; weights, losses and codebooks are float32. fp16 scales its gradients.
    compile: encoder and decoder through torch.compile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(10_000, gt=0)
    batch_size: int = Field(64, gt=0)
    accumulate: int = Field(1, gt=0)
    lr: float | None = Field(None, gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_lr: float = Field(1e-6, ge=0)
    warmup: int = Field(500, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(1.0, ge=0)
    loss: Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy"] = "mse"
    gradient_weight: float = Field(0.0, ge=0)
    perceptual_weight: float = Field(0.0, ge=0)
    dead_code_coefficient: float = Field(32.0, ge=0)
    average: float = Field(0.99, ge=0, lt=1)
    warm_start: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    adaptation: Adaptation | None = None
    seed: int = 0

    @property
    def total_steps(self) -> int:
        return self.steps + (self.adaptation.steps if self.adaptation else 0)


class VQTrainer:
    """Owns the model, its optimizer and its step counter."""

    def __init__(self, model: Tokenizer, config: VQFitConfig, perceptual: Perceptual | None = None) -> None:
        """`model` is on its device already.

        Under torch.distributed each rank makes the same model and steps on its own `batch_size` samples; gradients and
        the codebook's sums are shared here, so the model is not wrapped in DistributedDataParallel.

        Args:
            perceptual: distance of two batches of pictures in [-1, 1], for `perceptual_weight`; see `perceptual`.
        """
        assert not config.perceptual_weight or perceptual is not None
        self.model, self.config, self.perceptual, self.steps_done = model, config, perceptual, 0
        self.rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
        batch = config.batch_size * world
        self.peak_lr = config.lr if config.lr is not None else 1e-4 * batch / 256
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]  # biases, LayerNorms, layer scales
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak_lr, betas=config.betas)
        # Parameters only: the codebook is an average already.
        self.averages = [p.detach().clone() for p in self.parameters] if config.average else []
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if config.compile:
            model.encoder.compile()
            model.decoder.compile()

    def lr(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: linear warm-up, then half a cosine; and again for an adaptation."""
        c = self.config
        peak, steps, warmup = self.peak_lr, c.steps, c.warmup
        if c.adaptation is not None and step >= c.steps:
            step, peak, steps, warmup = step - c.steps, c.adaptation.lr, c.adaptation.steps, c.adaptation.warmup
        # The first step has a rate above 0, or it would be one step of nothing.
        if step < warmup:
            return c.warmup_lr + (peak - c.warmup_lr) * step / warmup
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return c.min_lr + (peak - c.min_lr) * 0.5 * (1 + math.cos(math.pi * share))

    def step(self, x: torch.Tensor) -> dict[str, float]:
        """One step on a batch (as the tokenizer's `encode` takes it); its metrics, of this rank's samples.

        Raises:
            FloatingPointError: the loss or the gradient is not finite. The weights are those before the step, the
                codebook may be spoilt: resume from the last checkpoint, with a smaller lr or without the broken sample.
        """
        if self.steps_done == 0 and self.config.warm_start:
            assert isinstance(self.model, VQVAE)
            warm_start(self.model, x)
            if self.averages:
                torch._foreach_copy_(self.averages, [p.detach() for p in self.parameters])
        lr = self.lr(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.tensor_split(x, self.config.accumulate)
        results = [self._backward(part, i, len(part) / len(x)) for i, part in enumerate(parts) if len(part)]
        norm = self._update(lr)
        self.steps_done += 1
        metrics: dict[str, float] = {name: sum(values[name] for values, _ in results) for name in results[0][0]}
        ids = torch.cat([ids.flatten() for _, ids in results])
        return metrics | {
            "gradient_norm": norm,
            "codes_in_batch": float((ids.bincount() > 0).sum()),
            "codes_replaced": float(self.model.quantize.last_replaced),
            "lr": lr,
        }

    def _backward(self, x: torch.Tensor, part: int, share: float) -> tuple[dict[str, float], torch.Tensor]:
        """Gradients of a part of the batch; its losses, weighted by its share, and ids."""
        c = self.config
        self._set_threshold(x)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(c.precision, torch.float32)
        with torch.autocast(x.device.type, dtype, enabled=c.precision != "fp32"):
            output = self.model.step(x, generator=generator(c.seed, self.rank, self.steps_done, part))
        # The loss in the weights' float32: squares of small errors vanish in half precision.
        prediction, target = output.prediction.to(self.parameters[0].dtype), output.target
        reconstruction = reconstruction_loss(prediction, target, c.loss, c.gradient_weight)
        loss = reconstruction + output.commitment
        values = {"reconstruction": reconstruction, "commitment": output.commitment}
        if self.perceptual is not None and c.perceptual_weight:
            values["perceptual"] = self.perceptual(prediction, target)
            loss = loss + c.perceptual_weight * values["perceptual"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"tokenizer: loss {loss.item()} at step {self.steps_done}; lower lr")
        torch.autograd.backward(self.scaler.scale(share * loss))
        return {name: share * value.item() for name, value in ({"loss": loss} | values).items()}, output.ids

    def _set_threshold(self, x: torch.Tensor) -> None:
        """Below how many uses a code is dead, in a batch of this size over all ranks."""
        quantizer = self.model.quantize
        if not isinstance(quantizer, VectorQuantizer):
            return
        settings, world = self.model.config, dist.get_world_size() if _distributed() else 1
        # Other sizes of pictures have other numbers of tokens.
        area = math.prod(x.shape[-2:]) // (settings.patch_size**2 if settings.patch_proj else 1)
        quantizer.codebook.threshold = dead_code_threshold(
            len(x) * world * area, settings.codebook_size, self.config.dead_code_coefficient
        )

    def _update(self, lr: float) -> float:
        """One step of the optimizer and of the averages; the norm of the gradient before it was clipped."""
        self._share_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf).item()
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < _LEAST_SCALE):
            raise FloatingPointError(
                f"tokenizer: the norm of the gradient is {norm} at step {self.steps_done}; lower lr ({lr:.2e}), or clip"
            )
        self.scaler.step(self.optimizer)  # which skips steps whose fp16 gradients are not finite
        self.scaler.update()
        if self.averages:
            # Early on nearly the plain mean: with a decay of 0.999 a fit of 1,000 steps would keep 37 % of its random
            # initial weights.
            decay = min(self.config.average, (1 + self.steps_done) / (10 + self.steps_done))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    def _share_gradients(self) -> None:
        """Mean over ranks, in one message."""
        if not (_distributed() and dist.get_world_size() > 1):
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # One message instead of one a parameter: some 150 of a ViT-B.
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def result(self) -> Tokenizer:
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
        self.optimizer.load_state_dict(state["optimizer"])
        if len(state["averages"]) != len(self.averages):
            raise ValueError(
                "tokenizer: the checkpoint was written with another setting of `average`; keep it to resume"
            )
        if self.averages:
            torch._foreach_copy_(self.averages, list(state["averages"]))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if isinstance(self.model.quantize, VectorQuantizer):
            self.model.quantize.codebook.generator.set_state(state["generator"].cpu())
        self.steps_done = int(state["steps_done"])


def generator(seed: int, rank: int, step: int, part: int = 0) -> torch.Generator:
    """The random numbers of one step."""
    (state,) = np.random.SeedSequence((seed, rank, step, part)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
