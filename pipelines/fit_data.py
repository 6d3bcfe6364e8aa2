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

    def _shards(self) -> Iterator[tuple[ShardTask, source.Shard]]:
        """The shards that can be read, open one at a time; the others are the label stage's to report."""
        for task in self.tasks:
            with ExitStack() as stack:
                try:
                    shard = stack.enter_context(source.open_shard(task.url, self.job.scratch))
                except (OSError, ValueError):
                    continue
                yield task, shard

    def captions(self, count: int) -> Iterator[str]:
        """The first captions of every shard, about `count` in all."""
        quota = math.ceil(count / max(len(self.tasks), 1))
        for task, shard in self._shards():
            taken = 0
            for batch in Mill(self.job).labelled(shard, task, {"caption"}):
                captions = [s.item.labels["caption"] for s in batch if "caption" in s.item.labels]
                yield from captions[: quota - taken]
                taken += len(captions)
                if taken >= quota:
                    break

    def crops(
        self, labels: tuple[str, ...], count: int, size: int, scale: float, hflip: float, seed: int, device: str = "cpu"
    ) -> Iterator[dict[str, np.ndarray]]:
        """Crops of several labels at once: the same window of each, as uint8 (size, size) or (size, size, 3).

        About `count` of them, evenly from all shards. A shard with fewer samples than its share gives several random
        crops of each; one with more gives the first ones. A sample that lacks one of the labels is left out.

        Args:
            scale: least share of the largest square that a crop covers.
            hflip: probability of a mirrored crop.
        """
        quota = math.ceil(count / max(len(self.tasks), 1))
        mill = Mill(self.job)
        mill.setup(device)
        for task, shard in self._shards():
            views = max(1, math.ceil(quota / max(len(shard.samples), 1)))
            left = quota
            for batch in mill.labelled(shard, task, set(labels)):
                for sample in batch:
                    if left > 0 and all(label in sample.item.labels for label in labels):
                        made = self._views(sample, labels, min(views, left), size, scale, hflip, seed)
                        left -= len(made)
                        yield from made
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
