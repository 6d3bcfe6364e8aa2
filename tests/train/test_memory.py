"""What a training step takes is counted on tensors without data, and is what the allocator gives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fourmill_tests.counted.memory import allocated

from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation.generate import Step, generate
from fourmill.model.prepare import group_targets
from fourmill.tokenize.settings import TokenizerSettings
from fourmill.train import memory
from fourmill.train.downstream.settings import Chain
from fourmill.train.memory import Live, Need
from fourmill.train.settings import Train
from fourmill.train.tokenizers import build

TOLERANCE = 0.02  # of the allocator's peak


def config(vocabulary: int = 512, names: Sequence[str] = ("tok_rgb", "tok_depth"), **sizes: Any) -> FourMConfig:
    specs = [replace(spec(name, image_size=224), vocab_size=vocabulary) for name in names]
    return FourMConfig(tuple(specs), **({"dim": 64, "encoder_depth": 3, "decoder_depth": 3, "num_heads": 2} | sizes))


@pytest.mark.parametrize(("precision", "checkpointing"), [("fp32", False), ("bf16", "selective")])
def test_a_step_takes_what_was_counted(tmp_path: Path, precision: Any, checkpointing: Any) -> None:
    sizes = config()
    train = Train(input_tokens=64, target_tokens=96, precision=precision, activation_checkpointing=checkpointing)
    model = FourM(sizes).train()
    model.checkpoint_blocks(checkpointing)
    batch = memory._batch(sizes, 16, *train.budgets)
    groups = group_targets(batch, 2)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch, groups=groups).loss
        loss.backward()

    step()  # there are gradients from the second micro-batch on
    need = memory.of_training(sizes, train, "cpu")
    parameters = sum(p.numel() for p in model.parameters())
    assert need.state == 16 * parameters
    assert need.bytes(16) - need.state == pytest.approx(allocated(step, tmp_path), rel=TOLERANCE)


def test_what_is_dropped_is_not_counted() -> None:
    with Live() as live:
        x = torch.ones(1_000)
        y = x + 1
        view = y[:10]
        del y
        x.add_(1)
        assert live.bytes == live.peak == 8_000
        del view, x
        z = torch.zeros(500)
    assert (live.bytes, live.peak) == (2_000, 8_000) and len(z) == 500


def test_the_most_samples_that_fit() -> None:
    need = Need(state=100, work=10, sample=7)
    assert need.fits(need.bytes(5)) == need.fits(need.bytes(5) + 6) == 5
    assert need.fits(100) == 0


def test_sharded_parameters_are_a_share_and_what_is_gathered() -> None:
    sizes = config(encoder_depth=12, decoder_depth=12)
    alone, few, many = (
        memory._state(sizes, Train(workers=workers, batch_size=64, parallel=how))
        for workers, how in ((8, "ddp"), (8, "fsdp"), (32, "fsdp"))
    )
    assert many < few < alone
    assert few - many == pytest.approx(alone * (1 / 8 - 1 / 32))


def test_an_average_of_the_weights_is_counted() -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in FourM(config()).parameters())
    plain, averaged = (memory._state(config(), Train(ema=ema)) for ema in (0.0, 0.99))
    assert averaged - plain == 4 * parameters


def test_a_fit_takes_what_was_counted(tmp_path: Path) -> None:
    settings = TokenizerSettings(
        dim=64, encoder_depth=2, decoder_depth=2, heads=2, codebook_size=64, patch_size=16, latent_dim=8
    )
    model: Any = build.model("tok_depth", settings, 64, (64, 64, 1)).train()
    x = torch.rand(64, 1, 64, 64)

    def step() -> None:
        output = model.step(x)
        (F.mse_loss(output.prediction, output.target) + output.commitment).backward()

    step()
    need = memory.of_fit("tok_depth", settings, 64)
    assert need.state == 20 * sum(p.numel() for p in model.parameters())
    assert need.bytes(64) - need.state == pytest.approx(
        allocated(step, tmp_path), rel=2 * TOLERANCE
    )  # the codebook's step


def test_generation_takes_what_was_counted(tmp_path: Path) -> None:
    sizes = config(vocabulary=2048)
    chains = [Chain(inputs=["tok_depth"], to=[{"target": "tok_rgb", "steps": 1, "guidance": 2.0}])]
    model = FourM(sizes).eval()
    steps = [Step("tok_rgb", "maskgit", steps=1, guidance=2.0)]
    given = {"tok_depth": np.zeros((16, 196), np.int64)}
    need = memory.of_generation(sizes, chains, narrow=False)
    assert need.state == 4 * sum(p.numel() for p in model.parameters())
    peak = allocated(lambda: generate(model, given, steps, seed=0), tmp_path)
    assert need.bytes(16) - need.state == pytest.approx(peak, rel=2 * TOLERANCE)  # what it samples with


def test_texts_keep_keys_and_values() -> None:
    """Of each layer, of what is read and what is written: twice as many with guidance."""

    def sample(depth: int, guidance: float) -> float:
        step = {"target": "caption", "guidance": guidance, "max_tokens": 32}
        sizes = config(names=("tok_rgb", "caption"), decoder_depth=depth)
        return memory.of_generation(sizes, [Chain(inputs=["tok_rgb"], to=[step])], narrow=False).sample

    of_layer = 2 * 64 * (196 + 1 + 32) * 4
    assert sample(5, 1.0) - sample(3, 1.0) == 2 * of_layer
    assert sample(5, 2.0) - sample(3, 2.0) == 4 * of_layer
