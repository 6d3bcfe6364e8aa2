"""Fitting a tokenizer: it learns, it resumes bit for bit, and its codebook lives."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fourmill_tests import tokenizer_ranks
from fourmill_tests.precision import float64

from fourmill.tokenize.crops import Resample, apply, crops
from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.settings import Resolutions, TokenizerSettings
from fourmill.tokenize.tokenizer import Tokenizer
from fourmill.train.tokenizers.quality import quality
from fourmill.train.tokenizers.vq import VQTrainer, generator
from fourmill.train.tokenizers.warm_start import warm_start
from fourmill.train.tokenizers.window import Window

SMALL = VQVAEConfig.small(
    dim=32, depth=1, heads=2, image_size=32, patch_size=8, codebook_size=64, latent_dim=8,
    ema_decay=0.95,
)  # fmt: skip
QUICK = TokenizerSettings(steps=60, base_lr=3e-3, warmup_steps=5, dead_code_coefficient=8, average=0.9)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double() -> Iterator[None]:
    """In float64 a fit of 60 steps ends alike on every CPU: rounding grows, but from 1e-16."""
    with float64():
        yield


def toy_rows(count: int, seed: int = 0) -> np.ndarray:
    """Mosaics, uint8 (count, 32, 32, 3), of 4 x 4 tiles, each one of 12: a codebook can hold them all."""
    kinds = torch.randn(12, 3, 3, 3, generator=torch.Generator().manual_seed(99))
    tiles = F.interpolate(kinds, size=8, mode="bicubic").clamp(-1, 1)
    which = torch.randint(12, (count, 4, 4), generator=torch.Generator().manual_seed(seed))
    pictures = tiles[which].permute(0, 1, 4, 2, 5, 3).reshape(count, 32, 32, 3)
    return ((pictures + 1) * 127.5).round().to(torch.uint8).numpy()


def toy(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, 32, 32) in [-1, 1]."""
    return inputs_of("tok_rgb", toy_rows(count, seed))


def inputs_of(name: str, rows: np.ndarray) -> torch.Tensor:
    return to_input(name, rows).to(torch.get_default_dtype())


def measured(trainer: VQTrainer, rows: np.ndarray, name: str = "tok_rgb") -> dict[str, float]:
    return quality(name, trainer.result(), [rows])


def batches(steps: range, data: torch.Tensor) -> list[torch.Tensor]:
    """Each step's batch depends on the step alone."""
    return [data[torch.randperm(len(data), generator=torch.Generator().manual_seed(s))[:8]] for s in steps]


def photos(edges: bool) -> np.ndarray:
    skimage = pytest.importorskip("skimage")
    views = []
    for name in ("astronaut", "coffee", "chelsea"):
        image = getattr(skimage.data, name)()
        source = cv2.Canny(image, 100, 200) if edges else image
        windows = crops(0, name, image.shape[1], image.shape[0], 17, scale=(0.2, 1.0))
        views += [apply(w, source, 32, Resample.EDGES if edges else Resample.IMAGE) for w in windows]
    return np.stack(views)


def test_loss_falls_and_quality_rises(double: None) -> None:
    data, held_out = toy(64), toy_rows(16, seed=1)
    trainer = VQTrainer(VQVAE(SMALL), QUICK, start=warm_start)
    before = measured(trainer, held_out)
    losses = [trainer.step(x)["reconstruction"] for x in batches(range(60), data)]
    after = measured(trainer, held_out)
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    assert after["psnr"] > before["psnr"] + 10
    assert after["codes_used"] >= 12 / 64 and after["perplexity"] > 8
    assert after["tokens"] == 16 * 16


def test_codebook_is_used_on_photos(double: None) -> None:
    rows = photos(edges=False)
    trainer = VQTrainer(VQVAE(SMALL), QUICK, start=warm_start)
    metrics = [trainer.step(x) for x in batches(range(60), inputs_of("tok_rgb", rows))]
    result = measured(trainer, rows)
    assert result["codes_used"] > 0.8
    assert result["perplexity"] > 0.4 * 64
    assert metrics[0]["codes_replaced"] > 32  # most start dead, and take latents of the first batch
    assert metrics[-1]["codes_replaced"] < 8


