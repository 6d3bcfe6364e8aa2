"""Seconds of one chained generation with 4M-B on the CPU: RGB to CLIP, depth, normals, classes, caption, boxes.

    python benchmarks/generation.py [--samples 1] [--rounds 3] [--size B] [--text-tokens 40] [--bf16]

The grids take one ROAR step each, the texts 40 tokens each, one after the other, all results being inputs of the next
(float32 unless --bf16, random weights). The named reference is apple/ml-4m in float32 on 2 idle cores: 28 to 38 s for
one sample.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from circumstances import state
from train_step import specs_of

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation.generate import Step, generate
from fourmill.model.generation.known import SpecialIds
from fourmill.train.cpu_memory import keep_freed_memory
from fourmill.train.downstream.generation import KEPT_MEMORY

REFERENCE = (28.0, 38.0)
ENDLESS = SpecialIds(eos=-1)  # random weights may say the end of a text: all of its tokens are written


def chain_of(text_tokens: int) -> list[Step]:
    grids = [Step(name, "roar") for name in ("tok_clip", "tok_depth", "tok_normal", "tok_semseg")]
    return [*grids, *(Step(name, "autoregressive", max_tokens=text_tokens) for name in ("caption", "det"))]


def seconds_by_step(model: FourM, patches: np.ndarray, chain: Sequence[Step]) -> dict[str, float]:
    """Seconds of each step of one more chain, made step by step."""
    seconds, known = {}, {"rgb": patches}
    for step in chain:
        begin = time.perf_counter()
        made = generate(model, known, [step], seed=0, special=ENDLESS)[step.target]
        seconds[step.target] = time.perf_counter() - begin
        known[step.target] = [[*text, 3] for text in made] if step.scheme == "autoregressive" else made
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="B", help="the reference's is B")
    parser.add_argument("--vocabulary", type=int, help="most ids of a modality, from 512; all unless given")
    parser.add_argument("--text-tokens", type=int, default=40)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    keep_freed_memory(KEPT_MEMORY)  # as `fourmill generate` does
    torch.manual_seed(0)
    model = FourM(FourMConfig.preset(args.size, specs_of(args.vocabulary), tied_heads=False)).eval()
    if args.bf16:
        model = model.bfloat16()
    patches = np.random.default_rng(0).integers(0, 256, (args.samples, 196, 768)).astype(np.uint8)
    chain = chain_of(args.text_tokens)
    generate(model, {"rgb": patches}, chain[:1], seed=0)
    totals = []
    for _ in range(args.rounds):
        begin = time.perf_counter()
        generate(model, {"rgb": patches}, chain, seed=0, special=ENDLESS)
        totals.append(time.perf_counter() - begin)
    steps = seconds_by_step(model, patches, chain)
    precision = "bfloat16" if args.bf16 else "float32"
    print(f"4M-{args.size}, {precision}, {args.samples} sample(s), {torch.get_num_threads()} threads\n")
    print("| part | seconds |\n|---|---|")
    for name, value in steps.items():
        print(f"| {name} | {value:.2f} |")
    best = min(totals)
    print(f"| whole chain, best of {args.rounds} | {best:.2f} |")
    low, high = REFERENCE
    print(f"\nreference, one sample: {low:.0f} to {high:.0f} s; ratio {best / high:.2f} to {best / low:.2f}")


if __name__ == "__main__":
    main()
