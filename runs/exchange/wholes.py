"""The images that the tokens of a root were made of: their bytes, and where crops lie in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...infra import storage
from ...infra.ledger import Record
from ...pipelines import source
from ...pipelines.exchange.bring import picture_size
from ...pipelines.grouping import SourceSample
from ...pipelines.reject import Reject
from ...pipelines.settings import Images
from ...tokenize.crops import crops


class Wholes:
    """The images of one open shard, by key."""

    def __init__(self, shard: source.Shard, images: Images, seed: int) -> None:
        self._shard, self._images, self._seed = shard, images, seed
        self._samples: dict[str, SourceSample] = {one.key: one for one in shard.samples}

    def bytes_of(self, key: str) -> bytes:
        return self._shard.image(self._samples[key])

    def windows(self, key: str) -> np.ndarray | None:
        """int64 (crops, 5): top, left, height, width and flip; None of an image that ml-4m would read otherwise."""
        try:
            width, height = picture_size(self.bytes_of(key))
        except (KeyError, ValueError, Reject):
            return None
        settings = self._images
        scale = (settings.crop_scale, 1.0)
        drawn = crops(self._seed, key, width, height, settings.crops, scale=scale, hflip=settings.hflip)
        return np.array([(one.top, one.left, one.height, one.width, int(one.flip)) for one in drawn])


def can_be_read(urls: dict[str, str], records: dict[str, Record]) -> bool:
    """Whether the shards are there as they were tokenized, as far as their sizes say."""
    for name, record in records.items():
        stat = storage.stat(urls[name])
        if stat is None or stat.size != record.source.size:
            return False
    return True


@contextmanager
def opened(url: str, images: Images, seed: int) -> Iterator[Wholes]:
    with source.open_shard(url, source.scratch_folder()) as shard:
        yield Wholes(shard, images, seed)
