"""The engine against a bare loop: the same shards, the same specialists, the same number of processes.

The bare loop reads a tar with `tarfile`, decodes each image with OpenCV and calls each specialist on one batch after
the other; it writes nothing, rejects nothing, and knows no ledger. What the engine adds (safe decoding, rows and
reasons, columns, commits, progress, Ray) should cost less than a tenth once its actors are up.

    python benchmarks/engine.py [--shards 8] [--samples 128] [--processes 1 2]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tarfile
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from fourmill import recipe
from fourmill.pipelines.demo import photos
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.worker import stage as engine
from fourmill.project import Project

LABELS = ["canny_edge", "color_palette", "caption", "det", "metadata"]
BATCH = 32


def read(path: str) -> list[Item]:
    """A shard as a bare loop reads it: `tarfile` and OpenCV, no checks."""
    items: dict[str, Item] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, kind = member.name.partition(".")
            data = archive.extractfile(member).read()
            if kind == "jpg":
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                items[key] = Item(key, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), None)
            elif kind == "txt":
                items[key].caption = data.decode()
    return list(items.values())


def bare_loop(paths: list[str], specialists: dict[str, Specialist], ready: object, go: object) -> None:
    """Decode and label; the fastest that these specialists can be called in this process."""
    cv2.setNumThreads(1)
    for specialist in specialists.values():
        specialist.setup("cpu")
    ready.release()
    go.wait()
    for path in paths:
        items = read(path)
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            for label, specialist in specialists.items():
                for item, value in zip(batch, specialist(batch), strict=True):
                    item.labels[label] = value


def time_bare(paths: list[str], specialists: dict[str, Specialist], processes: int) -> float:
    """Wall seconds of the loop, without starting its processes."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    workers = [
        context.Process(target=bare_loop, args=(paths[i::processes], specialists, ready, go)) for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    start = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def time_engine(root: str, samples: str, actors: int) -> float:
    """Wall seconds of the engine from the moment its actors are up."""
    asked = {"root": root, "samples": samples, "modalities": ["caption"], "labels": {"keep": LABELS}}
    project = Project(recipe.parse({**asked, "engine": {"actors": actors}}))
    outputs = project.label_outputs
    plan = project.plan(outputs)
    outcome = engine.run(project.shard_job(project.specialists, outputs), plan.missing, "label")
    assert not outcome.failures and len(outcome.records) == len(outputs) * len(plan.shards)
    return outcome.seconds - outcome.ready_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128, help="samples of a shard")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        summary = photos.write_shards(Path(folder, "samples"), samples_per_shard=args.samples, crops_per_photo=64)
        paths = [str(Path(folder, "samples", name)) for names in summary.shards.values() for name in names]
        total = sum(summary.samples.values())
        asked = {"root": folder, "samples": paths, "modalities": ["caption"], "labels": {"keep": LABELS}}
        specialists = Project(recipe.parse(asked)).specialists
        print(f"{total} samples in {len(paths)} shards; labels: {', '.join(LABELS)}")
        print(f"{'processes':>9}  {'bare loop':>14}  {'engine':>14}  {'share reached':>13}")
        for processes in args.processes:
            bare = total / time_bare(paths, specialists, processes)
            ours = total / time_engine(str(Path(folder, f"out-{processes}")), str(Path(folder, "samples")), processes)
            print(f"{processes:>9}  {bare:>8.1f} img/s  {ours:>8.1f} img/s  {ours / bare:>13.1%}")


if __name__ == "__main__":
    main()