def test_edges_are_reconstructed(double: None) -> None:
    rows = photos(edges=True)
    model = VQVAE(SMALL.model_copy(update={"n_channels": 1}))
    trainer = VQTrainer(model, QUICK, start=warm_start)
    before = measured(trainer, rows, "tok_canny_edge")
    for x in batches(range(60), inputs_of("tok_canny_edge", rows)):
        trainer.step(x)
    after = measured(trainer, rows, "tok_canny_edge")
    assert after["mse"] < before["mse"] and after["f1"] > before["f1"] + 0.1


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resuming_equals_never_stopping(average: float) -> None:
    """Bit for bit, through bytes that `weights_only` reads, with codes dying before and after the stop."""
    config, data = QUICK.model_copy(update={"average": average, "dead_code_coefficient": 1.0}), toy(64)
    whole = VQTrainer(VQVAE(SMALL), config, start=warm_start)
    for x in batches(range(12), data):
        whole.step(x)
    first = VQTrainer(VQVAE(SMALL), config, start=warm_start)
    for x in batches(range(7), data):
        first.step(x)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = VQTrainer(VQVAE(SMALL, seed=9), config, start=warm_start)
    second.load_state_dict(torch.load(stream, weights_only=True))
    torch.manual_seed(123)  # the global generator plays no part
    replaced = sum(second.step(x)["codes_replaced"] for x in batches(range(7, 12), data))
    assert replaced > 0
    a, b = whole.result().state_dict(), second.result().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert second.steps_done == 12


def test_a_checkpoint_of_an_unfused_optimizer_goes_on() -> None:
    """As releases before 0.2 wrote it."""
    trainer = VQTrainer(VQVAE(SMALL), QUICK)
    trainer.step(toy(8))
    state = copy.deepcopy(trainer.state_dict())
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = None
    again = VQTrainer(VQVAE(SMALL, seed=9), QUICK)
    again.load_state_dict(state)
    assert all(group["fused"] for group in again.optimizer.param_groups)
    assert again.step(toy(8))["loss"] == trainer.step(toy(8))["loss"]


def test_learning_rate() -> None:
    trainer = VQTrainer(VQVAE(SMALL), TokenizerSettings(steps=100, warmup_steps=10, base_lr=1.0))
    assert trainer.lr(0) == pytest.approx(1e-6)
    assert trainer.lr(10) == pytest.approx(1.0)
    assert trainer.lr(55) == pytest.approx(0.5)
    assert trainer.lr(100) == trainer.lr(1000) == 0
    assert VQTrainer(VQVAE(SMALL), TokenizerSettings(batch_size=512)).lr(195_000) == pytest.approx(2e-4)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = VQVAE(SMALL)
    groups = VQTrainer(model, QUICK).optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert all(p.ndim == 1 for p in groups[1]["params"])


def test_result_is_the_average_and_leaves_training_alone() -> None:
    data = toy(16)
    trainer = VQTrainer(VQVAE(SMALL), QUICK)
    weight = trainer.model.encoder.proj.weight
    expected = weight.detach().clone()
    for step, x in enumerate(batches(range(4), data)):
        trainer.step(x)
        expected = expected.lerp(weight.detach(), 1 - min(0.9, (1 + step) / (10 + step)))
    result = trainer.result()
    torch.testing.assert_close(result.encoder.proj.weight.detach(), expected)
    assert not result.training and torch.equal(result.quantize.codebook.embed, trainer.model.quantize.codebook.embed)
    result.encoder.proj.weight.data.zero_()
    assert weight.abs().sum() > 0


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    """It is said when the window is read, and names the step."""
    trainer, window, x = VQTrainer(VQVAE(SMALL), QUICK), Window(), toy(8)
    window.add(1, trainer.step(x))
    before = [p.detach().clone() for p in trainer.parameters]
    x[0, 0, 0, 0] = math.nan
    window.add(2, trainer.step(x))
    assert all(torch.equal(p, q) for p, q in zip(trainer.parameters, before, strict=True))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        window.read()


def test_a_warm_start_looks_at_its_batch() -> None:
    trainer = VQTrainer(VQVAE(SMALL), QUICK, start=warm_start)
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.step(torch.full((8, 3, 32, 32), math.nan))
    assert trainer.steps_done == 0


