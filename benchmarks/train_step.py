"""Seconds of one 4M-B training step on the CPU: forward, backward, AdamW; 4M-7, float32, 128 inputs and 128 targets.

    python benchmarks/train_step.py [--batch 4] [--steps 5] [--size B] [--heads tied] [--eager]

The named reference is apple/ml-4m on 2 idle cores: 1.17 s forward, 3.53 s backward, 2.29 s AdamW (batch 4). Each
figure is the median over the steps after a first one that does not count. --eager also times the step written without
packing (eager_step.py, PyTorch's default AdamW), in turns with ours, for machines that are not those or not idle.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from circumstances import state
from eager_step import dense, eager_loss

from fourmill.modalities import Kind, ModalitySpec, spec
from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.cpu_memory import keep_freed_memory
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch

MODALITIES = ("rgb", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip", "caption", "det")
TEXT_LENGTH = 24
BUDGET = 128
REFERENCE = {"forward": 1.17, "backward": 3.53, "AdamW": 2.29}


def specs_of(vocabulary: int | None = None) -> list[ModalitySpec]:
    """The modalities of 4M-7, each of at most so many ids."""
    specs = [spec(name, image_size=224) for name in MODALITIES]
    return [replace(s, vocab_size=min(s.vocab_size, vocabulary or s.vocab_size)) for s in specs]


def random_batch(specs: list[ModalitySpec], samples: int, budget: int, seed: int) -> PackedBatch:
    """Random tokens under the masks of 4M-7: all-to-all, alpha 0.5."""
    rng = np.random.default_rng(seed)
    tokens = {}
    for s in specs:
        lengths = np.full(samples, s.max_tokens if s.kind in (Kind.GRID, Kind.PIXELS) else TEXT_LENGTH)
        shape = {Kind.GRID: (samples, s.max_tokens), Kind.SEQUENCE: (int(lengths.sum()),)}.get(s.kind)
        tokens[s.name] = ModalityTokens(lengths, None if shape is None else rng.integers(300, s.vocab_size, shape))
    alphas = {s.name: 0.5 for s in specs}
    config = MaskingConfig((budget, budget), (budget, budget), (ResolvedMixture(alphas, alphas),))
    batch = mask_batch(specs, config, tokens, rng)
    batch.values = {
        s.name: rng.integers(0, 256, (samples, s.max_tokens, s.input_dim)).astype(np.uint8)
        for s in specs
        if s.kind is Kind.PIXELS
    }
    return batch


def timed(loss_of: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> list[float]:
    """Seconds of forward, backward and optimizer of one step."""
    marks = [time.perf_counter()]
    loss = loss_of()
    marks.append(time.perf_counter())
    loss.backward()
    marks.append(time.perf_counter())
    optimizer.step()
    optimizer.zero_grad()
    marks.append(time.perf_counter())
    return [end - begin for begin, end in itertools.pairwise(marks)]


def measure(model: FourM, samples: int, steps: int, eager: bool) -> dict[str, list[float]]:
    """Median seconds of each part of a step, ours and, if asked for, eager ones."""
    groups, settings = model.parameter_groups(0.05), {"lr": 1e-4, "betas": (0.9, 0.95)}
    fused, plain = torch.optim.AdamW(groups, fused=True, **settings), torch.optim.AdamW(groups, **settings)
    loss = eager_loss(model, BUDGET)
    times: dict[str, list[list[float]]] = {"packed": []} | ({"eager": []} if eager else {})
    for step in range(steps + 1):
        batch = random_batch(list(model.config.modalities), samples, BUDGET, step)
        times["packed"].append(timed(lambda batch=batch: model(batch).loss, fused))
        if eager:
            mod_dict = dense(model, batch)
            times["eager"].append(timed(lambda mod_dict=mod_dict: loss(mod_dict), plain))
    return {how: [statistics.median(part) for part in zip(*rows[1:], strict=True)] for how, rows in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", default="B", help="the reference's is B")
    parser.add_argument("--vocabulary", type=int, help="most ids of a modality, from 512; all unless given")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--heads", choices=("tied", "untied"), default="tied")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    keep_freed_memory()
    torch.manual_seed(0)
    model = FourM(FourMConfig.preset(args.size, specs_of(args.vocabulary), tied_heads=args.heads == "tied")).train()
    count = sum(p.numel() for p in model.parameters()) / 1e6
    threads = torch.get_num_threads()
    print(f"4M-{args.size} of 4M-7, {count:.1f} M parameters ({args.heads} heads), float32, {threads} threads\n")
    others = ["reference, batch 4", *(["eager, now"] if args.eager else [])]
    print(f"| part | seconds, batch {args.batch} |" + "".join(f" {title} | ratio |" for title in others))
    print("|---" * (2 + 2 * len(others)) + "|")
    measured = measure(model, args.batch, args.steps, args.eager)
    columns = [measured["packed"], list(REFERENCE.values()), *([measured["eager"]] if args.eager else [])]
    for name, value, *others_seconds in [*zip(REFERENCE, *columns, strict=True), ("sum", *map(sum, columns))]:
        print(
            f"| {name} | {value:.2f} |" + "".join(f" {other:.2f} | {value / other:.2f} |" for other in others_seconds)
        )


if __name__ == "__main__":
    main()
