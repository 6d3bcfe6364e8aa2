"""A model that computes no padding: what it learns is the same, and how much it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from fourmill_tests.counted.operations import counting
from fourmill_tests.kernels import varlen
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.prepare import only_shown
from fourmill.model.unpadding import Unpadding, has_kernel
from fourmill.train.masking.packing import Chosen, pack

Batches = Callable[..., PackedBatch]


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    """A CPU takes the way of a GPU where a test says `fused`."""
    varlen.on_cpu()


def with_inputs(batch: PackedBatch, counts: list[int]) -> PackedBatch:
    """The batch with so many inputs of each sample."""
    batch.input_valid = np.arange(batch.input_valid.shape[1]) < np.array(counts)[:, None]
    return batch


@pytest.mark.parametrize("registers", [0, 3])
def test_losses_and_gradients_are_the_same(random_batch: Batches, config: FourMConfig, registers: int) -> None:
    """Whatever is padding: parts of samples, and all of one."""
    model = FourM(replace(config, num_register_tokens=registers, qk_norm=bool(registers))).double()
    batch = random_batch(config, seed=1)
    batch = only_shown(config, with_inputs(batch, [0, *range(3, 2 + batch.num_samples)]))
    padded = losses_and_gradients(model, batch, None)
    for fused in (False, True):
        unpadded = losses_and_gradients(model, batch, Unpadding.of(batch, registers, fused=fused))
        for a, b in zip(padded, unpadded, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def of_grids(config: FourMConfig, seed: int, samples: int = 64) -> tuple[FourMConfig, PackedBatch]:
    """A batch whose targets are those of grids alone, in runs, with some padding; all samples of different lengths."""
    random = np.random.default_rng(seed)
    specs = config.modalities[1:4]
    config = FourMConfig(specs, dim=64, num_heads=8, encoder_depth=2, decoder_depth=2)
    counts = random.integers(0, [[5], [4], [16]], (3, samples))

    def chosen(spec: ModalitySpec, count: np.ndarray) -> Chosen:
        ids = random.integers(0, spec.vocab_size, count.sum())
        return Chosen(count, ids, ids % spec.max_tokens)

    none = np.zeros(samples, np.int64)
    inputs = [chosen(spec, random.integers(0, 16, samples)) for spec in specs]
    targets = [chosen(spec, none if spec.kind is Kind.SEQUENCE else c) for spec, c in zip(specs, counts, strict=True)]
    return config, pack(specs, inputs, targets, 48, 24)


def losses_and_gradients(model: FourM, batch: PackedBatch, unpadding: Unpadding | None) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(batch, unpadding=unpadding).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_targets_of_grids_attend_within_their_modality(config: FourMConfig) -> None:
    config, batch = of_grids(config, seed=2)
    model = FourM(config).double()
    padded = losses_and_gradients(model, batch, None)
    for fused in (False, True):
        unpadding = Unpadding.of(batch, grids=True, fused=fused)
        assert unpadding.among_queries is not None
        for a, b in zip(padded, losses_and_gradients(model, batch, unpadding), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_texts_are_not_taken_for_grids(random_batch: Batches, config: FourMConfig) -> None:
    """A text's targets may not see those after them."""
    with pytest.raises(AssertionError, match="all of its run"):
        Unpadding.of(random_batch(config, seed=1), grids=True)


def test_what_is_computed_is_what_is_needed(config: FourMConfig) -> None:
    """Attention of a step, counted as it runs, by lengths that are read from tensors; and by what is added up here."""
    config, batch = of_grids(config, seed=3)
    model, counted = FourM(config), {}
    for name, unpadding in {
        "padded": None, "beside": Unpadding.of(batch, grids=True, fused=False),
        "fused": Unpadding.of(batch, grids=True, fused=True),
    }.items():  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            model(batch, unpadding=unpadding)
        every = counter.get_flop_counts()["Global"]
        counted[name] = sum(flops for op, flops in every.items() if "att" in str(op)), sum(every.values())
    assert counted["padded"][1] > counted["beside"][1] > counted["fused"][1]
    inputs = np.maximum(batch.input_valid.sum(1), 1).tolist()
    fill = int((~Unpadding.of(batch).real).sum())
    runs = [len(list(run)) for row in zip(batch.target_mod, batch.target_valid, strict=True) for _, run in
            groupby(zip(*map(np.ndarray.tolist, row), strict=True))]  # fmt: skip
    pairs = 2 * (sum(n * n for n in inputs) + fill**2 + sum(n * 24 for n in inputs) + sum(n * n for n in runs))
    assert counted["fused"][0] == 4 * config.dim * pairs


def test_blocks_of_a_gpu_are_compiled_once(config: FourMConfig) -> None:
    """With gradients and without, of however many tokens and runs."""
    graphs, sizes = list[int](), set()
    torch._dynamo.reset()
    for seed in range(6):
        sized, batch = of_grids(config, seed)
        if seed == 0:
            model = FourM(sized)
            model.checkpoint_blocks("selective")
            model.compile_blocks(backend=counting(graphs), fullgraph=True)
        unpadding = Unpadding.of(batch, grids=True, fused=True)
        assert unpadding.runs is not None
        sizes.add((len(unpadding.places), len(unpadding.runs)))
        model(batch, unpadding=unpadding).loss.backward()
        assert len(graphs) == 2
    assert len(sizes) > 3


def test_a_gpu_attends_without_padding_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, found = torch.device("cuda"), []
    for capability in ((9, 0), (8, 9), (7, 5)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        found.append([has_kernel(gpu, dtype, 64) for dtype in (torch.bfloat16, torch.float16, torch.float32)])
    assert found == [[True, True, False], [True, True, False], [False, False, False]]
    assert not has_kernel(torch.device("cpu"), torch.bfloat16, 64)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(0, 2))
def test_each_valid_token_has_one_place(counts: list[int], registers: int) -> None:
    valid = np.arange(40) < np.array(counts)[:, None]
    unpadding = Unpadding.of(PackedBatch(*([valid] * 3), valid, *([valid] * 6)), registers)
    x = torch.arange(unpadding.slots.numel()).view(*unpadding.slots.shape, 1)
    flat = unpadding.without_padding(x)
    shown = unpadding.valid.view(*unpadding.slots.shape, 1)
    lengths = [max(1, count + registers) for count in counts]
    assert int(unpadding.real.sum()) == sum(lengths) == int(shown.sum())
    assert unpadding.edges.diff().tolist() == [*lengths, len(unpadding.places) - sum(lengths)]
    assert unpadding.edges.diff().min() > 0
    assert flat[0, unpadding.real, 0].tolist() == x[shown].tolist()
    assert torch.equal(unpadding.with_padding(flat)[shown], x[shown])


def test_batches_have_few_sizes() -> None:
    """So that memory is used again; one in 128 places is filled up at most, one in 256 on average."""
    rng, sizes, filled = np.random.default_rng(0), set(), 0
    for _ in range(300):
        valid = np.arange(256) < rng.integers(1, 257, 16)[:, None]
        unpadding = Unpadding.of(PackedBatch(*([valid] * 3), valid, *([valid] * 6)))
        sizes.add(len(unpadding.places))
        filled += int((~unpadding.real).sum())
    assert all(size % 32 == 0 for size in sizes) and max(sizes) <= 4096
    assert filled / 300 < 32 * 0.6
