"""In how many digits a fitted tokenizer encodes: float32 on a CPU, byte for byte, and in half precision where asked."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.counted.digits import Digits

from fourmill.tokenize import tokenizer
from fourmill.tokenize.codec import FittedTokenizer
from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.networks.products import in_tf32, products
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.settings import FLOAT32, Precision, TokenizerSettings
from fourmill.train.tokenizers.vq import VQTrainer
from fourmill.train.tokenizers.warm_start import warm_start

SIZES = VQVAEConfig.small(
    64, 2, 2, image_size=32, patch_size=8, codebook_size=128, latent_dim=8, post_mlp=True, ema_decay=0.9,
)  # fmt: skip


def pictures(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 32, 32, 3): soft colours with edges."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 6, 3)).repeat(6, 1).repeat(6, 2)[:, 2:34, 2:34]
    return (coarse + random.integers(0, 20, coarse.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of RGB, fitted for some steps."""
    place = tmp_path_factory.mktemp("tok_rgb")
    settings = TokenizerSettings(steps=25, base_lr=2e-3, warmup_steps=5, dead_code_coefficient=8, average=0.9)
    trainer = VQTrainer(VQVAE(SIZES), settings, start=warm_start)
    for step in range(25):
        trainer.step(to_input("tok_rgb", pictures(16, step)))
    tokenizer.save(trainer.result(), place, {}, name="tok_rgb")
    return place


def opened(folder: Path, precision: Precision) -> FittedTokenizer:
    return FittedTokenizer("tok_rgb", str(folder), "cpu", precision=precision)


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_ids(folder: Path, asked: str) -> None:
    """99 % at least are equal, and what they decode to is as near to the picture, to 1 %."""
    rows = pictures(64, 1_000)
    exact, half = opened(folder, FLOAT32), opened(folder, Precision(asked))
    ids, others = exact.encode(rows), half.encode(rows)
    assert len(np.unique(ids)) > 32, "a codebook that is not used says nothing"
    assert (ids == others).mean() >= 0.99
    error, other = (
        ((exact.decode(one, 4).astype(np.float64) - rows) ** 2).mean() for one in (ids.astype(int), others.astype(int))
    )
    assert other <= 1.01 * error


def test_a_cpu_encodes_in_float32_byte_for_byte(folder: Path) -> None:
    rows = pictures(8, 7)
    ours, model = opened(folder, TokenizerSettings(precision="fp16").encodes_in), tokenizer.load(folder)
    assert ours.precision == "fp32"
    with Digits() as digits, torch.no_grad():
        ids = ours._ids(to_input("tok_rgb", rows))
    assert set(digits.flops) == {torch.float32}
    assert np.array_equal(ours.encode(rows), model.encode(to_input("tok_rgb", rows)).flatten(1).numpy())
    assert torch.equal(ids, model.encode(to_input("tok_rgb", rows)))


def test_a_gpu_encodes_as_it_was_fitted() -> None:
    assert TokenizerSettings(precision="fp16").encodes_in.on("cuda:1") == "fp16"
    assert TokenizerSettings(precision="fp16", encoding="fp32").encodes_in.on("cuda") == "fp32"
    assert TokenizerSettings(precision="fp16", encoding="bf16").encodes_in.on("cpu") == "bf16"


def test_nearly_all_of_the_work_is_in_half_precision(folder: Path) -> None:
    """But for the projection and the codebook, of which there is much in a network this small."""
    half = opened(folder, Precision("bf16"))
    with Digits() as digits, torch.no_grad():
        half._ids(to_input("tok_rgb", pictures(4, 0)))
    latents = 4 * 16
    compared = 2 * latents * (SIZES.codebook_size * SIZES.latent_dim + 64 * SIZES.latent_dim)
    assert digits.flops[torch.float32] == compared and digits.flops[torch.bfloat16] > 50 * compared / 4


def test_what_half_precision_cannot_hold_is_encoded_by_itself(tmp_path: Path) -> None:
    """Its row in float32, and the ids of the other rows are those without it."""
    config = VQVAEConfig.mlp(12, 32, 1, num_codebooks=4, codebook_size=16, latent_dim=32)
    tokenizer.save(VQVAE(config), tmp_path, {}, name="tok_dinov2_global")
    rows = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float16)
    wild = rows.copy()
    wild[1] = 60_000  # what follows is beyond the largest number of float16
    half, exact = (
        FittedTokenizer("tok_dinov2_global", str(tmp_path), "cpu", precision=Precision(one)) for one in ("fp16", "fp32")
    )
    ids = half.encode(wild)
    assert np.array_equal(ids[[0, 2]], half.encode(rows[[0, 2]]))
    assert np.array_equal(ids[1], exact.encode(wild[1:2])[0])
    wild[1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        half.encode(wild)


def test_products_of_float32_are_exact_unless_a_network_asks() -> None:
    """TF32 while it launches, on a GPU alone; codebooks are compared exactly even then."""
    seen = []

    def forward() -> None:
        seen.append(torch.get_float32_matmul_precision())
        with products("cuda", tf32=False):
            seen.append(torch.get_float32_matmul_precision())

    in_tf32(forward, "cuda:0")()
    in_tf32(forward, "cpu")()
    assert seen == ["high", "highest", "highest", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_another_thread_waits_for_its_digits() -> None:
    seen: list[str] = []

    def other() -> None:
        with products("cuda", tf32=False):
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=other)
    with products("cuda", tf32=True):
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and not seen
    thread.join()
    assert seen == ["highest"]
