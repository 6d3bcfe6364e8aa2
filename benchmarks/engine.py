"""The engine against a bare loop: the same shards, the same specialists, the same number of processes.

The bare loop reads a tar with `tarfile`, decodes each image with OpenCV and calls each specialist on one batch after
the other; it writes nothing, rejects nothing, and knows no ledger. What the engine adds (safe decoding, rows and
reasons, columns, commits, progress, Ray) should cost less than a tenth once its actors are up.

    python benchmarks/engine.py [--samples 128] [--crops 64] [--processes 1 2] [--without det] [--turns 3]

Each figure is the median of its turns, which are interleaved. Of the labels `det` takes most of the time. Ray is
started once, before: on few cores its own processes take most of them for seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from circumstances import state

from fourmill import recipe
from fourmill.infra.cluster import cluster
from fourmill.pipelines.demo import photos
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.worker import stage as engine
from fourmill.project import Project

LABELS = ["canny_edge", "color_palette", "caption", "det", "metadata"]
BATCH = 32
# Specialists that need no download, on both sides.
SPECIALISTS = {"det": {"specialist": "hog_people"}}


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
        while not ready.acquire(timeout=0.1):
            check(workers)
    start = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    check(workers)
    return seconds


def check(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """RuntimeError, after ending the others, if one has ended with an error: nothing would wake who waits for it."""
    codes = [worker.exitcode for worker in workers]
    if any(codes):
        for worker in workers:
            worker.terminate()
        raise RuntimeError(f"processes of the bare loop ended with the exit codes {codes}; their errors stand above")


def project_of(root: str, samples: str | list[str], kept: Sequence[str] = LABELS, **sections: Any) -> Project:
    labels = {"keep": list(kept), "specialists": {name: SPECIALISTS[name] for name in kept if name in SPECIALISTS}}
    return Project(
        recipe.parse({"root": root, "samples": samples, "modalities": ["caption"], "labels": labels, **sections})
    )


def time_engine(root: str, samples: str, kept: Sequence[str], actors: int) -> float:
    """Wall seconds of the engine from the moment its actors are up (the mean of their moments)."""
    project = project_of(root, samples, kept, engine={"actors": actors})
    outputs = project.label_outputs
    plan = project.plan(outputs)
    outcome = engine.run(project.shard_job(project.specialists, outputs), plan.missing, "label")
    assert not outcome.failures and len(outcome.records) == len(outputs) * len(plan.shards)
    return outcome.seconds - outcome.ready_seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128, help="samples of a shard")
    parser.add_argument("--crops", type=int, default=64, help="samples of each of the twenty photos")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--without", nargs="+", choices=LABELS, default=[], help="labels that are not made")
    parser.add_argument("--turns", type=int, default=1)
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    with tempfile.TemporaryDirectory() as folder, cluster():
        sizes = {"samples_per_shard": args.samples, "crops_per_photo": args.crops}
        summary = photos.write_shards(Path(folder, "samples"), **sizes)
        paths = [str(Path(folder, "samples", name)) for names in summary.shards.values() for name in names]
        total = sum(summary.samples.values())
        kept = [label for label in LABELS if label not in args.without]
        specialists, samples = project_of(folder, paths, kept).specialists, str(Path(folder, "samples"))
        print(f"{total} samples in {len(paths)} shards; labels: {', '.join(kept)}")
        print(f"{'processes':>9}  {'bare loop':>14}  {'engine':>14}  {'share reached':>13}")
        for processes in args.processes:
            seconds: dict[str, list[float]] = {"bare": [], "ours": []}
            for turn in range(args.turns):
                root = str(Path(folder, f"out-{processes}-{turn}"))
                seconds["bare"].append(time_bare(paths, specialists, processes))
                seconds["ours"].append(time_engine(root, samples, kept, processes))
            bare, ours = (total / statistics.median(seconds[name]) for name in ("bare", "ours"))
            print(f"{processes:>9}  {bare:>8.1f} img/s  {ours:>8.1f} img/s  {ours / bare:>13.1%}", flush=True)


if __name__ == "__main__":
    main()
