"""What tokenizers are fitted on: captions, and crops of labels, read straight from the training shards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from ..tokenize.codecs import crop_label
from ..tokenize.crops import crops
from . import source
from .mill import Job, Mill, Sample
from .plan import ShardTask

LEAST_PER_SHARD = 256  # samples that are worth opening a shard for


@dataclass(frozen=True)
class FitData:
    """Labels of some shards as an endless supply of crops, the same at every call. Small enough to be sent to workers.

    job: its specialists make the labels that `tasks` do not name as stored.
    """

    job: Job
    tasks: tuple[ShardTask, ...]

    def part(self, rank: int, world: int) -> FitData:
        """The shards of one of several workers."""
        return replace(self, tasks=self.tasks[rank::world])

    def _shards(self, count: int) -> Iterator[tuple[ShardTask, source.Shard, int]]:
        """Shards to take `count` samples from, open one at a time, each with its share of them.

        No more shards than that needs, evenly from the list, as a remote one is downloaded whole; then the others, for
        a consumer that got less. Those that cannot be read are the label stage's to report.
        """
        number = min(len(self.tasks), max(1, count // LEAST_PER_SHARD))
        first = [i * len(self.tasks) // number for i in range(number)]
        for i in dict.fromkeys([*first, *range(len(self.tasks))]):
            with ExitStack() as stack:
                try:
                    shard = stack.enter_context(source.open_shard(self.tasks[i].url, self.job.scratch))
                except (OSError, ValueError):
                    continue
                yield self.tasks[i], shard, math.ceil(count / number)

    def captions(self, count: int) -> Iterator[str]:
        """The first captions of shards that are spread evenly over the list, at most `count` in all."""
        mill, left = Mill(self.job), count
        for task, shard, share in self._shards(count):
            quota = min(share, left)
            for batch in mill.labelled(shard, task, {"caption"}):
                captions = [s.item.labels["caption"] for s in batch if "caption" in s.item.labels][:quota]
                yield from captions
                quota, left = quota - len(captions), left - len(captions)
                if quota <= 0:
                    break
            if left <= 0:
                break

    def crops(
        self, labels: tuple[str, ...], count: int, size: int, scale: float, hflip: float, seed: int, device: str = "cpu"
    ) -> Iterator[dict[str, np.ndarray]]:
        """Crops of several labels at once: the same window of each, as uint8 (size, size) or (size, size, 3).

        At most `count` of them, from shards that are spread evenly over the list. A shard with fewer samples than its
        share gives several random crops of each; one with more gives the first ones. A sample that lacks one of the
        labels is left out.

        Args:
            scale: least share of the largest square that a crop covers.
            hflip: probability of a mirrored crop.
        """
        mill = Mill(self.job)
        mill.setup(device)
        left = count
        for task, shard, share in self._shards(count):
            quota = min(share, left)
            views = max(1, math.ceil(quota / max(len(shard.samples), 1)))
            for batch in mill.labelled(shard, task, set(labels)):
                for sample in batch:
                    if quota > 0 and all(label in sample.item.labels for label in labels):
                        made = self._views(sample, labels, min(views, quota), size, scale, hflip, seed)
                        quota, left = quota - len(made), left - len(made)
                        yield from made
                if quota <= 0:
                    break
            if left <= 0:
                break

    def _views(
        self, sample: Sample, labels: tuple[str, ...], views: int, size: int, scale: float, hflip: float, seed: int
    ) -> list[dict[str, np.ndarray]]:
        image = sample.item.image
        assert image is not None, sample.item.key
        height, width = image.shape[:2]
        windows = crops(seed, sample.item.key, width, height, views + 1, scale=(scale, 1.0), hflip=hflip)[1:]
        return [
            {label: crop_label(label, sample.item.labels[label], crop, size) for label in labels} for crop in windows
        ]
