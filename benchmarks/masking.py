"""Masking speed: samples/s of one process, against the reference's recorded figures.

    python benchmarks/masking.py [--batch 512] [--seconds 3]

The settings are those of the recorded statistics (tests/golden/data/masking_stats.json). The reference figures, 588
samples/s (4M-7, 128/128) and 172 samples/s (4M-21, 256/256), were measured once with apple/ml-4m (commit cda590f) in
one process on `HARDWARE`; they are not measured again here. Ours are of CPU time; masking runs in one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import state

from fourmill.modalities import Kind, ModalitySpec
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch
from fourmill.train.masking.spans import Keep

HARDWARE = "2 cores of a shared cloud machine, November 2026"
RECORDED = Path(__file__).parents[1] / "tests" / "golden" / "data" / "masking_stats.json"
# Name in the recorded statistics -> what we call it, samples/s of the reference.
SETTINGS = {
    "mixture rgb2all+all2all alpha 0.5": ("4M-7, 128/128", 588),
    "4M-21 weighted mixture of 7 Dirichlets": ("4M-21, 256/256", 172),
}


def setting(
    recorded: dict[str, Any], count: int, redistribute: bool
) -> tuple[list[ModalitySpec], MaskingConfig, dict[str, ModalityTokens]]:
    """Modalities, masking and random tokens of one recorded setting."""
    rng = np.random.default_rng(0)
    specs, tokens = [], {}
    for name, given in recorded["modalities"].items():
        kind = {"seq": Kind.SEQUENCE, "seq_emb": Kind.EMBEDDING}.get(given["type"], Kind.GRID)
        kind = Kind.PIXELS if name == "rgb@224" else kind
        length = recorded["sequence_token_lengths_incl_eos"].get(name, given["max_tokens"])
        if isinstance(length, dict):
            length = sum(length["chunks"]) + length["eos_chunk"]
        shape = {Kind.GRID: (count, length), Kind.SEQUENCE: (count * length,)}.get(kind)
        ids = None if shape is None else rng.integers(5000, 30_000, shape).astype(np.uint16)
        specs.append(ModalitySpec(name, kind, 30_000, given["max_tokens"], chunked=name == "metadata"))
        tokens[name] = ModalityTokens(np.full(count, length), ids)
    modalities = recorded["modalities"]
    mixtures = tuple(
        ResolvedMixture(
            {n: g["input_alphas"][k] for n, g in modalities.items()},
            {n: g["target_alphas"][k] for n, g in modalities.items()},
            weight,
            {n: Keep(g["keep"][k]) for n, g in modalities.items() if g["keep"]},
        )
        for k, weight in enumerate(recorded["sampling_weights"] or [1.0] * len(modalities["caption"]["input_alphas"]))
    )
    inputs, targets = tuple(recorded["input_tokens_range"]), tuple(recorded["target_tokens_range"])
    return specs, MaskingConfig(inputs, targets, mixtures, redistribute), tokens


def measure(recorded: dict[str, Any], batch: int, redistribute: bool, seconds: float) -> tuple[float, float, float]:
    """Samples per second of CPU time, and the shares of input and target slots in use."""
    specs, config, tokens = setting(recorded, batch, redistribute)
    rng = np.random.default_rng(1)
    mask_batch(specs, config, tokens, rng)
    begin, rounds, used = time.process_time(), 0, np.zeros(2)
    while (spent := time.process_time() - begin) < seconds:
        b = mask_batch(specs, config, tokens, rng)
        used += b.input_valid.mean(), b.target_valid.mean()
        rounds += 1
    return batch * rounds / spent, *(used / rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds for each row")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    recorded = {r["name"]: r for r in json.loads(RECORDED.read_text())}
    print(f"Masking, batches of {args.batch}; reference: recorded figures of apple/ml-4m on {HARDWARE}\n")
    print("| setting | redistribute | samples/s | reference | ratio | inputs used | targets used |")
    print("|---|---|---|---|---|---|---|")
    for name, (title, reference) in SETTINGS.items():
        for redistribute in (False, True):
            speed, inputs, targets = measure(recorded[name], args.batch, redistribute, args.seconds)
            on = "on" if redistribute else "off"
            ratio = f"{speed / reference:.0f}"
            print(f"| {title} | {on} | {speed:,.0f} | {reference} | {ratio} | {inputs:.0%} | {targets:.0%} |")


if __name__ == "__main__":
    main()
