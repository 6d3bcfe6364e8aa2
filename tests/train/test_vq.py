"""Fitting a VQ-VAE: it learns, it resumes bit for bit, its codebook lives, and its quality is measured rightly."""

from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from fourmill.tokenize.crops import Resample, apply, crops
from fourmill.tokenize.pixels import preprocess
from fourmill.tokenize.vqvae import VQVAE, VQVAEConfig
from fourmill.train.vq import VQFitConfig, VQTrainer, quality, reconstruction_loss
from fourmill.train.vq_start import warm_start

SMALL = VQVAEConfig.small(
    dim=32, depth=1, heads=2, image_size=32, patch_size=8, codebook_size=64, latent_dim=8,
    ema_decay=0.95,
)  # fmt: skip
QUICK = VQFitConfig(
    steps=60, batch_size=8, lr=3e-3, warmup=5, dead_code_coefficient=8, average=0.9, warm_start=True
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy(count: int, seed: int = 0) -> torch.Tensor:
    """Mosaics (count, 3, 32, 32) in [-1, 1] of 4 x 4 tiles, each one of 12: a codebook can hold them all."""
    kinds = torch.randn(12, 3, 3, 3, generator=torch.Generator().manual_seed(99))
    tiles = F.interpolate(kinds, size=8, mode="bicubic").clamp(-1, 1)
    which = torch.randint(12, (count, 4, 4), generator=torch.Generator().manual_seed(seed))
    return tiles[which].permute(0, 3, 1, 4, 2, 5).reshape(count, 3, 32, 32)


def batches(steps: range, data: torch.Tensor) -> list[torch.Tensor]:
    """Each step's batch depends on the step alone."""
    return [data[torch.randperm(len(data), generator=torch.Generator().manual_seed(s))[:8]] for s in steps]


def photos(edges: bool) -> torch.Tensor:
    skimage = pytest.importorskip("skimage")
    views = []
    for name in ("astronaut", "coffee", "chelsea"):
        image = getattr(skimage.data, name)()
        source = cv2.Canny(image, 100, 200) if edges else image
        windows = crops(0, name, image.shape[1], image.shape[0], 17, scale=(0.2, 1.0))
        views += [apply(w, source, 32, Resample.EDGES if edges else Resample.IMAGE) for w in windows]
    return preprocess("tok_canny_edge" if edges else "tok_rgb", np.stack(views))


def test_loss_falls_and_quality_rises() -> None:
    data, held_out = toy(64), toy(16, seed=1)
    trainer = VQTrainer(VQVAE(SMALL), QUICK)
    before = trainer.evaluate([held_out])
    losses = [trainer.step(x)["reconstruction"] for x in batches(range(60), data)]
    after = trainer.evaluate([held_out])
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    assert after["psnr"] > before["psnr"] + 10
    assert after["codes_used"] >= 12 / 64 and after["perplexity"] > 8
    assert after["tokens"] == 16 * 16


def test_codebook_is_used_on_photos() -> None:
    data = photos(edges=False)
    trainer = VQTrainer(VQVAE(SMALL), QUICK)
    metrics = [trainer.step(x) for x in batches(range(60), data)]
    result = trainer.evaluate([data])
    assert result["codes_used"] > 0.8
    assert result["perplexity"] > 0.4 * 64
    assert metrics[0]["codes_replaced"] > 32  # most start dead, and take latents of the first batch
    assert metrics[-1]["codes_replaced"] < 8


def test_edges_are_found_again() -> None:
    data = photos(edges=True)
    model = VQVAE(SMALL.model_copy(update={"n_channels": 1}))
    trainer = VQTrainer(model, QUICK)
    before = trainer.evaluate([data], "edges")
    for x in batches(range(60), data):
        trainer.step(x)
    after = trainer.evaluate([data], "edges")
    assert after["mse"] < before["mse"] and after["f1"] > before["f1"] + 0.1


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resuming_equals_never_stopping(average: float) -> None:
    """Bit for bit, through bytes that `weights_only` reads, with codes dying before and after the stop."""
    config, data = QUICK.model_copy(update={"average": average, "dead_code_coefficient": 1.0}), toy(64)
    whole = VQTrainer(VQVAE(SMALL), config)
    for x in batches(range(12), data):
        whole.step(x)
    first = VQTrainer(VQVAE(SMALL), config)
    for x in batches(range(7), data):
        first.step(x)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = VQTrainer(VQVAE(SMALL, seed=9), config)
    second.load_state_dict(torch.load(stream, weights_only=True))
    torch.manual_seed(123)  # the global generator plays no part
    replaced = sum(second.step(x)["codes_replaced"] for x in batches(range(7, 12), data))
    assert replaced > 0
    a, b = whole.result().state_dict(), second.result().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert second.steps_done == 12


def test_learning_rate() -> None:
    trainer = VQTrainer(VQVAE(SMALL), VQFitConfig(steps=100, warmup=10, lr=1.0, min_lr=0.1))
    assert trainer.lr(0) == pytest.approx(1e-6)
    assert trainer.lr(10) == pytest.approx(1.0)
    assert trainer.lr(55) == pytest.approx(0.55)
    assert trainer.lr(100) == trainer.lr(1000) == pytest.approx(0.1)
    assert VQTrainer(VQVAE(SMALL), VQFitConfig(batch_size=512)).peak_lr == pytest.approx(2e-4)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = VQVAE(SMALL)
    groups = VQTrainer(model, QUICK).optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert all(p.ndim == 1 for p in groups[1]["params"])


def test_result_is_the_average_and_leaves_training_alone() -> None:
    data = toy(16)
    trainer = VQTrainer(VQVAE(SMALL), QUICK.model_copy(update={"warm_start": False}))
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


@pytest.mark.parametrize("warm", [True, False])
def test_a_loss_that_is_not_finite_stops_before_the_weights_break(warm: bool) -> None:
    trainer = VQTrainer(VQVAE(SMALL), QUICK.model_copy(update={"warm_start": warm}))
    x = toy(8)
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="finite" if warm else "step 0"):
        trainer.step(x)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.steps_done == 0


