"""Shards by our tar reader and by webdataset: speed of whole shards, of single samples, and what bad tars give.

    python benchmarks/shards.py [--samples 2000]

Each figure is the median of five interleaved turns. Shards are of noise (JPEGs of 256 pixels, 40 KB) with captions.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import webdataset

from fourmill.pipelines import source

TURNS, THREADS = 5, 8


def tar(entries: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entries(count: int) -> list[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.resize(pixels, (256, 256)))[1].tobytes()
    both = [[(f"{i:06d}.jpg", jpeg), (f"{i:06d}.txt", b"A caption.")] for i in range(count)]
    return [entry for pair in both for entry in pair]


def bad() -> dict[str, bytes]:
    good = entries(4)
    return {
        "a key twice": tar([*good, good[0]]),
        "cut in the third sample": tar(good)[: len(tar(good)) // 2],
        "dots in keys": tar([(f"v1.{i}.jpg", good[0][1]) for i in range(4)]),
        "a damaged header": b"".join([tar(good[:4])[:-10240], b"\xff" * 512, tar(good[4:])]),
    }


def ours(path: str, rows: list[int] | None = None) -> list[tuple[str, bytes]]:
    with source.open_shard(path, "/tmp") as shard:
        chosen = shard.samples if rows is None else [shard.samples[row] for row in rows]
        return [(sample.key, shard.image(sample)) for sample in chosen]


def by_webdataset(path: str) -> list[tuple[str, bytes]]:
    data = webdataset.WebDataset(path, shardshuffle=False)
    return [(sample["__key__"], sample["jpg"]) for sample in data if "jpg" in sample]


def ours_by_threads(path: str, rows: list[int]) -> None:
    with source.open_shard(path, "/tmp") as shard, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda row: shard.image(shard.samples[row]), rows))


def timed(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of CPU time and waiting of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def outcome(path: str, read: Callable[[str], list[tuple[str, bytes]]]) -> str:
    try:
        return f"{len({key for key, _ in read(path)})} samples"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="samples of the shard")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "shard.tar"))
        Path(path).write_bytes(tar(entries(args.samples)))
        assert ours(path) == by_webdataset(path)
        few = list(range(args.samples - 1, 0, -max(1, args.samples // 64)))
        print(f"{args.samples} samples, {Path(path).stat().st_size / 2**20:.0f} MiB; milliseconds:")
        calls: dict[str, Callable[[], object]] = {
            "index alone": lambda: ours(path, []),
            "all samples, ours": lambda: ours(path),
            "all samples, webdataset": lambda: by_webdataset(path),
            f"{len(few)} samples in any order, {THREADS} threads, ours": lambda: ours_by_threads(path, few),
            f"{len(few)} samples in any order, webdataset (reads all)": lambda: by_webdataset(path),
        }
        for name, milliseconds in timed(calls).items():
            print(f"  {name:<58} {milliseconds:>8.1f}")
        for name, data in bad().items():
            Path(path).write_bytes(data)
            with source.open_shard(path, folder) as shard:
                reasons = "; ".join(reason for _, reason in shard.rejects)
            both = f"ours {outcome(path, ours)} ({reasons or 'no reject'}), webdataset {outcome(path, by_webdataset)}"
            print(f"  {name}: {both}")


if __name__ == "__main__":
    main()
