"""Denoising diffusion: the forward process that training sees, and deterministic sampling (DDIM).

Legend: B batch, T training steps, x0 clean sample, x_t noised sample, e noise, a = product of alphas up to t.

    x_t = sqrt(a) x0 + sqrt(1 - a) e            v = sqrt(a) e - sqrt(1 - a) x0

Schedules are those of apple/ml-4m's configs. With zero terminal SNR (arXiv 2305.08891) a is exactly 0 at the last step,
where sampling starts: then a model learns what to make of noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

Prediction = Literal["sample", "epsilon", "v_prediction"]
Spacing = Literal["trailing", "leading", "linspace"]

_BETAS = (1e-4, 0.02)
_SHIFTED = "shifted_cosine:"
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", f"{_SHIFTED}<shift>")


def alphas_cumprod(schedule: str, steps: int, zero_terminal_snr: bool = True) -> torch.Tensor:
    """a for each of T steps, float32, falling.

    Args:
        schedule: one of SCHEDULES. A shifted cosine (arXiv 2301.11093) ends at 0 whatever `zero_terminal_snr` says;
            a shift below 1 is less noisy.

    Raises:
        ValueError: no such schedule.
    """
    if schedule.startswith(_SHIFTED):
        # In float64: at t = 1 the tangent is 1.6e16 rather than infinite.
        t = torch.linspace(0, 1, steps, dtype=torch.float64)
        log_snr = -2 * ((t * math.pi / 2).tan().log() + math.log(_shift(schedule)))
        alphas = log_snr.clamp(-15, 15).sigmoid()
        alphas[-1] = 0  # sigmoid(-15) = 3e-7, which is close to, but not, nothing
        return alphas.float()
    alphas = (1 - _betas(schedule, steps)).cumprod(0)
    if zero_terminal_snr:
        # Shifted to 0 at the end and scaled back to its first value (arXiv 2305.08891, algorithm 1).
        root = alphas.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return alphas.float()


def _shift(schedule: str) -> float:
    try:
        shift = float(schedule.removeprefix(_SHIFTED))
    except ValueError:
        shift = 0.0
    if not 0 < shift < math.inf:
        raise ValueError(f"diffusion: got beta_schedule {schedule!r}; expected a shift above 0")
    return shift


def _betas(schedule: str, steps: int) -> torch.Tensor:
    first, last = _BETAS
    if schedule == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
    if schedule == "sigmoid":
        return torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (last - first) + first
    if schedule == "squaredcos_cap_v2":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        wanted = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - wanted[1:] / wanted[:-1]).clamp(max=0.999)  # the last ratio is 0, and a beta of 1 has no inverse
    raise ValueError(f"diffusion: got beta_schedule {schedule!r}; expected one of {', '.join(SCHEDULES)}")


def sampling_steps(train_steps: int, steps: int, spacing: Spacing = "trailing") -> list[int]:
    """Steps to sample at, falling. "trailing" starts at the last one, where there is noise alone; it gives one step
    more where `steps` does not divide T."""
    if not 1 <= steps <= train_steps:
        raise ValueError(f"diffusion: got {steps} sampling steps; expected 1 to {train_steps}")
    stride = train_steps // steps
    if spacing == "trailing":
        return list(range(train_steps - 1, -1, -stride))
    if spacing == "leading":
        return [i * stride for i in reversed(range(steps))]
    return [round(t) - 1 for t in torch.linspace(train_steps, 1, steps, dtype=torch.float64).tolist()]


class Diffusion:
    """One forward process and what its model predicts."""

    def __init__(self, alphas: torch.Tensor, prediction: Prediction) -> None:
        """`alphas` as from `alphas_cumprod`."""
        self.alphas, self.prediction = alphas, prediction
        self._there = alphas  # where the last batch was: another copy for each would wait for the device

    def __len__(self) -> int:
        return len(self.alphas)

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t of clean samples (B, C, H, W) at steps t (B,)."""
        signal, spread = self._weights(t, x0)
        return signal * x0 + spread * noise

    def target(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model should say at steps t (B,): x0, the noise, or the velocity v."""
        if self.prediction == "sample":
            return x0
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._weights(t, x0)
        return signal * noise - spread * x0

    def _weights(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # One weight for each sample, with axes that broadcast over (C, H, W).
        if self._there.device != like.device:
            self._there = self.alphas.to(like.device)
        alphas = self._there[t].view(-1, *[1] * (like.ndim - 1))
        return alphas.sqrt(), (1 - alphas).sqrt()

    def clean(self, output: torch.Tensor, x_t: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x0 and the noise, (B, C, H, W) both, that a model's output for x_t implies."""
        signal, spread = alpha**0.5, (1 - alpha) ** 0.5
        if self.prediction == "sample":
            return output, (x_t - signal * output) / spread
        if self.prediction == "epsilon":
            return (x_t - spread * output) / signal, output
        # v and x_t are x0 and e, turned by an angle of cosine `signal`: turn them back.
        return signal * x_t - spread * output, signal * output + spread * x_t

    def ddim(
        self,
        model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        noise: torch.Tensor,
        timesteps: list[int],
        clamp: bool,
    ) -> torch.Tensor:
        """Samples (B, C, H, W) from noise without further randomness (DDIM, arXiv 2010.02502, eta 0).

        Args:
            model: (x_t, t (B,) int64) to the prediction.
            timesteps: falling, as from `sampling_steps`.
            clamp: keep each estimate of x0 in [-1, 1]. 4M's dynamic thresholding (quantile 0.995) has a largest value
                of 1, and so is just this.

        Raises:
            ValueError: the noise is to be predicted from noise alone.
        """
        # The step after the last one is a clean sample.
        alphas = [float(self.alphas[t]) for t in timesteps] + [1.0]
        if self.prediction == "epsilon" and 0.0 in alphas:
            raise ValueError(
                "diffusion: got prediction_type 'epsilon' with zero terminal SNR, from which no sample can start; use "
                "'v_prediction' or 'sample', or set zero_terminal_snr to false"
            )
        x = noise
        for i, t in enumerate(timesteps):
            # In the noise's float32 under autocast too: later steps multiply errors of the early ones.
            output = model(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
            x0, direction = self.clean(output, x, alphas[i])
            if clamp:
                x0 = x0.clamp(-1, 1)
            x = alphas[i + 1] ** 0.5 * x0 + (1 - alphas[i + 1]) ** 0.5 * direction
        return x


def timestep_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """Steps (B,) as cosines, then sines, of `dim` / 2 frequencies from 1 to 1/10,000: (B, dim) float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
