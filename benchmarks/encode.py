"""Encoding to token ids against the bare encoder: images per (CPU) second, from uint8 crops.

    python benchmarks/encode.py [--image-size 224] [--seconds 10] [--device cpu] [--threads 1]

The named reference is the forward pass of the same encoder alone, on a float batch that is on the device already.
Encoding is all that a worker does with crops: to float and to the device, encoder, projection, nearest codes, ids back
as uint16. Both run in turns, and a CPU's clock counts only its work for this process, so that a busy machine harms
little. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from circumstances import state

from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig


def models(image_size: int, tiny: bool) -> dict[str, tuple[VQVAEConfig, int]]:
    """Configs by title, with a batch size that suits them; the decoder, which is not used, is one block."""

    def small(dim: int, depth: int, heads: int, codes: int) -> VQVAEConfig:
        return VQVAEConfig.small(dim, depth, heads, 1, image_size=image_size, codebook_size=codes, post_mlp=True)

    if tiny:
        return {"ViT 48 x 1, 64 codes": (small(48, 1, 1, 64), 2)}
    return {
        "ViT-B, 16,384 codes (4M)": (small(768, 12, 12, 16_384), 4),
        "ViT-S, 8,192 codes": (small(512, 8, 8, 8192), 8),
        "ViT 192 x 6, 1,024 codes": (small(192, 6, 3, 1024), 16),
    }


def seconds(device: torch.device, action: Callable[[], Any]) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begin = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def compare(
    config: VQVAEConfig, batch: int, image_size: int, device: torch.device, budget: float
) -> tuple[float, float]:
    """Images a second of the bare encoder and of all of encoding, medians of turns within `budget` seconds."""
    model = VQVAE(config).to(device).eval()
    crops = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    ready = to_input("tok_rgb", crops, device=device)

    def bare() -> None:
        model.encoder(ready)

    def whole() -> None:
        model.encode(to_input("tok_rgb", crops, device=device)).flatten(1).cpu().numpy().astype(np.uint16)

    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        bare(), whole()
        begin = time.perf_counter()
        while len(times[1]) < 5 or time.perf_counter() - begin < budget:
            times[0].append(seconds(device, bare))
            times[1].append(seconds(device, whole))
    return batch / median(times[0]), batch / median(times[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="one encoder of a toy's size, to see that all runs")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    torch.set_num_threads(args.threads)
    print(f"{args.image_size} px, {args.device}, {args.threads} thread(s), torch {torch.__version__}\n")
    print("| encoder | batch | bare encoder, images/s | crops to ids, images/s | share |")
    print("|---|---|---|---|---|")
    for title, (config, batch) in models(args.image_size, args.tiny).items():
        bare, whole = compare(config, batch, args.image_size, torch.device(args.device), args.seconds)
        print(f"| {title} | {batch} | {bare:.1f} | {whole:.1f} | {whole / bare:.0%} |", flush=True)


if __name__ == "__main__":
    main()
