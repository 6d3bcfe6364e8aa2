"""A training step is one graph, and nothing in it waits for the device: counted, not promised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import runs, training
from fourmill_tests.counted.operations import Operations, counting

from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.prepare import TargetGroups, group_targets, only_shown
from fourmill.train.pretrain.trainer import Trainer, Window


def test_the_counter_counts() -> None:
    x = torch.arange(4.0)
    for wait in (lambda: x[0].item(), lambda: x[x > 1], lambda: bool(x.sum()), lambda: x.nonzero()):
        with Operations() as mode:
            wait()
        assert mode.waits, "an operation that waits was not seen"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    yield training.trainer(training.job(tmp_path_factory.mktemp("free"), clip_norm=1.0, ema=0.9, accumulate=2))


def batch_of(one: Trainer) -> tuple[PackedBatch, PackedBatch, TargetGroups]:
    """A batch as the loader makes it, the same as tensors, and its targets."""
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    return batch, batch.to("cpu"), group_targets(batch, len(one.model.config.modalities))


def test_no_operation_of_a_step_waits(one: Trainer) -> None:
    """Forward, backward, clipping, AdamW and the average, from a batch of the loader."""
    batch, _, _ = batch_of(one)
    window = Window(one.outputs)
    parts = one.parts(batch)  # made beside the step
    with Operations() as mode:
        one.train_step(parts, window)
        one.train_step(parts, window)
    assert mode.seen["addmm"] + mode.seen["mm"] > 50, "the step was not seen"
    assert not mode.waits


def test_the_step_is_one_graph(one: Trainer) -> None:
    _, batch, groups = batch_of(one)
    model = one.model

    def step(batch: PackedBatch) -> torch.Tensor:
        loss: torch.Tensor = model(batch, groups=groups).loss
        return loss

    torch._dynamo.reset()
    explained = torch._dynamo.explain(step)(batch)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
    assert explained.op_count > 100


def test_masks_are_made_once_for_all_blocks(one: Trainer) -> None:
    """Operations on booleans do not grow with the number of blocks."""
    _, batch, groups = batch_of(one)
    counts = []
    for depth in (1, 6):
        model = FourM(replace(one.model.config, encoder_depth=depth, decoder_depth=depth))
        with Operations() as mode:
            model(batch, groups=groups)
        counts.append(mode.booleans)
    assert 0 < counts[0] == counts[1]


@pytest.mark.parametrize("size", ["S", "L", "XL"])
def test_products_have_aligned_rows(one: Trainer, size: str) -> None:
    """A hidden width of 2/3 x 4 x width is no multiple of 8 (5,461 at XL): such rows are slow on a GPU."""
    specs = one.model.config.modalities
    with torch.device("meta"):
        config = replace(FourMConfig.preset(size, specs), encoder_depth=1, decoder_depth=1)
        model = FourM(config)
        x, context = torch.empty(8, 64, config.dim), torch.empty(8, 64, config.dim)
    with Operations() as operations:
        model.decoder[0](model.encoder[0](x, None), context, None, None).sum().backward()
    assert operations.products > 0 and operations.unaligned == 0
    assert {tuple(p.shape) for p in model.encoder[0].mlp.parameters()} == {
        (config.mlp_hidden, config.dim), (config.dim, config.mlp_hidden)
    }, "the zeros are no parameters"  # fmt: skip


def test_only_what_is_shown_goes_to_the_device(one: Trainer) -> None:
    """Bytes of a step's raw inputs, against those of the rows that inputs show."""
    batch, _, _ = batch_of(one)
    parts = one.parts(batch)
    pixels = one.model.config.index("rgb")
    shown = [int((np.asarray(p.input_valid) & (np.asarray(p.input_mod) == pixels)).sum()) for p in parts.batches]
    sent = [np.asarray(part.values["rgb"]).nbytes for part in parts.batches]
    assert sum(shown) > 0 and sent == [48 * max(1, rows) for rows in shown]


def test_rows_that_are_shown_give_the_same_losses(one: Trainer) -> None:
    batch, _, _ = batch_of(one)
    whole = one.model(batch)
    small = only_shown(one.model.config, batch)
    assert np.asarray(small.values["rgb"]).ndim == 2
    for name, loss in one.model(small).losses.items():
        torch.testing.assert_close(loss, whole.losses[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_gradients_are_scaled_only_if_asked(tmp_path: Path, clip_norm: float | None) -> None:
    one = training.trainer(training.job(tmp_path, clip_norm=clip_norm))
    for p in one.weights.parameters:
        p.grad = torch.ones_like(p)
    with Operations() as mode:
        norm = one._norm(clip_norm)
    size = sum(p.numel() for p in one.weights.parameters)
    assert norm.item() == pytest.approx(size**0.5)
    assert any("mul" in name for name in mode.seen) is (clip_norm is not None)


def test_the_newest_step_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of a window are read when the step after it has begun, but for a checkpoint."""
    one = training.trainer(training.job(tmp_path, steps=9, log_every=2, checkpoint_every=9, validate_every=9))
    read: list[tuple[int, int]] = []
    look = Trainer._look

    def looking(self: Trainer, window: Window, *args: Any) -> None:
        read.append((window.step, self.step))
        look(self, window, *args)

    monkeypatch.setattr(Trainer, "_look", looking)
    one.run(training.Silent())
    assert read == [(2, 3), (4, 5), (6, 7), (8, 9), (9, 9)]
    assert [line["step"] for line in runs.losses(tmp_path) if line["kind"] == "train"] == [2, 4, 6, 8, 9]


UNPADDED: dict[str, Any] = {"ema": 0.9, "unpad": True, "input_tokens": [3, 24], "activation_checkpointing": "selective"}


@pytest.mark.parametrize("settings", [{}, UNPADDED])
def test_validation_between_steps_compiles_nothing_new(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Two graphs with gradients, two without, whatever the depth; under autocast, with its parameters or averages, and
    whatever padding is left out."""
    graphs: list[int] = []

    torch._dynamo.reset()
    one = training.trainer(training.job(tmp_path, precision="bf16", accumulate=2, **settings))
    one.model.compile_blocks(backend=counting(graphs), fullgraph=True)
    batches = one.loader.made(one.parts, 0, 8)
    counts, sizes = [], set()
    for step in range(20):
        parts = next(batches)[1]
        sizes |= {unpadding and len(unpadding.places) for unpadding in parts.unpaddings}
        one.train_step(parts, Window(one.outputs))
        if step % 8 == 3:
            one.validate()
        counts.append(len(graphs))
    batches.close()
    assert (counts[0], counts[-1]) == (2, 4)
    assert len(sizes) > 2 if "unpad" in settings else sizes == {None}


def test_blocks_of_a_side_share_a_graph(one: Trainer, tmp_path: Path) -> None:
    """`train.compile`: static shapes, one compilation for all blocks of a side however many batches come."""
    _, batch, groups = batch_of(one)
    compiled: list[int] = []

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = FourM(one.model.config)
    expected = model(batch, groups=groups).loss
    model.compile_blocks(backend=counting(compiled), fullgraph=True)
    for _ in range(2):
        loss = model(batch, groups=groups).loss
    assert len(compiled) == 2, "the blocks of the encoder, and those of the decoder"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
