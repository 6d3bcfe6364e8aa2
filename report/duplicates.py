"""What `duplicate` says of a root, and pairs of it to look at."""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..infra import ledger
from ..modalities import DUPLICATE
from ..pipelines.plan import Plan
from ..tokenize import labels as label_files
from .samples import Collector


@dataclass(frozen=True)
class Pair:
    """A duplicate and its nearest earlier sample; an image is None where its shard cannot be read."""

    shard: str
    key: str
    said: dict[str, Any]
    image: np.ndarray | None = None
    nearest: np.ndarray | None = None


@dataclass
class Found:
    """samples: that have been compared. duplicates: by what they were found by. across: duplicates in validation shards
    of samples in training shards. pairs: the least alike first."""

    samples: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    across: int = 0
    pairs: list[Pair] = field(default_factory=list)


def collect(root: str, plan: Plan, collector: Collector, count: int) -> Found:
    """Read the column of every shard, and the images of `count` pairs.

    Args:
        plan: with `labels/duplicate` of the shards that have it.
    """
    found, heap = Found(), list[tuple[float, str, str, dict[str, Any]]]()
    train = set(plan.splits["train"])
    name = f"labels/{DUPLICATE}"
    for shard in (one for one in plan.shards if (name, one) in plan.done):
        _, keys, cells = label_files.read_cells(ledger.output_url(root, name, shard))
        for key, cell in zip(keys, cells, strict=True):
            if cell is None:
                continue
            found.samples += 1
            if cell == "false":
                continue
            said = json.loads(cell)
            found.duplicates[said["by"]] += 1
            found.across += shard not in train and said["of_shard"] in train
            heapq.heappush(heap, (said["distance"], shard, key, said))
            if len(heap) > count:
                heapq.heappop(heap)
    pairs = [Pair(shard, key, said) for _, shard, key, said in sorted(heap, key=lambda one: (-one[0], *one[1:3]))]
    images = _images(root, plan, collector, pairs)
    for pair in pairs:
        both = images.get((pair.shard, pair.key)), images.get((pair.said["nearest_shard"], pair.said["nearest"]))
        found.pairs.append(Pair(pair.shard, pair.key, pair.said, *both))
    return found


def _images(
    root: str, plan: Plan, collector: Collector, pairs: list[Pair]
) -> Mapping[tuple[str, str], np.ndarray | None]:
    """The images of pairs, by shard and key."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        wanted[pair.shard].add(pair.key)
        wanted[pair.said["nearest_shard"]].add(pair.said["nearest"])
    rows: dict[str, list[int]] = {}
    for shard, keys in wanted.items():
        if shard in plan.tasks:
            every, _ = label_files.read_labels(ledger.output_url(root, f"labels/{DUPLICATE}", shard))
            rows[shard] = [row for row, key in enumerate(every) if key in keys]
    images: dict[tuple[str, str], np.ndarray | None] = {}
    for shard, of_shard in rows.items():
        for sample in collector.pictures([plan.tasks[shard]], {shard: of_shard}):
            images[shard, sample.key] = sample.image
    return images
