"""The loader: from the token store to packed batches, in an order that is a pure function of (seed, position).

`TokenLoader.batches` yields endlessly; its whole state is the number of samples consumed so far. Which process gets
which sample follows from rank and world alone, and the union over all ranks is the next part of one global sequence
(order.py), whatever their number and however often training was interrupted.

Masks are drawn lane by lane of the order, from (seed, position). As long as the number of ranks divides `lanes`, a
sample therefore has the same crop and the same mask on any number of ranks.

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

import numpy as np

from ..modalities import Kind, ModalitySpec
from ..model.batch import PackedBatch
from . import ragged
from .blend import Blend, Dataset, Stores
from .groups import GroupCache, RowGroup, Shard, TokenStore
from .masking import MaskingConfig, Tokens, mask_batch
from .order import Order, deal, draw_crops, mask_generator
from .packing import concatenate

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
        def want(sample: int) -> None:
            cache.want(np.unique(self.order.locate(deal(sample, batch_size, rank, world))[0]).tolist())

        pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="loader")
        cache = GroupCache(self.store.read, pool, self._cache_size(world))
        try:
            for i in range(self.options.read_ahead):
                want(first + i * batch_size)
            for step in itertools.count(start_step):
                want(first + self.options.read_ahead * batch_size)
                yield step, self._batch(deal(first, batch_size, rank, world), cache, pool)
                first += batch_size
        finally:
            pool.shutdown(cancel_futures=True)

    def _cache_size(self, world: int) -> int:
        """Row groups of the current and of the next block of each of this rank's lanes."""
        lanes = self.options.lanes // math.gcd(self.options.lanes, world)
        rows_of_group = max(1, sum(self.store.group_rows) // len(self.store.group_rows))
        if isinstance(self.order, Blend):
            lanes *= len(self.order.orders)
        return 2 * lanes * (-(-self.order.block_rows // rows_of_group) + 2)

    def _batch(self, positions: np.ndarray, cache: GroupCache, pool: ThreadPoolExecutor) -> PackedBatch:
        lanes = positions % self.options.lanes
        samples = [
            _fetch(self.specs, self.order, positions[lanes == lane], self.seed, cache) for lane in np.unique(lanes)
        ]
        parts = [
            mask_batch(self.specs, self.masking, part.tokens, mask_generator(self.seed, part.first)) for part in samples
        ]
        batch = concatenate(parts)
        batch.keys = [str(key) for part in samples for key in part.names()]
        for m, spec in enumerate(self.specs):
            if spec.kind in (Kind.PIXELS, Kind.EMBEDDING):
                shown = np.asarray(batch.input_valid) & (np.asarray(batch.input_mod) == m)
                batch.values[spec.name] = _values(spec, samples, shown.any(axis=1), pool)
        return batch


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


@dataclass(frozen=True)
class _Samples:
    """Samples at some positions: for each its row group, row, and number to draw the crop from; all their tokens."""

    first: int
    groups: list[RowGroup]
    rows: np.ndarray
    crops: np.ndarray
    tokens: dict[str, Tokens]

    def names(self) -> list[str]:
        return [group.keys[row].as_py() for group, row in zip(self.groups, self.rows.tolist(), strict=True)]

    def crop_of(self, i: int, modality: str) -> np.ndarray:
        """File bytes or vectors of sample i; empty if it has none."""
        column = self.groups[i].columns[modality]
        return column.crop(int(self.rows[i]), int(self.crops[i]) % column.spec.crops)


def _fetch(
    specs: Sequence[ModalitySpec], order: Order | Blend, positions: np.ndarray, seed: int, cache: GroupCache
) -> _Samples:
    groups, rows = order.locate(positions)
    crops = draw_crops(seed, positions)
    found = {group: cache.get(group) for group in np.unique(groups).tolist()}
    members = [(found[group], np.flatnonzero(groups == group)) for group in found]
    # Columns have either one crop or the shard's number of crops, so that this picks the same crop in all of them.
    for group, here in members:
        crops[here] %= np.uint64(group.crops)
    tokens = {spec.name: _tokens(spec, members, rows, crops.astype(np.int64)) for spec in specs}
    return _Samples(int(positions[0]), [found[group] for group in groups.tolist()], rows, crops, tokens)


def _tokens(
    spec: ModalitySpec, members: Sequence[tuple[RowGroup, np.ndarray]], rows: np.ndarray, crops: np.ndarray
) -> Tokens:
    """One modality of some samples; `members` are the row groups and which of the samples lie in each."""
    lengths, starts = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    grid = np.zeros((len(rows), spec.max_tokens), np.uint16) if spec.kind is Kind.GRID else None
    for group, here in members:
        column = group.columns[spec.name]
        picked = (rows[here], crops[here] % column.spec.crops)
        starts[here] = column.starts[picked]
        # Pixels count patches, not bytes. A text may be longer than this run's position table: 4M cuts it.
        most = np.where(column.valid[picked[0]], spec.max_tokens, 0)
        lengths[here] = most if spec.kind is Kind.PIXELS else np.minimum(column.lengths[picked], most)
        if grid is not None:
            grid[here] = column.values[picked]
    if spec.kind is not Kind.SEQUENCE:
        return Tokens(lengths, grid)
    flat = np.empty(int(lengths.sum()), np.uint16)
    begin = ragged.exclusive_cumsum(lengths)
    for group, here in members:
        values = group.columns[spec.name].values
        flat[ragged.indices(begin[here], lengths[here])] = values[ragged.indices(starts[here], lengths[here])]
    return Tokens(lengths, flat)


def _values(spec: ModalitySpec, samples: Sequence[_Samples], used: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """Raw inputs of the samples that show some of them, zeros for the others."""
    where = [(part, i) for part in samples for i in range(len(part.rows))]
    if spec.kind is Kind.EMBEDDING:
        values = np.zeros((len(where), spec.max_tokens + 1, spec.input_dim), np.float16)
        for row in np.flatnonzero(used).tolist():
            vectors = where[row][0].crop_of(where[row][1], spec.name)[: spec.max_tokens]
            values[row, : len(vectors)] = vectors
        return values
    values = np.zeros((len(where), spec.max_tokens, spec.input_dim), np.uint8)

    def decode(row: int) -> None:
        part, i = where[row]
        try:
            values[row] = decode_patches(part.crop_of(i, spec.name), spec)
        except ValueError as error:
            raise ValueError(
                f"shard {part.groups[i].shard}, sample {part.names()[i]!r}, {spec.name}: {error}"
            ) from None

    list(pool.map(decode, np.flatnonzero(used).tolist()))
    return values


def decode_patches(data: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """A JPEG or PNG crop as patches.

    Args:
        data: uint8 (bytes,), the file.

    Returns:
        uint8 (max_tokens, input_dim): RGB patches in row-major order, each flattened as (ph pw c), as in ml-4m.

    Raises:
        ValueError: no image, or not of the size of `spec`.
    """
    import cv2

    side = spec.side
    patch = round((spec.input_dim / 3) ** 0.5)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{len(data)} bytes are no image that can be decoded")
    if image.shape != (side * patch, side * patch, 3):
        raise ValueError(f"got an image of {image.shape[:2]}, expected {side * patch} x {side * patch} px")
    patches = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).reshape(side, patch, side, patch, 3)
    return patches.transpose(0, 2, 1, 3, 4).reshape(side * side, spec.input_dim)