# Cold, and without replaced codes: both take what rank 0 sees, on purpose.
SHARED = QUICK.model_copy(update={"dead_code_coefficient": 0.0})


@pytest.mark.slow  # two processes that import PyTorch
def test_two_ranks_learn_as_one_on_both_batches(two_ranks: Path, double: None) -> None:
    first, second = (torch.load(two_ranks / f"fit{rank}.pt", weights_only=True) for rank in range(2))
    single = tokenizer_ranks.fit(slice(None))
    for name, value in single.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_a_warm_start_is_a_linear_tokenizer(double: None) -> None:
    """Patches that a few components explain come back from unquantized latents, but for the length of a latent."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(3, 3 * 8 * 8, generator=generator)
    basis = torch.linalg.qr(basis.t()).Q.t()
    weights = torch.randn(2 * 16, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    patches = (weights @ basis).view(2, 4, 4, 3, 8, 8)
    x = patches.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32) + 0.1
    model = VQVAE(SMALL)
    warm_start(model, x)
    # Positions are the one thing that the latents hold besides the components.
    model.encoder.pos_emb.zero_()
    model.decoder.pos_emb.zero_()
    z = model.latents(x)
    lengths = z.norm(dim=1, keepdim=True)
    recon = model._reconstruct(z / lengths.mean())
    torch.testing.assert_close(recon, x)
    torch.testing.assert_close(z[:, -1], torch.ones(2, 4, 4))
    first = z[:, 0].flatten()
    assert first.std(correction=1).item() == pytest.approx(1)


def test_a_warm_start_beats_a_cold_one(double: None) -> None:
    rows = photos(edges=False)
    results = []
    for warm in (True, False):
        trainer = VQTrainer(VQVAE(SMALL), QUICK, start=warm_start if warm else None)
        for x in batches(range(30), inputs_of("tok_rgb", rows)):
            trainer.step(x)
        results.append(measured(trainer, rows)["psnr"])
    assert results[0] > results[1] + 1


def test_a_warm_start_needs_room() -> None:
    settings = SMALL.model_dump() | {"latent_dim": 64}
    with pytest.raises(ValueError, match="got latent_dim 64, tokens of width 32"):
        warm_start(VQVAE(VQVAEConfig.model_validate(settings)), toy(8))


TINY = {"image_size": 16, "patch_size": 8, "codebook_size": 16, "latent_dim": 8}
MODELS: dict[str, tuple[Tokenizer, str, torch.Tensor]] = {
    "diffusion": (
        DiVAE(DiVAEConfig.small(16, 1, 2, 32, decoder_patch_size=4, prediction_type="sample", **TINY)),
        "mse",
        F.interpolate(toy(4), size=16),  # bfloat16 convolutions are slow on most CPUs
    ),
    "classes": (
        VQVAE(VQVAEConfig.small(16, 1, 2, n_channels=4, n_labels=5, **TINY)),
        "cross_entropy",
        torch.arange(16)[:, None, None].expand(16, 16, 16) % 5,
    ),
    "features": (
        VQVAE(VQVAEConfig.small(16, 1, 2, n_channels=12, patch_proj=False, **TINY)),
        "smooth_l1",
        torch.randn(16, 12, 1, 1, generator=torch.Generator().manual_seed(0)).expand(16, 12, 2, 2),
    ),
    "vectors": (
        VQVAE(VQVAEConfig.mlp(12, 32, 1, num_codebooks=4, codebook_size=16, latent_dim=32)),
        "cosine",
        torch.randn(16, 12, generator=torch.Generator().manual_seed(0)),
    ),
}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*((kind, "fp32") for kind in MODELS), ("diffusion", "bf16"), ("vectors", "bf16"), ("classes", "fp16")],
)
def test_every_kind_learns_and_resumes_bit_for_bit(kind: str, precision: str) -> None:
    model, loss, x = MODELS[kind]
    config = TokenizerSettings.model_validate({
        "steps": 15, "base_lr": 1e-2, "warmup_steps": 2, "loss": loss, "precision": precision, "average": 0.9,
        "accumulate": 2,
    })  # fmt: skip
    whole = VQTrainer(copy.deepcopy(model), config)
    losses = [whole.step(x)["reconstruction"] for _ in range(15)]
    assert np.mean(losses[-3:]) < 0.95 * losses[0]
    first = VQTrainer(copy.deepcopy(model), config)
    for _ in range(2):
        first.step(x)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = VQTrainer(copy.deepcopy(model), config)
    second.load_state_dict(torch.load(stream, weights_only=True))
    torch.manual_seed(123)  # the global generator plays no part
    for _ in range(2):
        first.step(x), second.step(x)
    a, b = first.result().state_dict(), second.result().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(double: None) -> None:
    norms = {}
    for parts in (1, 4):
        config = SHARED.model_copy(update={"accumulate": parts, "clip_norm": 0.0})
        # A codebook that stands still: it learns from each part, before the next one is coded.
        model = VQVAE(SMALL.model_copy(update={"ema_decay": 1.0}))
        norms[parts] = VQTrainer(model, config).step(toy(8))
    assert norms[4]["gradient_norm"] == pytest.approx(norms[1]["gradient_norm"])
    assert norms[4]["loss"] == pytest.approx(norms[1]["loss"])


def test_fp16_skips_overflowing_steps_then_gives_up() -> None:
    trainer = VQTrainer(VQVAE(SMALL), QUICK.model_copy(update={"precision": "fp16"}))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [p.detach().clone() for p in trainer.parameters]
    window = Window()
    window.add(1, trainer.step(toy(8)))
    assert not math.isfinite(window.read()["gradient_norm"])
    assert all(torch.equal(p, q) for p, q in zip(trainer.parameters, before, strict=True))
    assert trainer.scaler.get_scale() == 2.0**126
    for parameter in trainer.parameters[:1]:
        parameter.register_hook(lambda gradient: gradient * math.inf)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-15)
    window.add(2, trainer.step(toy(8)))
    with pytest.raises(FloatingPointError, match=r"norm of the gradient is .* at step 2"):
        window.read()


def test_an_adaptation_has_a_schedule_of_its_own() -> None:
    later = Resolutions(sizes=(32, 64), steps=50, base_lr=0.5, warmup_steps=10)
    trainer = VQTrainer(VQVAE(SMALL), TokenizerSettings(steps=100, warmup_steps=10, batch_size=512, resolutions=later))
    # Rates are for batches of 256 over all ranks.
    assert trainer.lr(10) == pytest.approx(2e-4) and trainer.lr(99) < 1e-6 and trainer.lr(100) == pytest.approx(1e-6)
    assert trainer.lr(110) == pytest.approx(1.0) and trainer.lr(130) == pytest.approx(0.5)
    assert trainer.settings.total_steps == 150


def test_other_sizes_train_the_same_model() -> None:
    trainer = VQTrainer(VQVAE(SMALL), QUICK, start=warm_start)
    for size in (32, 48, 64):
        trainer.step(F.interpolate(toy(8), size=size))
        share = (size // 8) ** 2 * 8 / 64 / QUICK.dead_code_coefficient
        assert trainer.model.quantize.codebook.threshold == pytest.approx(share)


def test_a_perceptual_loss_is_added_with_its_weight(double: None) -> None:
    def distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).abs().mean() + 1

    config = QUICK.model_copy(update={"perceptual_weight": 0.5})
    metrics = VQTrainer(VQVAE(SMALL), config, perceptual=distance).step(toy(8))
    assert metrics["perceptual"] > 1
    parts = metrics["reconstruction"] + metrics["commitment"] + 0.5 * metrics["perceptual"]
    assert metrics["loss"] == pytest.approx(parts)


def test_random_numbers_of_a_step_are_its_own() -> None:
    draws = {
        key: torch.rand(4, generator=generator(*key)).tolist()
        for key in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    }
    assert len({tuple(values) for values in draws.values()}) == 5
    assert draws[0, 0, 0, 0] == torch.rand(4, generator=generator(0, 0, 0, 0)).tolist()


def test_a_compiled_model_is_kept_as_a_plain_one() -> None:
    trainer = VQTrainer(VQVAE(SMALL), QUICK.model_copy(update={"compile": True}))
    assert trainer.model.encoder.blocks[0]._compiled_call_impl is not None
    result = trainer.result()
    assert list(result.state_dict()) == list(VQVAE(SMALL).state_dict())
    assert torch.equal(result.encode(toy(2)), VQTrainer(VQVAE(SMALL), QUICK, start=warm_start).result().encode(toy(2)))
