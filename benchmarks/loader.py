"""Loader speed: packed 4M-7 batches of one process from a store on local disk, against the reference's loader.

    python benchmarks/loader.py [--rows 4096] [--batch 256] [--seconds 10]

The store holds random tokens of 4M-7 at 224 px with 2 crops, and random-looking JPEG crops for the `pixels` rows.
References: apple/ml-4m loading tokens and captions in one process on 2 cores, 328 samples/s, 566 with each sample
repeated 4 times; and `mask_batch` on tokens in memory, one thread: what the loader would reach if reading cost nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from circumstances import state

from fourmill.modalities import MODALITIES, Kind, ModalitySpec, spec
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.train.data.groups import ShardRows
from fourmill.train.data.loader import LoaderOptions, TokenLoader
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch

GRIDS = ("tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")
TEXTS = {"caption": 16, "det": 26}  # tokens of each
CROPS = 2
REFERENCE = {1: 328, 4: 566}  # samples/s, by how often a sample is repeated


def specs_of(pixels: bool) -> list[ModalitySpec]:
    names = (*(["rgb"] if pixels else []), *GRIDS, *TEXTS)
    return [spec(name, image_size=224) for name in names]


def rows_of(modality: ModalitySpec, count: int, rng: np.random.Generator) -> tuple[ColumnSpec, list[Any]]:
    crops = CROPS if MODALITIES[modality.name].spatial else 1
    if modality.kind is Kind.PIXELS:
        noise = rng.integers(0, 256, (32, 28, 28, 3)).astype(np.uint8)
        files = [cv2.imencode(".jpg", cv2.resize(image, (224, 224)))[1].tobytes() for image in noise]
        rows: list[Any] = [[files[(i + c) % 32] for c in range(crops)] for i in range(count)]
        return ColumnSpec(modality.name, modality.kind, crops, 224), rows
    length = TEXTS.get(modality.name, modality.max_tokens)
    ids = rng.integers(0, modality.vocab_size, (count, crops, length)).astype(np.uint16)
    rows = list(ids) if modality.kind is Kind.GRID else [list(row) for row in ids]
    return ColumnSpec(modality.name, modality.kind, crops, modality.max_tokens, modality.vocab_size), rows


def write_store(root: Path, shards: list[ShardRows]) -> None:
    rng = np.random.default_rng(0)
    for modality in specs_of(pixels=True):
        for shard in shards:
            column, rows = rows_of(modality, shard.rows, rng)
            path = root / modality.name / f"{shard.name}.parquet"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_column(column, [f"{shard.name}-{i}" for i in range(shard.rows)], rows))


def masking_of(specs: list[ModalitySpec]) -> MaskingConfig:
    alphas = {s.name: 0.5 for s in specs}
    return MaskingConfig((128, 128), (128, 128), (ResolvedMixture(alphas, alphas),))


def masking_speed(specs: list[ModalitySpec], batch: int, seconds: float) -> float:
    rng = np.random.default_rng(0)
    tokens = {}
    for s in specs:
        lengths = np.full(batch, TEXTS.get(s.name, s.max_tokens))
        shape = {Kind.GRID: (batch, s.max_tokens), Kind.SEQUENCE: (int(lengths.sum()),)}.get(s.kind)
        tokens[s.name] = ModalityTokens(
            lengths, None if shape is None else rng.integers(0, 4096, shape).astype(np.uint16)
        )
    begin, rounds = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        mask_batch(specs, masking_of(specs), tokens, rng)
        rounds += 1
    return batch * rounds / spent


def loader_speed(
    root: Path, shards: list[ShardRows], specs: list[ModalitySpec], args: argparse.Namespace, repeat: int
) -> float:
    loader = TokenLoader(str(root), shards, specs, masking_of(specs), 0, LoaderOptions(repeat=repeat))
    batches = loader.batches(0, args.batch)
    for _ in range(8):  # past the first reads
        next(batches)
    begin, rounds = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < args.seconds:
        next(batches)
        rounds += 1
    batches.close()  # type: ignore[attr-defined]
    return args.batch * rounds / spent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096, help="of each of 4 shards")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    cv2.setNumThreads(1)
    shards = [ShardRows(f"{i:05d}", args.rows) for i in range(4)]
    print(f"4M-7, 128/128, batches of {args.batch}, 4 shards of {args.rows}\n")
    print("| modalities | repeats | samples/s | apple/ml-4m | ratio | masking alone | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder), shards)
        for pixels in (False, True):
            specs = specs_of(pixels)
            masking = masking_speed(specs, args.batch, args.seconds / 2)
            for repeat, reference in REFERENCE.items():
                speed = loader_speed(Path(folder), shards, specs, args, repeat)
                title = "tokens and pixels" if pixels else "tokens"
                compared = "- | -" if pixels else f"{reference} | {speed / reference:.0f}"
                print(f"| {title} | {repeat} | {speed:,.0f} | {compared} | {masking:,.0f} | {speed / masking:.2f} |")


if __name__ == "__main__":
    main()
