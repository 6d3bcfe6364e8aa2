"""The count of operations is what the model's matrix products are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import training
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourmill.model.config import FourMConfig
from fourmill.model.cpu import linear
from fourmill.model.fourm import FourM
from fourmill.model.prepare import group_targets
from fourmill.train import metrics
from fourmill.train.flops import Lengths, forward_flops, peak_flops, step_flops, useful_flops


@pytest.mark.parametrize("changes", [{}, {"gated_mlp": False, "num_register_tokens": 3, "qk_norm": True}])
def test_it_is_the_sum_over_the_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(linear, "_HAS_ONEDNN", False)  # whose products the counter does not know
    one = training.trainer(training.job(tmp_path))
    # A hidden width that is a multiple of 8: zeros that fill up others do not count.
    config = FourMConfig.from_dict(one.model.config.to_dict() | {"mlp_ratio": 3} | changes)
    model = FourM(config)
    batches = one.loader.batches(0, 8)
    batch = next(batches)[1].to("cpu")
    batches.close()
    groups = group_targets(batch, len(config.modalities))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(batch, groups=groups).loss
    forward = counter.get_total_flops()
    predicted = {name: groups.counts[config.index(name)] for name in config.outputs}
    assert forward_flops(config, 8, 12, 10, predicted) == forward
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss.backward()
    # The pixels need no gradient: the only product that has no second one backward.
    pixels = 8 * 2 * 4 * 48 * config.dim
    assert counter.get_total_flops() == 2 * forward - pixels
    assert step_flops(config, 8, 12, 10, predicted) == 3 * forward


def test_useful_operations_are_those_without_padding(tmp_path: Path) -> None:
    """Of each sample alone, cut to its valid tokens."""
    one = training.trainer(training.job(tmp_path, input_tokens=[2, 12], target_tokens=[3, 10]))
    config, batches = one.model.config, one.loader.batches(0, 8)
    batch = next(batches)[1]
    batches.close()
    ends = zip(batch.input_valid.sum(1).tolist(), batch.target_valid.sum(1).tolist(), strict=True)
    alone = sum(step_flops(config, 1, n, m, {}) for n, m in ends)
    assert useful_flops(config, Lengths.of(batch), {}) == pytest.approx(alone)
    assert alone < step_flops(config, 8, 12, 10, {})


def test_devices_have_their_peak() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA A10G") == 125e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA L40") == 181e12 and peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("Some CPU") is None


def test_a_run_with_a_peak_logs_its_share(tmp_path: Path) -> None:
    training.train(training.job(tmp_path, peak_flops=1e12))
    rows = [row for row in metrics.read(training.job(tmp_path).folder) if row["kind"] == "train"]
    assert all(0 < row["useful_mfu"] <= row["mfu"] < 1 for row in rows)
    ratio = np.array([row["mfu"] / row["tokens_per_second"] for row in rows])
    assert ratio.std() < 0.2 * ratio.mean(), "operations follow tokens, but for the heads"
