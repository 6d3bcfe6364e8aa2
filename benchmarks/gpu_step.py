"""A training step on a GPU: tokens/s and MFU, against the same step written the obvious way.

    python benchmarks/gpu_step.py [--size B] [--batch 256] [--steps 20]

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
from collections.abc import Callable
from typing import Any

import torch
from eager_step import dense, eager_loss
from train_step import BUDGET, random_batch, specs_of

from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.prepare import group_targets
from fourmill.train.flops import peak_flops, step_flops


def seconds(model: FourM, loss_of: Callable[[Any], torch.Tensor], batches: list[Any], steps: int) -> float:
    """Median seconds of a step: forward, backward, AdamW; the first five do not count."""
    optimizer = torch.optim.AdamW(model.parameter_groups(0.05), lr=1e-5, betas=(0.9, 0.95), fused=True)
    times = []
    for step in range(steps + 5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(batches[step % len(batches)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="B")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_step: there is no CUDA device here; run it on a machine that has one")
        return
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    specs = specs_of()
    model = FourM(FourMConfig.preset(args.size, specs)).cuda().train()
    host = [random_batch(specs, args.batch, BUDGET, seed) for seed in range(4)]
    groups = [group_targets(batch, len(specs)).to("cuda") for batch in host]
    packed = [(batch.to("cuda"), group) for batch, group in zip(host, groups, strict=True)]
    expanded = [{m: {k: v.cuda() for k, v in d.items()} for m, d in dense(model, batch).items()} for batch in host]
    loss = eager_loss(model, BUDGET)
    with torch.no_grad():
        ours, theirs = float(model(*packed[0][:1], groups=packed[0][1]).loss), float(loss(expanded[0]))
    assert abs(ours - theirs) < 1e-2, f"not the same step: losses {ours} and {theirs}"

    def packed_loss(given: tuple[PackedBatch, Any]) -> torch.Tensor:
        return model(given[0], groups=given[1]).loss

    name = torch.cuda.get_device_name()
    counts = {s.name: float(groups[0].counts[i]) for i, s in enumerate(specs) if s.is_target}
    flops, peak = step_flops(model.config, args.batch, BUDGET, BUDGET, counts), peak_flops(name)
    print(f"4M-{args.size} of 4M-7, {BUDGET}/{BUDGET}, batch {args.batch}, bfloat16")
    print(f"{name}, torch {torch.__version__}, {flops / 1e12:.1f} TFLOP a step\n")
    print("| step | ms | tokens/s | MFU |\n|---|---|---|---|")
    results = {"eager": seconds(model, loss, expanded, args.steps)}
    results["packed"] = seconds(model, packed_loss, packed, args.steps)
    model.compile_blocks(dynamic=False)
    results["packed, compiled"] = seconds(model, packed_loss, packed, args.steps)
    for title, value in results.items():
        mfu = f"{flops / value / peak:.1%}" if peak else "unknown peak"
        print(f"| {title} | {value * 1e3:.1f} | {args.batch * 2 * BUDGET / value:,.0f} | {mfu} |")
    print(f"\neager / compiled: {results['eager'] / results['packed, compiled']:.2f}")


if __name__ == "__main__":
    main()
