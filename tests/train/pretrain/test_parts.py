"""Micro-batches without padding: the same run, less work, and no more graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import training
from fourmill_tests.kernels import varlen

from fourmill.train.pretrain.parts import Parts
from fourmill.train.pretrain.trainer import Trainer, Window

RANGE: dict[str, Any] = {"input_tokens": [3, 24], "target_tokens": 20}


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    varlen.on_cpu()


def as_on_a_gpu(parts: Parts) -> Parts:
    """Parts whose attention has no padding either."""
    return replace(parts, unpaddings=[one and replace(one, fused=True) for one in parts.unpaddings])


def test_a_run_without_padding_learns_the_same(tmp_path: Path) -> None:
    """Fifty steps in float32, on a CPU's way and on a GPU's."""
    found = []
    for unpad, change in ((False, None), (True, None), (True, as_on_a_gpu)):
        one = training.trainer(training.job(tmp_path, **RANGE, steps=50, base_lr=1e-3, unpad=unpad))
        batches, window = one.loader.made(one.parts, 0, 8), Window(one.outputs)
        for _ in range(50):
            parts = next(batches)[1]
            one.train_step(parts if change is None else change(parts), window)
        batches.close()
        found.append(torch.stack([torch.stack([entry.loss, entry.norm]) for entry in window.entries]))
    assert all((found[0] - other).abs().max() < 1e-5 for other in found[1:])
    assert found[0][-1, 0] < found[0][0, 0]


@pytest.mark.parametrize(
    ("targets", "model", "expected"),
    [
        ({"tok_rgb": 1.0, "tok_dinov2_global": 1.0}, {}, True),
        ({"tok_rgb": 1.0, "caption": 1.0}, {}, False),
        ({"tok_rgb": 1.0}, {"decoder_separate": False}, False),
        ({"tok_rgb": 1.0}, {"decoder_causal": True}, False),
    ],
)
def test_targets_of_grids_have_no_padding(
    tmp_path: Path, targets: dict[str, float], model: dict[str, Any], expected: bool
) -> None:
    """Where a run asks for no text, and a query sees all of its modality."""
    mixtures = [{"input_alpha": 1.0, "target_alpha": targets}]
    job = training.job(tmp_path, **RANGE, unpad=True, mixtures=mixtures, model=training.TINY["model"] | model)
    one = training.trainer(job)
    batches = one.loader.made(one.parts, 0, 8)
    (unpadding,) = next(batches)[1].unpaddings
    batches.close()
    assert unpadding is not None and (unpadding.runs is not None) is expected


def computed(one: Trainer, steps: int) -> tuple[int, int]:
    """Tokens that the encoder's blocks got in some steps, and inputs that the batches had: counted apart."""
    got: list[int] = []
    hook = one.model.encoder[0].register_forward_pre_hook(lambda _, args: got.append(args[0].shape[:-1].numel()))
    batches, given = one.loader.batches(0, one.settings.batch_size), 0
    for _ in range(steps):
        batch = next(batches)[1]
        given += int(np.asarray(batch.input_valid).sum())
        one.train_step(one.parts(batch), Window(one.outputs))
    batches.close()
    hook.remove()
    return sum(got), given


@pytest.mark.parametrize("unpad", [False, True])
def test_the_encoder_gets_hardly_any_padding(tmp_path: Path, unpad: bool) -> None:
    many = RANGE | {"batch_size": 128}
    rows, given = computed(training.trainer(training.job(tmp_path, rows=128, **many, unpad=unpad)), 2)
    share = 1 - given / rows
    assert share < 0.03 if unpad else share > 0.3


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [({}, "cuda", False), (RANGE, "cuda", True), (RANGE, "cpu", False), ({"unpad": True}, "cpu", True)],
)
def test_padding_is_left_out_where_it_pays(given: dict[str, Any], device: str, expected: bool) -> None:
    assert training.recipe_of("out", **given).train.unpads(device) is expected
