"""A training step on a GPU: tokens/s and MFU, against the same step written the obvious way.

    python benchmarks/gpu_step.py [--size B] [--batch 256] [--steps 20] [--device cuda]

4M-7, 128 inputs and 128 targets, bfloat16 autocast, fused AdamW, one device. "eager" is the model of
tests/support/fourmill_tests/eager.py on the same weights and masks: dense tensors of every modality gathered by a sort,
masked softmax, logits by boolean indexing; nothing of it is compiled. FLOPs are counted as train/flops.py says: matrix
products, padding included, backward twice the forward, nothing twice; the targets are at least 40 % MFU and 3 times the
eager step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from circumstances import state
from eager_step import dense, eager_loss
from train_step import BUDGET, random_batch, specs_of

from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.prepare import group_targets
from fourmill.train.flops import peak_flops, step_flops


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(
    model: FourM, loss_of: Callable[[Any], torch.Tensor], batches: list[Any], steps: int, idle: int = 5
) -> float:
    """Median seconds of a step: forward, backward, AdamW; the first `idle` do not count."""
    optimizer = torch.optim.AdamW(model.parameter_groups(0.05), lr=1e-5, betas=(0.9, 0.95), fused=True)
    times = []
    for step in range(steps + idle):
        wait(model.device)
        begin = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = loss_of(batches[step % len(batches)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(model.device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[idle:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="B")
    parser.add_argument("--vocabulary", type=int, help="most ids of a modality, from 512; all unless given")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="the CPU shows only that all runs")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    device = args.device
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu_step: there is no CUDA device here; run it on a machine that has one")
        return
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    specs = specs_of(args.vocabulary)
    model = FourM(FourMConfig.preset(args.size, specs)).to(device).train()
    host = [random_batch(specs, args.batch, BUDGET, seed) for seed in range(4)]
    groups = [group_targets(batch, len(specs)).to(device) for batch in host]
    packed = [(batch.to(device), group) for batch, group in zip(host, groups, strict=True)]
    expanded = [{m: {k: v.to(device) for k, v in d.items()} for m, d in dense(model, batch).items()} for batch in host]
    loss = eager_loss(model, BUDGET)
    with torch.no_grad():
        packed_value, eager_value = float(model(*packed[0][:1], groups=packed[0][1]).loss), float(loss(expanded[0]))
    assert abs(packed_value - eager_value) < 1e-2, f"not the same step: losses {packed_value} and {eager_value}"

    def packed_loss(given: tuple[PackedBatch, Any]) -> torch.Tensor:
        return model(given[0], groups=given[1]).loss

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    counts = {s.name: float(groups[0].counts[i]) for i, s in enumerate(specs) if s.is_target}
    flops, peak = step_flops(model.config, args.batch, BUDGET, BUDGET, counts), peak_flops(name)
    print(f"4M-{args.size} of 4M-7, {BUDGET}/{BUDGET}, batch {args.batch}, bfloat16")
    print(f"{name}, torch {torch.__version__}, {flops / 1e12:.1f} TFLOP a step\n")
    print("| step | ms | tokens/s | MFU |\n|---|---|---|---|")
    idle = 5 if device == "cuda" else 1
    results = {"eager": seconds(model, loss, expanded, args.steps, idle)}
    results["packed"] = seconds(model, packed_loss, packed, args.steps, idle)
    if device == "cuda":
        model.compile_blocks(dynamic=False)
        results["packed, compiled"] = seconds(model, packed_loss, packed, args.steps)
    for title, value in results.items():
        mfu = f"{flops / value / peak:.1%}" if peak else "unknown peak"
        print(f"| {title} | {value * 1e3:.1f} | {args.batch * 2 * BUDGET / value:,.0f} | {mfu} |")
    last, value = list(results.items())[-1]
    print(f"\neager / {last}: {results['eager'] / value:.2f}")


if __name__ == "__main__":
    main()
