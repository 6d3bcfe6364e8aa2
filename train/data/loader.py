"""The loader: from the token store to packed batches, in an order that is a pure function of (seed, position).

`TokenLoader.batches` yields endlessly; its whole state is the number of samples consumed so far. Which process gets
which sample follows from rank and world alone, and the union over all ranks is the next part of one global sequence
(order.py), whatever their number and however often training was interrupted.

A sample's mask and crop follow from (seed, position), too: the same for any number of ranks and any batch size.

Reading, image decoding and masking run in threads ahead of the consumer; an error there is raised to the consumer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...infra import storage
from ...modalities import Kind, ModalitySpec
from ...model.batch import PackedBatch
from ..masking.masking import MaskingConfig, mask_batch
from . import cache as caches
from .blend import Blend, Dataset, Stores
from .cache import CacheOptions, ColumnCache
from .groups import GroupCache, ShardRows, TokenStore
from .order import Order, mask_keys, rank_positions
from .prefetch import prefetch
from .samples import TokenRow, fetch, raw_values

Made = TypeVar("Made")

# Of a store that is not on this machine: readers wait for answers, and need no core.
_REMOTE_READERS = 32
# Samples that are masked in one call, of several steps if batches are smaller: NumPy's overhead is then paid once.
_SAMPLES_TOGETHER = 512
_ENDLESS = 2**62  # batches
_LAST = np.nextafter(1.0, 0.0)  # the part of a run at its very end


@dataclass(frozen=True)
class LoaderOptions:
    """How the store is read. The first three are part of the order: other values give another sequence.

    lanes, buffer_rows, repeat: see `Order`; `repeat` is of a single store, datasets have their own.
    threads: readers and image decoders of each process; a store that is not on this machine has more readers.
    prefetch: batches made ahead.
    read_ahead: batches ahead of these for which row groups are read; of a store that is not on this machine at least
        as many as half the shuffle buffer holds.
    samples: of the whole run, by which mixtures count `during`; without it those of the run's end are drawn.
    cache: of stores that are not on this machine; none if None.
    """

    lanes: int = 8
    buffer_rows: int = 16_384
    repeat: int = 1
    threads: int = 4
    prefetch: int = 4
    read_ahead: int = 8
    samples: int | None = None
    cache: CacheOptions | None = None


class TokenLoader:
    """Packed, masked batches of a dataset.

    Args:
        url: the folder of the columns, url/MODALITY/SHARD.parquet; any fsspec URL.
        shards: the shards and their numbers of samples, always in the same order.
        specs: the model's modalities, in its order.
        masking: how to mask.
        seed: of order, crops and masks.
        datasets: several stores to draw from by their weights, instead of `url` and `shards`.
        tokenizers: as of `TokenStore`, shared by the loaders of a run.

    Raises:
        ValueError: `masking` does not fit `specs`, options are out of range, or there are no samples.
    """

    def __init__(
        self,
        url: str,
        shards: Sequence[ShardRows],
        specs: Sequence[ModalitySpec],
        masking: MaskingConfig,
        seed: int,
        options: LoaderOptions = LoaderOptions(),
        datasets: Sequence[Dataset] = (),
        tokenizers: dict[str, str] | None = None,
    ) -> None:
        masking.check(specs)
        for name in ("threads", "prefetch", "read_ahead"):
            if getattr(options, name) < 1:
                raise ValueError(f"loader.{name}: got {getattr(options, name)}, expected at least 1")
        self.specs, self.masking, self.seed, self.options = tuple(specs), masking, seed, options
        self._remote = not all(storage.is_local(one) for one in ([dataset.url for dataset in datasets] or [url]))
        shape = (seed, options.lanes, options.buffer_rows)
        self.caches: list[ColumnCache] = []
        self.store: TokenStore | Stores
        self.order: Order | Blend
        if datasets:
            self.store = Stores(datasets, specs, tokenizers, self._cache)
            sizes = [store.group_rows for store in self.store.stores]
            orders = [Order(rows, *shape, one.repeat) for rows, one in zip(sizes, datasets, strict=True)]
            self.order = Blend(orders, [one.weight for one in datasets], seed)
            self._weights = np.stack([_weights(masking, one) for one in datasets])
        else:
            self._weights = np.array([[mixture.weight for mixture in masking.mixtures]])
            self.store = TokenStore(url, shards, specs, tokenizers=tokenizers, cache=self._cache(url))
            self.order = Order(self.store.group_rows, *shape, options.repeat)

    def _cache(self, url: str) -> ColumnCache | None:
        cache = caches.of(url, self.options.cache)
        self.caches += [] if cache is None else [cache]
        return cache

    @property
    def epoch_size(self) -> int:
        """Samples of one epoch of the global sequence, repetitions included."""
        return self.order.epoch_size

    def batches(
        self, start_step: int, batch_size: int, rank: int = 0, world: int = 1, *, start_sample: int | None = None
    ) -> Generator[tuple[int, PackedBatch]]:
        """This rank's batches from a step on, without end.

        Args:
            start_step: number of the first batch.
            batch_size: samples of a step over all ranks; a multiple of `world`.
            start_sample: samples consumed before it, over all ranks; `start_step * batch_size` if not given. Give it
                when the batch size has changed since the start of the run.

        Yields:
            Step, and a batch of batch_size / world samples as NumPy arrays, `values` and `keys` included. Embeddings
            have a row of zeros after the last (see `mask_batch`). A sample without any tokens has nothing valid.

        Raises:
            ValueError: the store is not what the run expects, or an image cannot be decoded; names shard and modality.
        """
        return self.made(lambda batch: batch, start_step, batch_size, rank, world, start_sample=start_sample)

    def made(
        self,
        make: Callable[[PackedBatch], Made],
        start_step: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        start_sample: int | None = None,
    ) -> Generator[tuple[int, Made]]:
        """As `batches`, with what `make` makes of each in the thread that is ahead of the consumer."""
        first = start_step * batch_size if start_sample is None else start_sample
        rank_positions(first, batch_size, rank, world)  # wrong arguments fail here and not at the first batch
        produced = self._produce(start_step, first, batch_size, rank, world)
        return prefetch(_each(make, produced), self.options.prefetch)

    def _produce(
        self, start_step: int, first: int, batch_size: int, rank: int, world: int
    ) -> Generator[tuple[int, PackedBatch]]:
        own = batch_size // world
        most = max(1, _SAMPLES_TOGETHER // own)  # batches that are masked together
        # Two pools: decoding must not wait behind row groups that are read for later batches.
        threads = max(self.options.threads, _REMOTE_READERS) if self._remote else self.options.threads
        readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        decoders = ThreadPoolExecutor(self.options.threads, thread_name_prefix="decoder")
        cache = GroupCache(lambda visit: self.store.read(visit[0], self.order.crops(visit)), readers)
        step, asked = start_step, first
        try:
            for together in _growing(most):
                steps = max(1, min(together, self._left(first, batch_size)))
                end = first + steps * batch_size
                ahead = end + min(self._read_ahead(batch_size), self._left(end, batch_size)) * batch_size
                if ahead > asked:
                    cache.want(self.order.blocks(rank_positions(asked, ahead - asked, rank, world)))
                    asked = ahead
                positions = rank_positions(first, end - first, rank, world)
                cache.begin(self.order.blocks(positions))
                samples, batch = self._masked(positions, cache)  # of `steps` batches, which are cut apart below
                for i in range(steps):
                    here = batch.rows(i * own, (i + 1) * own)
                    yield step + i, self._filled(here, samples[i * own : (i + 1) * own], decoders)
                step, first = step + steps, end
        finally:  # the consumer has gone: what was read ahead is not needed
            readers.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)

    def _left(self, position: int, batch_size: int) -> int:
        """Batches of the run from a position on; as many as one likes of a run whose end is not known."""
        last = self.options.samples
        return _ENDLESS if last is None else max(0, -(-(last - position) // batch_size))

    def _read_ahead(self, batch_size: int) -> int:
        """Batches for which row groups are read ahead."""
        # All lanes begin their next blocks at about the same time: what these need is asked for while half of the
        # blocks before is still to come. No block is longer than its lane's part of an epoch.
        half = -(-min(self.options.buffer_rows, self.order.epoch_size) // 2 // batch_size)
        return max(self.options.read_ahead, half) if self._remote else self.options.read_ahead

    def _masked(self, positions: np.ndarray, cache: GroupCache) -> tuple[list[TokenRow], PackedBatch]:
        samples, tokens = fetch(self.specs, self.order.locate(positions), cache)
        keys = mask_keys(self.seed, positions)
        return samples, mask_batch(self.specs, self.masking, tokens, keys, self._weights_at(positions))

    def _weights_at(self, positions: np.ndarray) -> np.ndarray:
        """How often each mixture is drawn for the samples at some positions: float (B, mixtures)."""
        datasets = self.order.assign(positions)[0] if isinstance(self.order, Blend) else np.zeros_like(positions)
        total = self.options.samples
        part = np.minimum(positions / total, _LAST) if total else np.full(len(positions), _LAST)
        begin, end = np.array([mixture.during for mixture in self.masking.mixtures]).T
        return self._weights[datasets] * ((begin <= part[:, None]) & (part[:, None] < end))

    def _filled(self, batch: PackedBatch, samples: list[TokenRow], pool: ThreadPoolExecutor) -> PackedBatch:
        """The batch with its samples' keys and raw inputs."""
        batch.keys = [sample.key for sample in samples]
        for m, spec in enumerate(self.specs):
            if spec.kind in (Kind.PIXELS, Kind.EMBEDDING):
                shown = np.asarray(batch.input_valid) & (np.asarray(batch.input_mod) == m)
                batch.values[spec.name] = raw_values(spec, samples, shown.any(axis=1), pool)
        return batch


def _growing(most: int) -> Iterator[int]:
    """1, 2, 4, ... `most`, `most`, ...: the first batches of a run need not wait for many, nor a short run read more
    than it needs."""
    steps = 1
    while True:
        yield steps
        steps = min(2 * steps, most)


def _each(
    make: Callable[[PackedBatch], Made], batches: Generator[tuple[int, PackedBatch]]
) -> Generator[tuple[int, Made]]:
    with contextlib.closing(batches):
        for step, batch in batches:
            yield step, make(batch)


def _weights(masking: MaskingConfig, dataset: Dataset) -> np.ndarray:
    """How often each mixture is drawn for the samples of a dataset: float (mixtures,)."""
    weights = np.array([mixture.weight for mixture in masking.mixtures])
    if dataset.mixtures is not None:
        weights[[i not in dataset.mixtures for i in range(len(weights))]] = 0
    if not weights.any():
        raise ValueError(f"{dataset.url}: none of the masking's mixtures is for this dataset")
    return weights
