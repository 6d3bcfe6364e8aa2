"""Diffusion: schedules, the forward process, and sampling, against recorded values and against known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fourmill.tokenize.networks.diffusion import (
    Diffusion,
    Prediction,
    alphas_cumprod,
    sampling_steps,
    timestep_embedding,
)

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "divae_unet" / "expected.npz")
SCHEDULES = {
    "linear_ztsnr": ("linear", True), "linear": ("linear", False), "cos_ztsnr": ("squaredcos_cap_v2", True),
    "shifted_cosine_0.5": ("shifted_cosine:0.5", True),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_references(name: str) -> None:
    alphas = alphas_cumprod(SCHEDULES[name][0], 1000, SCHEDULES[name][1])
    torch.testing.assert_close(alphas[::37], torch.from_numpy(GOLDEN[f"alphas_cumprod/{name}"]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "shifted_cosine:2"])
def test_schedules_fall_to_nothing(name: str) -> None:
    alphas = alphas_cumprod(name, 200)
    assert alphas.dtype == torch.float32 and 0.9 < alphas[0] < 1.0001 and alphas[-1] == 0
    assert (alphas.diff() <= 0).all()
    if not name.startswith("shifted"):
        assert alphas_cumprod(name, 200, zero_terminal_snr=False)[-1] > 0


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_sampling_steps_are_the_references(spacing: str) -> None:
    assert sampling_steps(1000, 7, spacing) == GOLDEN[f"ddim_timesteps_7/{spacing}"].tolist()


def test_sampling_steps_are_within_the_training_steps() -> None:
    assert sampling_steps(1000, 5) == GOLDEN["ddim5_timesteps"].tolist() == [999, 799, 599, 399, 199]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"{steps} sampling steps; expected 1 to 1000"):
            sampling_steps(1000, steps)


def test_forward_process_is_the_references() -> None:
    x, noise, t = (torch.from_numpy(GOLDEN[name]) for name in ("base/input", "noise", "timesteps"))
    velocity = Diffusion(alphas_cumprod("linear", 1000), "v_prediction")
    torch.testing.assert_close(velocity.add_noise(x, noise, t), torch.from_numpy(GOLDEN["noised"]), atol=1e-5, rtol=0)
    expected = torch.from_numpy(GOLDEN["velocity"])
    torch.testing.assert_close(velocity.target(x, noise, t), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_what_is_predicted_gives_back_what_was_noised(prediction: Prediction) -> None:
    diffusion = Diffusion(alphas_cumprod("linear", 100, zero_terminal_snr=prediction != "epsilon"), prediction)
    x, noise = torch.rand(3, 1, 4, 4) * 2 - 1, torch.randn(3, 1, 4, 4)
    for t in (0, 50, 98):
        steps = torch.full((3,), t)
        said = diffusion.target(x, noise, steps)
        x0, e = diffusion.clean(said, diffusion.add_noise(x, noise, steps), float(diffusion.alphas[t]))
        torch.testing.assert_close(x0, x, atol=1e-2, rtol=0)
        torch.testing.assert_close(e, noise, atol=1e-2, rtol=0)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_sampling_with_a_perfect_model_finds_the_mean(prediction: Prediction, steps: int) -> None:
    """Data that is one point: the best predictor is known, and DDIM must end at the point from any noise."""
    diffusion = Diffusion(alphas_cumprod("linear", 100, zero_terminal_snr=prediction != "epsilon"), prediction)
    point = torch.rand(2, 3, 4, 4) * 2 - 1

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,) and t.dtype == torch.int64
        alpha = diffusion.alphas[t].view(-1, 1, 1, 1)
        return diffusion.target(point, (x - alpha.sqrt() * point) / (1 - alpha).sqrt(), t)

    sample = diffusion.ddim(model, torch.randn(2, 3, 4, 4), sampling_steps(100, steps), clamp=False)
    torch.testing.assert_close(sample, point, atol=1e-3, rtol=0)


def test_clamping_keeps_samples_in_range() -> None:
    diffusion = Diffusion(alphas_cumprod("linear", 100), "sample")
    noise = torch.randn(1, 1, 4, 4)
    clamped, loud = (diffusion.ddim(lambda x, t: 3 * noise.sign(), noise, [99, 49], clamp) for clamp in (True, False))
    assert torch.equal(clamped.abs(), torch.ones_like(noise)) and torch.equal(loud.abs(), 3 * clamped.abs())


def test_noise_cannot_be_predicted_from_noise_alone() -> None:
    with pytest.raises(ValueError, match="'epsilon' with zero terminal SNR"):
        Diffusion(alphas_cumprod("linear", 100), "epsilon").ddim(lambda x, t: x, torch.zeros(1, 1, 4, 4), [99], False)
    for shift in ("0", "-1", "x", "inf"):
        with pytest.raises(ValueError, match="expected a shift above 0"):
            alphas_cumprod(f"shifted_cosine:{shift}", 100)
    with pytest.raises(ValueError, match=r"'cubic'.*squaredcos_cap_v2"):
        alphas_cumprod("cubic", 100)


def test_time_embeddings() -> None:
    embedding = timestep_embedding(torch.tensor([0, 3]), 8)
    assert embedding.shape == (2, 8)
    assert embedding[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    angles = 3 * torch.tensor([1, 0.1, 0.01, 0.001])
    torch.testing.assert_close(embedding[1], torch.cat([angles.cos(), angles.sin()]))
