"""The loader: from the token store to packed batches, in an order that is a pure function of (seed, position).

`TokenLoader.batches` yields endlessly; its whole state is the number of samples consumed so far. Which process gets
which sample follows from rank and world alone, and the union over all ranks is the next part of one global sequence
(order.py), whatever their number and however often training was interrupted.

A sample's crop and mask are functions of (seed, position), too: the same for any number of ranks and any batch size.
Masks are drawn for blocks of a lane (order.py). While the number of ranks divides `lanes`, each rank masks no more than
it gives out; else ranks share lanes, and mask the others' samples as well.

Reading, image decoding and masking run in threads ahead of the consumer; an error there is raised at the consumer.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modalities import Kind, ModalitySpec
from ..model.batch import PackedBatch
from .blend import Blend, Dataset, Stores
from .groups import GroupCache, Shard, TokenStore
from .masking import MaskingConfig, mask_batch
from .order import MASK_BLOCK, Order, deal, mask_block_positions, mask_blocks, mask_generator
from .samples import fetch, raw_values

_POLL_SECONDS = 0.1  # how often the producer looks whether the consumer has gone


@dataclass(frozen=True)
class LoaderOptions:
    """How the store is read. The first three are part of the order: other values give another sequence.

    lanes, buffer_rows, repeat: see `Order`.
    threads: readers and image decoders of each process.
    prefetch: batches made ahead.
    read_ahead: batches ahead of these for which row groups are read.
    """

    lanes: int = 8
    buffer_rows: int = 16_384
    repeat: int = 1
    threads: int = 4
    prefetch: int = 4
    read_ahead: int = 8


class TokenLoader:
    """Packed, masked batches of a dataset.

    Args:
        url: the folder of the columns, url/MODALITY/SHARD.parquet; any fsspec URL.
        shards: the shards and their numbers of samples, always in the same order.
        specs: the model's modalities, in its order.
        masking: how to mask.
        seed: of order, crops and masks.
        datasets: several stores to draw from by their weights, instead of `url` and `shards`.

    Raises:
        ValueError: `masking` does not fit `specs`, options are out of range, or there are no samples.
    """

    def __init__(
        self,
        url: str,
        shards: Sequence[Shard],
        specs: Sequence[ModalitySpec],
        masking: MaskingConfig,
        seed: int,
        options: LoaderOptions = LoaderOptions(),
        datasets: Sequence[Dataset] = (),
    ) -> None:
        masking.check(specs)
        for name in ("threads", "prefetch", "read_ahead"):
            if getattr(options, name) < 1:
                raise ValueError(f"loader.{name}: got {getattr(options, name)}, expected at least 1")
        self.specs, self.masking, self.seed, self.options = tuple(specs), masking, seed, options
        shape = (seed, options.lanes, options.buffer_rows, options.repeat)
        self.store: TokenStore | Stores
        self.order: Order | Blend
        if datasets:
            self.store = Stores(datasets, specs)
            orders = [Order(store.group_rows, *shape) for store in self.store.stores]
            self.order = Blend(orders, [one.weight for one in datasets], seed)
        else:
            self.store = TokenStore(url, shards, specs)
            self.order = Order(self.store.group_rows, *shape)

    @property
    def epoch_size(self) -> int:
        """Samples of one epoch of the global sequence, repetitions included."""
        return self.order.epoch_size

    def batches(
        self, start_step: int, batch_size: int, rank: int = 0, world: int = 1, *, start_sample: int | None = None
    ) -> Iterator[tuple[int, PackedBatch]]:
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
        first = start_step * batch_size if start_sample is None else start_sample
        deal(first, batch_size, rank, world)  # wrong arguments fail here and not at the first batch
        return _ahead(self._produce(start_step, first, batch_size, rank, world), self.options.prefetch)

    def _produce(
        self, start_step: int, first: int, batch_size: int, rank: int, world: int
    ) -> Iterator[tuple[int, PackedBatch]]:
        lanes = self.options.lanes
        wanted: dict[int, int] = {}  # the newest block of each lane that is being read, and that is masked
        masked: dict[int, _Block] = {}

        def want(sample: int) -> None:
            for lane, number, _ in mask_blocks(deal(sample, batch_size, rank, world), lanes):
                if number > wanted.get(lane, -1):
                    wanted[lane] = number
                    cache.want(np.unique(self.order.locate(mask_block_positions(lane, number, lanes))[0]).tolist())

        pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="loader")
        cache = GroupCache(self.store.read, pool, self._cache_size(world))
        try:
            for i in range(self.options.read_ahead):
                want(first + i * batch_size)
            for step in itertools.count(start_step):
                want(first + self.options.read_ahead * batch_size)
                yield step, self._batch(deal(first, batch_size, rank, world), masked, cache, pool)
                first += batch_size
        finally:
            pool.shutdown(cancel_futures=True)

    def _cache_size(self, world: int) -> int:
        """Row groups of the current and of the next blocks, of order and of masks, of each of this rank's lanes."""
        lanes = self.options.lanes // math.gcd(self.options.lanes, world)
        rows_of_group = max(1, sum(self.store.group_rows) // len(self.store.group_rows))
        if isinstance(self.order, Blend):
            lanes *= len(self.order.orders)
        return 2 * lanes * (-(-(self.order.block_rows + MASK_BLOCK) // rows_of_group) + 2)

    def _batch(
        self, positions: np.ndarray, masked: dict[int, _Block], cache: GroupCache, pool: ThreadPoolExecutor
    ) -> PackedBatch:
        """The samples at `positions`, in their order."""
        samples = np.empty(len(positions), object)
        arrays: dict[str, Any] = {}
        for lane, number, here in mask_blocks(positions, self.options.lanes):
            block = masked.get(lane)
            if block is None or block.number != number:
                block = masked[lane] = self._mask(lane, number, cache)
            rows = (positions[here] - block.first) // self.options.lanes
            for name, part in block.batch.arrays().items():
                whole = arrays.setdefault(name, np.empty((len(positions), *part.shape[1:]), part.dtype))
                whole[here] = part[rows]
            samples[here] = block.samples[rows]
        batch = PackedBatch(**arrays, keys=[sample.key for sample in samples])
        for m, spec in enumerate(self.specs):
            if spec.kind in (Kind.PIXELS, Kind.EMBEDDING):
                shown = np.asarray(batch.input_valid) & (np.asarray(batch.input_mod) == m)
                batch.values[spec.name] = raw_values(spec, samples.tolist(), shown.any(axis=1), pool)
        return batch

    def _mask(self, lane: int, number: int, cache: GroupCache) -> _Block:
        positions = mask_block_positions(lane, number, self.options.lanes)
        found, tokens = fetch(self.specs, self.order, positions, self.seed, cache)
        samples = np.empty(len(found), object)
        samples[:] = found
        batch = mask_batch(self.specs, self.masking, tokens, mask_generator(self.seed, lane, number))
        return _Block(number, int(positions[0]), samples, batch)


@dataclass(frozen=True)
class _Block:
    """A block of masks: its number within its lane, its first position, its `Sample`s and their batch without raw
    inputs."""

    number: int
    first: int
    samples: np.ndarray
    batch: PackedBatch


def _ahead(batches: Iterator[tuple[int, PackedBatch]], depth: int) -> Iterator[tuple[int, PackedBatch]]:
    """The same items, made in a thread up to `depth` ahead. Closing this iterator ends the thread."""
    ready: queue.Queue[tuple[int, PackedBatch] | BaseException] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: tuple[int, PackedBatch] | BaseException) -> None:
        while not gone.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in batches:
                put(item)
                if gone.is_set():
                    break
        except BaseException as error:  # whatever it is, the consumer must not wait for ever
            put(error)
        finally:
            batches.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=run, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        gone.set()
        thread.join()
