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
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ...tokenize.networks.quantize import VectorQuantizer, dead_code_threshold, is_distributed
from ...tokenize.settings import TokenizerSettings
from ...tokenize.tokenizer import Tokenizer
from .losses import reconstruction_loss

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Start = Callable[[Any, torch.Tensor], None]
WARMUP_LR = 1e-6  # of the first step
BETAS = (0.9, 0.99)
_LEAST_SCALE = 2.0**-14  # of fp16 gradients: still not finite below it, and no scale will help


class VQTrainer:
    """Owns the model, its optimizer and its step counter."""

    def __init__(
        self,
        model: Tokenizer,
        settings: TokenizerSettings,
        seed: int = 0,
        perceptual: Perceptual | None = None,
        start: Start | None = None,
    ) -> None:
        """`model` is on its device already.

        Under torch.distributed each rank makes the same model and steps on its own part of the batch; gradients and
        the codebook's sums are shared here, so the model is not wrapped in DistributedDataParallel.

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
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS)  # `step` sets the rate
        # Parameters only: the codebook is an average already.
        self.averages = [p.detach().clone() for p in self.parameters] if settings.average else []
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        if settings.compile:
            model.encoder.compile()
            model.decoder.compile()

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

    def step(self, x: torch.Tensor) -> dict[str, float]:
        """One step on a batch (as the tokenizer's `encode` takes it); its metrics, of this rank's samples.

        Raises:
            FloatingPointError: the loss or the gradient is not finite. The weights are those before the step, the
                codebook may be spoilt: resume from the last checkpoint, with a smaller lr or without the broken sample.
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
        parts = torch.tensor_split(x, self.settings.accumulate)
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
        c = self.settings
        self._set_threshold(x)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(c.precision, torch.float32)
        with torch.autocast(x.device.type, dtype, enabled=c.precision != "fp32"):
            output = self.model.step(x, generator=generator(self.seed, self.rank, self.steps_done, part))
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
        config, world = self.model.config, dist.get_world_size() if is_distributed() else 1
        # Other sizes of pictures have other numbers of tokens.
        area = math.prod(x.shape[-2:]) // (config.patch_size**2 if config.patch_proj else 1)
        quantizer.codebook.threshold = dead_code_threshold(
            len(x) * world * area, config.codebook_size, self.settings.dead_code_coefficient
        )

    def _update(self, lr: float) -> float:
        """One step of the optimizer and of the averages; the norm of the gradient before it was clipped."""
        self._share_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf).item()
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < _LEAST_SCALE):
            raise FloatingPointError(
                f"tokenizer: the norm of the gradient is {norm} at step {self.steps_done}; lower lr ({lr:.2e}), or clip"
            )
        self.scaler.step(self.optimizer)  # which skips steps whose fp16 gradients are not finite
        self.scaler.update()
        if self.averages:
            # Early on nearly the plain mean: with a decay of 0.999 a fit of 1,000 steps would keep 37 % of its random
            # initial weights.
            decay = min(self.settings.average, (1 + self.steps_done) / (10 + self.steps_done))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    def _share_gradients(self) -> None:
        """Mean over ranks, in one message."""
        if not is_distributed():
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
