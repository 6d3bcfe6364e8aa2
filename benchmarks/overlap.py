"""Specialists that sleep in each of their stages, as one that waits for a GPU does: how long the engine takes for them.

Each sleeps in preparation, inference and finish; one at a time may infer. One after the other they would take three
times as long as the slowest part: the device's naps of all of them. A machine that is busy sleeps longer than it was
asked to; the slowest part is what these naps took.

    python benchmarks/overlap.py [--batches 100] [--milliseconds 10] [--specialists 1 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from circumstances import state

from fourmill.pipelines.specialists.base import ImageItem, Specialist
from fourmill.pipelines.worker.lane import Shared
from fourmill.pipelines.worker.lanes import Lanes
from fourmill.pipelines.worker.sample import LabelledSample

LABELS = ("det", "metadata", "human_poses", "color_palette")
BATCH = 16
NAPS: list[float] = []  # seconds of each nap of the device


class Sleeping(Specialist):
    gpus: ClassVar[float] = 1.0
    batch_size: ClassVar[int] = BATCH

    seconds: float

    def prepare(self, items: Sequence[Any]) -> Any:
        time.sleep(self.seconds)
        return items

    def infer(self, prepared: Any) -> Any:
        start = time.monotonic()
        time.sleep(self.seconds)
        NAPS.append(time.monotonic() - start)
        return prepared

    def finish(self, items: Sequence[Any], inferred: Any) -> list[Any]:
        time.sleep(self.seconds)
        return [[] for _ in items]


def measured(count: int, batches: int, seconds: float) -> tuple[float, float]:
    """Seconds of all, and of the slowest part, the device's."""
    image = np.zeros((8, 8, 3), np.uint8)
    NAPS.clear()
    samples = [[LabelledSample(ImageItem(f"{b}-{i}", image, None)) for i in range(BATCH)] for b in range(batches)]
    specialists: dict[str, Specialist] = {
        label: type(label, (Sleeping,), {"label": label, "__module__": __name__})(seconds=seconds)
        for label in LABELS[:count]
    }
    start = time.monotonic()
    for batch in Lanes(specialists, Shared(lambda *_: None)).labelled(samples):
        assert all(sample.item.labels.keys() >= specialists.keys() for sample in batch)
    return time.monotonic() - start, sum(NAPS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--milliseconds", type=float, default=10, help="of each nap")
    parser.add_argument("--specialists", type=int, nargs="+", default=[1, 3], choices=range(1, len(LABELS) + 1))
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    print(f"{args.batches} batches\n\n| specialists | wall, s | slowest part, s | wall / slowest |\n|---|---|---|---|")
    for count in args.specialists:
        wall, slowest = measured(count, args.batches, args.milliseconds / 1000)
        print(f"| {count} | {wall:.2f} | {slowest:.2f} | {wall / slowest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