def test_losses() -> None:
    x, recon = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0)
    recon.requires_grad_()
    values = {name: reconstruction_loss(recon, x, VQFitConfig(loss=name)).item() for name in ("mse", "l1", "smooth_l1")}
    assert values == {"mse": 4.0, "l1": 2.0, "smooth_l1": 1.5}
    with_gradient = VQFitConfig(gradient_weight=1.0)
    assert reconstruction_loss(recon, x, with_gradient).item() == 4.0  # a constant error has no differences
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1.0
    # Squared error 0.5; horizontal differences of 1 at full scale, none when averaged over pairs.
    assert reconstruction_loss(stripes, x, with_gradient).item() == pytest.approx(0.5 + 1 / 3)
    labels = torch.randint(5, (2, 8, 8))
    logits = F.one_hot(labels, 5).permute(0, 3, 1, 2) * 50.0
    assert reconstruction_loss(logits, labels, VQFitConfig(loss="cross_entropy")).item() < 1e-6
    assert reconstruction_loss(-recon, recon.detach(), VQFitConfig(loss="cosine")).item() == pytest.approx(2.0)


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    trainer = VQTrainer(VQVAE(SMALL), SHARED.model_copy(update={"batch_size": 4}))
    for x in batches(range(3), toy(64)):
        trainer.step(x[rank::2])
    torch.save(trainer.result().state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


# Cold, and without replaced codes: both take what rank 0 sees, on purpose.
SHARED = QUICK.model_copy(update={"warm_start": False, "dead_code_coefficient": 0.0})


def test_two_ranks_learn_what_one_learns_from_their_batches_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the ranks import this file by its name
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    single = VQTrainer(VQVAE(SMALL), SHARED)
    for x in batches(range(3), toy(64)):
        single.step(x)
    for name, value in single.result().state_dict().items():
        assert torch.equal(first[name], second[name]), name
        # Adam turns rounding in a gradient of about zero into a step of lr: allow that to a few.
        assert ((first[name] - value).abs() > 2e-4).float().mean() < 0.01, name


def test_a_warm_start_is_a_linear_tokenizer() -> None:
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
    torch.testing.assert_close(recon, x, atol=1e-4, rtol=0)
    torch.testing.assert_close(z[:, -1], torch.ones(2, 4, 4))
    first = z[:, 0].flatten()
    assert first.std(correction=1).item() == pytest.approx(1, abs=1e-4)


def test_a_warm_start_beats_a_cold_one() -> None:
    data = photos(edges=False)
    results = []
    for warm in (True, False):
        trainer = VQTrainer(VQVAE(SMALL), QUICK.model_copy(update={"warm_start": warm}))
        for x in batches(range(30), data):
            trainer.step(x)
        results.append(trainer.evaluate([data])["psnr"])
    assert results[0] > results[1] + 1


def test_a_warm_start_needs_room() -> None:
    settings = SMALL.model_dump() | {"latent_dim": 64}
    with pytest.raises(ValueError, match="got latent_dim 64, tokens of width 32"):
        warm_start(VQVAE(VQVAEConfig.model_validate(settings)), toy(8))


class Fixed(torch.nn.Module):
    """A tokenizer that says what it is told to."""

    def __init__(self, recon: torch.Tensor, ids: torch.Tensor) -> None:
        super().__init__()
        self.recon, self.ids, self.config = recon, ids, SMALL
        self.eval()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.ids

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        return self.recon


def test_measures_by_hand() -> None:
    ids = torch.tensor([[[0, 1], [2, 3]]])
    x = torch.zeros(1, 3, 16, 16)
    result = quality(Fixed(x + 0.2, ids), [x])  # 0.2 of a range of 2: 20 dB
    assert result["psnr"] == pytest.approx(20, abs=1e-4)
    assert result["codes_used"] == 4 / 64 and result["perplexity"] == pytest.approx(4)
    true = torch.tensor([[[[1.0, 1.0, -1.0, -1.0]]]])
    found = torch.tensor([[[[1.0, -1.0, 1.0, -1.0]]]])
    result = quality(Fixed(found, ids), [true, true], "edges")
    assert (result["precision"], result["recall"], result["f1"], result["mse"]) == (0.5, 0.5, 0.5, 0.5)
    assert result["iou"] == pytest.approx(1 / 3)
    labels = torch.tensor([[[0, 0, 1, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 0, 1, 2]]]), 4).permute(0, 3, 1, 2).float()
    result = quality(Fixed(logits, ids), [labels], "labels")
    assert result["accuracy"] == 0.75 and result["miou"] == pytest.approx((1 + 0.5 + 0) / 3)
    features = torch.randn(1, 4, 2, 2)
    result = quality(Fixed(-features, ids), [features], "features")
    assert result["cosine"] == pytest.approx(-1) and result["mse"] == pytest.approx(4 * features.square().mean().item())
    with pytest.raises(ValueError, match="no batch"):
        quality(Fixed(x, ids), [])
