"""What tokenizers are fitted on: captions, and crops of labels, read straight from the training shards."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache
from typing import cast

import numpy as np

from ..infra import removals
from ..modalities import TOKENIZERS, Form, Size
from ..sensors.declared import weight_of, window_of
from ..tokenize import inputs
from ..tokenize.sensors.raster import Drawing
from . import source
from .plan import ShardTask
from .read_notes import ReadNotes
from .sensors import parallel
from .worker.job import Job
from .worker.sample import LabelledSample
from .worker.shard_worker import ShardWorker

logger = logging.getLogger(__name__)

_WHOLE = (Form.NUMBERS, Form.SERIES)  # whose crops are all alike
LEAST_PER_SHARD = 256  # samples that are worth opening a shard for


@dataclass(frozen=True)
class FitData:
    """Labels of some shards as an endless supply of crops, the same at every call. Small enough to be sent to workers.

    job: its specialists make the labels that `tasks` do not name as stored.
    opened: the shards that were read, by this copy and its parts, or may have been by those of other workers.
    """

    job: Job
    tasks: tuple[ShardTask, ...]
    opened: set[str] = field(default_factory=set, compare=False)

    def part(self, rank: int, world: int) -> FitData:
        """The shards of one of several workers."""
        self.opened.update(task.shard for task in self.tasks if world > 1)
        return replace(self, tasks=self.tasks[rank::world])

    def _shards(self, count: int, notes: str = "") -> Iterator[tuple[ShardTask, source.Shard, int]]:
        """Shards to take `count` samples from, open one at a time, each with its share of them.

        No more shards than that needs, evenly from the list, as a remote one is downloaded whole; then the others, for
        a consumer that got less. Those that cannot be read are the label stage's to report.
        """
        number = min(len(self.tasks), max(1, count // LEAST_PER_SHARD))
        first = [i * len(self.tasks) // number for i in range(number)]
        for i in dict.fromkeys([*first, *range(len(self.tasks))]):
            with ExitStack() as stack:
                if notes and not stack.enter_context(self.read_notes(notes).reading(self.tasks[i].shard)):
                    continue
                try:
                    shard = stack.enter_context(
                        parallel.open_shard(self.tasks[i].url, self.job.scratch, self.job.every_key, self.job.key)
                    )
                except (OSError, ValueError) as error:
                    logger.warning("shard %s is skipped in a fit: %s", self.tasks[i].shard, error)
                    continue
                shard.withhold(removals.read(self.job.root), self.tasks[i].shard)
                self.opened.add(self.tasks[i].shard)
                yield self.tasks[i], shard, math.ceil(count / number)

    def read_notes(self, folder: str) -> ReadNotes:
        """The notes that a reader of these shards keeps in a folder."""
        return ReadNotes(folder, self.job.engine.attempts)

    def captions(self, count: int) -> Iterator[str]:
        """The first captions of shards that are spread evenly over the list, at most `count` in all."""
        worker, left = ShardWorker(self.job), count
        for task, shard, share in self._shards(count):
            quota = min(share, left)
            for batch in worker.labelled(shard, task, {"caption"}):
                captions = [s.item.labels["caption"] for s in batch if "caption" in s.item.labels][:quota]
                yield from captions
                quota, left = quota - len(captions), left - len(captions)
                if quota <= 0:
                    break
            if left <= 0:
                break

    def examples(
        self,
        sizes: Mapping[str, Size],
        count: int,
        scale: float,
        hflip: float,
        seed: int,
        device: str = "cpu",
        notes: str = "",
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What tokenizers are fitted on, `count` rows for each, in one pass over the shards: (tokenizer, (n, ...)); and
        where a sensor has weights, after its rows those of their values: (`weights_of` the tokenizer, (n, ...)).

        The rows of `inputs.examples` of random crops; every tokenizer sees the same crop of a sample. They come from
        shards that are spread evenly over the list. A shard with fewer samples than its share gives several crops of
        each; one with more gives the first ones. A sample that lacks a label is left out for that label's tokenizers.
        A tokenizer that has its rows needs no more labels, so that one of rare things (people) goes on alone.

        Args:
            sizes: of what each tokenizer reads, as in `inputs.window`.
            scale: least share of the largest window that a crop covers.
            hflip: probability of a mirrored crop.
            notes: URL of a folder where a shard that kills the process is noted, see `ReadNotes`; "" for none.
        """
        worker = ShardWorker(self.job)
        worker.setup(device)
        left = dict.fromkeys(sizes, count)
        for task, shard, share in self._shards(count, notes):
            quota = {name: min(share, most) for name, most in left.items()}
            # Of each tokenizer's own quota: who else takes part in the pass must not change its crops.
            views = {
                name: 1 if TOKENIZERS[name].form in _WHOLE else math.ceil(most / max(len(shard.samples), 1))
                for name, most in quota.items()
            }
            for sample in _labelled(worker, shard, task, quota):
                for name, rows in self._rows(sample, sizes, quota, views, scale, hflip, seed):
                    if name in quota:
                        quota[name], left[name] = quota[name] - len(rows), left[name] - len(rows)
                    yield name, rows
            if not any(left.values()):
                break

    def _rows(
        self,
        sample: LabelledSample,
        sizes: Mapping[str, Size],
        quota: dict[str, int],
        views: Mapping[str, int],
        scale: float,
        hflip: float,
        seed: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        most = max(views.values())
        draw = cache(Drawing(seed, most + 1, (scale, 1.0), hflip).windows)
        for view in range(most):
            for name, size in sizes.items():
                label = TOKENIZERS[name].label
                frame = sample.frame(label)
                if view < views[name] and quota[name] > 0 and label in sample.item.labels and frame != (0, 0):
                    crop = draw(sample.item.key, frame, window_of(label))[view + 1]  # the first is the centre crop
                    try:
                        rows = inputs.examples(name, sample.item.labels[label], crop, size, frame)
                    except ValueError:  # the tokenize stage rejects it, with this reason
                        continue
                    weight = weight_of(label)
                    weights = sample.item.labels.get(weight) if weight else None
                    if not len(rows) or (weight and weights is None):
                        continue
                    kept = rows[: quota[name]]
                    yield name, kept
                    if weights is not None:
                        yield weights_of(name), inputs.window(weight, weights, crop, size, frame)[None][: len(kept)]


def with_weights(labels: set[str]) -> set[str]:
    """Labels, and those that have the weights of their values."""
    return labels | {weight for label in labels if (weight := weight_of(label))}


def weights_of(name: str) -> str:
    """What the weights of a tokenizer's rows are called."""
    return f"{name}:weights"


def _labelled(
    worker: ShardWorker, shard: source.Shard, task: ShardTask, quota: dict[str, int]
) -> Iterator[LabelledSample]:
    """The samples of a shard, with the labels of the tokenizers that have a quota left; as long as any has."""
    row, rows = 0, len(shard.samples)
    while row < rows and (wanted := _wanted(quota)):
        # Closed before the next one begins: it holds the worker's lock.
        labelled = cast(Generator[list[LabelledSample]], worker.labelled(shard, task, wanted, range(row, rows)))
        with closing(labelled) as batches:
            for batch in batches:
                yield from batch
                row += len(batch)
                if _wanted(quota) != wanted:
                    break


def _wanted(quota: Mapping[str, int]) -> set[str]:
    return with_weights({TOKENIZERS[name].label for name, left in quota.items() if left > 0})
