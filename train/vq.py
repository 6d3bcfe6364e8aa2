"""Fitting a VQ-VAE: one training step, exact resume, and what the tokenizer is worth afterwards.

Pure of Ray and of files: a driver feeds batches, saves `state_dict()`, and writes the folder with the measured quality.

Decisions:
- Defaults are 4M's (AdamW betas (0.9, 0.99), weight decay 0.05, lr 1e-4 x batch / 256 with linear warm-up from 1e-6
  and cosine decay, clipping at 1, dead codes at 1/32 of their uniform share, weight averaging 0.99). Fits of minutes
  want `warm_start`, a larger lr (2e-3), and a model with `norm_latents` and `ema_decay` 0.95.
- `gradient_weight` adds the error of finite differences at three scales. A squared error alone is content with blur;
  differences make edges count. 0 is 4M, whose diffusion decoder has no such need.
- Quality is in the label's own unit: decibels for pictures, F1 for edges, accuracy for classes, cosine for features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from ..tokenize.quantize import dead_code_threshold
from ..tokenize.vqvae import VQVAE
from .vq_start import warm_start

Measure = Literal["picture", "edges", "labels", "features"]
_GRADIENT_SCALES = 3


class VQFitConfig(BaseModel):
    """How a VQ-VAE is fitted.

    lr: at the peak; None is 4M's 1e-4 x batch / 256 (batch over all ranks).
    dead_code_coefficient: a code is replaced below 1 / coefficient of its uniform share; 0 never replaces.
    average: decay of the averaged weights that are kept in the end; 0 keeps the last ones.
    warm_start: begin as principal components of the first batch's patches, see `vq_start`. For fits of minutes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(10_000, gt=0)
    batch_size: int = Field(64, gt=0)
    lr: float | None = Field(None, gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_lr: float = Field(1e-6, ge=0)
    warmup: int = Field(500, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(1.0, ge=0)
    loss: Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy"] = "mse"
    gradient_weight: float = Field(0.0, ge=0)
    dead_code_coefficient: float = Field(32.0, ge=0)
    average: float = Field(0.99, ge=0, lt=1)
    warm_start: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


class VQTrainer:
    """Owns the model, its optimiser and its step counter."""

    def __init__(self, model: VQVAE, config: VQFitConfig) -> None:
        """`model` is on its device already.

        Under torch.distributed each rank makes the same model and steps on its own `batch_size` samples; gradients and
        the codebook's sums are shared here, so the model is not wrapped in DistributedDataParallel.
        """
        self.model, self.config, self.steps_done = model, config, 0
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        batch = config.batch_size * world
        self.peak_lr = config.lr if config.lr is not None else 1e-4 * batch / 256
        settings = model.config
        model.quantize.codebook.threshold = dead_code_threshold(
            batch * settings.grid("enc") ** 2, settings.codebook_size, config.dead_code_coefficient
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]  # biases, LayerNorms, layer scales
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak_lr, betas=config.betas)
        self.averages = [p.detach().clone() for p in self.parameters] if config.average else []

    def lr(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: linear warm-up, then half a cosine."""
        c = self.config
        if step < c.warmup:
            return c.warmup_lr + (self.peak_lr - c.warmup_lr) * step / c.warmup
        share = min((step - c.warmup) / max(c.steps - c.warmup, 1), 1.0)
        return c.min_lr + (self.peak_lr - c.min_lr) * 0.5 * (1 + math.cos(math.pi * share))

    def step(self, x: torch.Tensor) -> dict[str, float]:
        """One step on a batch (as `VQVAE.encode` takes it); the metrics of that step, of this rank's samples.

        Raises:
            FloatingPointError: the loss is not finite. The weights are those before the step, the codebook may be
                spoilt: resume from the last checkpoint, with a smaller lr or without the broken sample.
        """
        if self.steps_done == 0 and self.config.warm_start:
            warm_start(self.model, x)
            if self.averages:
                torch._foreach_copy_(self.averages, [p.detach() for p in self.parameters])
        lr = self.lr(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            recon, commitment, ids = self.model(x)
        reconstruction = reconstruction_loss(recon.float(), x, self.config)
        loss = reconstruction + commitment
        if not torch.isfinite(loss):
            raise FloatingPointError(f"VQ-VAE: loss {loss.item()} at step {self.steps_done}; lower lr ({lr:.2e})")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._share_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf)
        self.optimizer.step()
        if self.averages:
            # Early on the plain mean, or the random initial weights would stay in short fits.
            decay = min(self.config.average, (1 + self.steps_done) / (10 + self.steps_done))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        self.steps_done += 1
        return {
            "loss": loss.item(),
            "reconstruction": reconstruction.item(),
            "commitment": commitment.item(),
            "gradient_norm": norm.item(),
            "codes_in_batch": float(ids.unique().numel()),
            "codes_replaced": float(self.model.quantize.last_replaced),
            "lr": lr,
        }

    def _share_gradients(self) -> None:
        """Mean over ranks, in one message."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def result(self) -> VQVAE:
        """A copy with the averaged weights, in evaluation mode: what is saved and used."""
        model = copy.deepcopy(self.model).eval()
        if self.averages:
            kept = [p for p in model.parameters() if p.requires_grad]
            with torch.no_grad():
                for parameter, value in zip(kept, self.averages, strict=True):
                    parameter.copy_(value)
        return model

    def evaluate(self, batches: Iterable[torch.Tensor], measure: Measure = "picture") -> dict[str, float]:
        """`quality` of `result()`."""
        return quality(self.result(), batches, measure)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on; tensors and plain values, `weights_only` loads it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "generator": self.model.quantize.codebook.generator.get_state(),
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues as if never interrupted, bit for bit on the same machine."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if len(state["averages"]) != len(self.averages):
            raise ValueError("VQ-VAE: the checkpoint was written with another setting of `average`; keep it to resume")
        if self.averages:
            torch._foreach_copy_(self.averages, list(state["averages"]))
        self.model.quantize.codebook.generator.set_state(state["generator"].cpu())
        self.steps_done = int(state["steps_done"])


def reconstruction_loss(recon: torch.Tensor, x: torch.Tensor, config: VQFitConfig) -> torch.Tensor:
    """The error of a reconstruction (B, C, H, W) of x: scalar, mean over elements."""
    if config.loss == "cross_entropy":
        return F.cross_entropy(recon, x.long())
    if config.loss == "cosine":
        return 1 - F.cosine_similarity(recon, x, dim=1).mean()
    distance = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[config.loss]
    loss = distance(recon, x)
    if config.gradient_weight:
        loss = loss + config.gradient_weight * _gradient_loss(recon, x)
    return loss


def _gradient_loss(recon: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Absolute error of horizontal and vertical differences, mean over scales 1, 1/2, 1/4."""
    error = recon - x
    total = error.new_zeros(())
    for scale in range(_GRADIENT_SCALES):
        if scale:
            error = F.avg_pool2d(error, 2)
        total = total + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return total / _GRADIENT_SCALES


@torch.no_grad()
def quality(model: VQVAE, batches: Iterable[torch.Tensor], measure: Measure = "picture") -> dict[str, float]:
    """What a tokenizer is worth on batches that it was not fitted on.

    Args:
        model: in evaluation mode.
        batches: inputs as `VQVAE.encode` takes them, on the model's device.
        measure: "picture": `psnr` in dB (peak of 255), mean over images. "edges": `precision`, `recall`, `f1`, `iou` of
            pixels above the middle, and `mse` on [0, 1]. "labels": `accuracy`, `miou`. "features": `cosine`, `mse`.

    Returns:
        The measures, and `codes_used` (share of the codebook), `perplexity`, `tokens` (how many were looked at).
    """
    assert not model.training
    counts = torch.zeros(model.config.codebook_size, dtype=torch.float64)
    sums: dict[str, torch.Tensor] = {}
    for x in batches:
        ids = model.encode(x)
        counts += torch.bincount(ids.flatten().cpu(), minlength=len(counts))
        for name, value in _MEASURES[measure](model.decode(ids), x).items():
            sums[name] = sums[name] + value.double().cpu() if name in sums else value.double().cpu()
    if not sums:
        raise ValueError("VQ-VAE: got no batch to evaluate on; expected at least one")
    share = counts / counts.sum()
    perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    return _summary(measure, sums) | {
        "codes_used": (counts > 0).double().mean().item(),
        "perplexity": perplexity.item(),
        "tokens": counts.sum().item(),
    }


def _sums_picture(recon: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    mse = (recon.clamp(-1, 1) - x).square().mean(dim=(1, 2, 3))
    return {"psnr": (10 * (4 / mse.clamp(min=1e-10)).log10()).sum(), "images": torch.tensor(len(x))}


def _sums_edges(recon: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found, true = recon > 0, x > 0
    return {
        "hits": (found & true).sum(), "found": found.sum(), "true": true.sum(),
        "error": ((recon.clamp(-1, 1) - x) / 2).square().sum(), "pixels": torch.tensor(x.numel()),
    }  # fmt: skip


def _sums_labels(recon: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    classes, found, true = recon.shape[1], recon.argmax(1).flatten(), x.flatten().long()
    hits = torch.bincount(true[found == true], minlength=classes)
    union = torch.bincount(true, minlength=classes) + torch.bincount(found, minlength=classes) - hits
    return {"hits": hits, "union": union, "pixels": torch.tensor(x.numel())}


def _sums_features(recon: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    cosine = F.cosine_similarity(recon, x, dim=1)
    return {
        "cosine": cosine.sum(), "tokens": torch.tensor(cosine.numel()),
        "error": (recon - x).square().sum(), "values": torch.tensor(x.numel()),
    }  # fmt: skip


_MEASURES = {
    "picture": _sums_picture, "edges": _sums_edges, "labels": _sums_labels, "features": _sums_features,
}  # fmt: skip


def _summary(measure: Measure, sums: dict[str, torch.Tensor]) -> dict[str, float]:
    if measure == "picture":
        return {"psnr": (sums["psnr"] / sums["images"]).item()}
    if measure == "features":
        return {
            "cosine": (sums["cosine"] / sums["tokens"]).item(), "mse": (sums["error"] / sums["values"]).item(),
        }  # fmt: skip
    if measure == "labels":
        present = sums["union"] > 0
        miou = (sums["hits"][present] / sums["union"][present]).mean()
        return {"accuracy": (sums["hits"].sum() / sums["pixels"]).item(), "miou": miou.item()}
    hits, found, true = (sums[name].item() for name in ("hits", "found", "true"))
    return {
        "precision": hits / max(found, 1), "recall": hits / max(true, 1),
        "f1": 2 * hits / max(found + true, 1), "iou": hits / max(found + true - hits, 1),
        "mse": (sums["error"] / sums["pixels"]).item(),
    }  # fmt: skip
