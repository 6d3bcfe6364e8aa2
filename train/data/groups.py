"""Row groups of the token store, read ahead of the loader by a few threads and kept while they are needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa

from ...infra import storage
from ...modalities import Kind, ModalitySpec, size_text
from ...model.patches import picture_shape
from ...tokenize.column_chunks import Cache
from ...tokenize.store import ROW_GROUP, Column, ColumnReader, ColumnSpec
from .order import Block, Visit

# Parquet footers that are kept: each takes one or two round trips to an object store, and a few kilobytes.
_FOOTERS = 4096


@dataclass(frozen=True)
class ShardRows:
    """A shard's name and its number of samples, from the ledger.

    footers: modality -> sum of the footer of its column; without it, or "", any column will do.
    selected: a bit for each sample, as of `numpy.packbits`: those with a 1 are read, in their order. None for all.
    """

    name: str
    rows: int
    footers: Mapping[str, str] = field(default_factory=dict, compare=False)
    selected: bytes | None = None

    def mask(self) -> np.ndarray:
        """Which samples are read, bool (rows,)."""
        if self.selected is None:
            return np.ones(self.rows, np.bool_)
        return np.unpackbits(np.frombuffer(self.selected, np.uint8), count=self.rows).astype(np.bool_)

    @property
    def count(self) -> int:
        """Samples that are read."""
        return self.rows if self.selected is None else int(np.count_nonzero(self.mask()))

    def group_counts(self) -> list[int]:
        """Samples that are read of each row group."""
        starts = range(0, self.rows, ROW_GROUP)
        if self.selected is None:
            return [min(ROW_GROUP, self.rows - start) for start in starts]
        counts: list[int] = np.add.reduceat(self.mask().astype(np.int64), starts).tolist() if self.rows else []
        return counts


@dataclass(frozen=True)
class RowGroup:
    """The same samples in all modalities: keys (samples,), and a column for each modality.

    Columns hold only the crops that are used. crops: int64 (turns,), which of these crops each turn shows.
    selected: int64 (n,), the rows that the order counts, if these are not all.
    """

    shard: str
    keys: pa.StringArray
    columns: dict[str, Column]
    crops: np.ndarray
    selected: np.ndarray | None = None


class TokenStore:
    """The row groups of some modalities of a dataset, numbered through its shards.

    Args:
        url: the folder of the columns: url/MODALITY/SHARD.parquet.
        shards: in any order, as long as it is always the same.
        specs: the modalities to read.
        present: names of those that have columns here; the others are null for every sample. Empty for all.
        tokenizers: modality -> those that made its ids, as columns say it. Of others the first column says it, and is
            noted here: give one mapping to all stores of a run.
        cache: of this machine, for columns that are on another one.
    """

    def __init__(
        self,
        url: str,
        shards: Sequence[ShardRows],
        specs: Sequence[ModalitySpec],
        present: Collection[str] = (),
        tokenizers: dict[str, str] | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.cache = cache
        self.url, self.specs = url, tuple(spec for spec in specs if not present or spec.name in present)
        self._absent = tuple(spec for spec in specs if spec not in self.specs)
        self._shards = [(shard, i) for shard in shards for i in range(-(-shard.rows // ROW_GROUP))]
        # Of a group without selected rows the order knows nothing, and nobody reads it.
        self.group_rows = tuple(count for shard in shards for count in shard.group_counts())
        self._tokenizers = {} if tokenizers is None else tokenizers
        # A cache of this store's own, not of the class: readers go with the store that opened them.
        self._reader = lru_cache(maxsize=_FOOTERS)(self._open)

    def read(self, group: int, draws: np.ndarray) -> RowGroup:
        """One row group of every modality.

        Args:
            draws: uint64 (turns,), of which the crops are the remainders; only these are read.

        Raises:
            ValueError: a column is missing or damaged, is of other sizes than the run or the ledger says, of another
                tokenizer than the others, or has other keys than its neighbours; names shard and modality.
        """
        shard, index = self._shards[group]
        readers = {spec.name: self._reader(shard, spec) for spec in self.specs}
        several = {name: reader.spec.crops for name, reader in readers.items() if reader.spec.crops > 1}
        if len(set(several.values())) > 1:
            raise ValueError(f"shard {shard.name}: columns have different numbers of crops, {several}; tokenize again")
        # Columns have either one crop (captions) or the shard's number of crops: all show the same one.
        used, crops = np.unique(draws % np.uint64(max(several.values(), default=1)), return_inverse=True)
        columns = {
            name: reader.read([index], used.tolist() if name in several else None) for name, reader in readers.items()
        }
        first = next(iter(columns.values()))
        for name, column in columns.items():
            if not column.keys.equals(first.keys):
                raise ValueError(
                    f"shard {shard.name}: the keys of {name} differ from those of {first.spec.modality} in row group "
                    f"{index}; all columns of a shard hold the same keys in the same order; tokenize {name} again"
                )
        columns |= {spec.name: _nulls(spec, first.keys) for spec in self._absent}
        selected = None
        if shard.selected is not None:
            selected = np.flatnonzero(shard.mask()[index * ROW_GROUP : (index + 1) * ROW_GROUP])
        return RowGroup(shard.name, first.keys, columns, crops, selected)

    def _open(self, shard: ShardRows, spec: ModalitySpec) -> ColumnReader:
        url = storage.join(self.url, spec.name, f"{shard.name}.parquet")
        try:
            reader = ColumnReader(url, shard.footers.get(spec.name, ""), self.cache)
        except FileNotFoundError:
            raise ValueError(f"shard {shard.name} has no {spec.name} tokens ({url}); tokenize them first") from None
        _check_column(reader, shard, spec)
        theirs = reader.spec.tokenizer  # "" of columns that name none
        if theirs and (ours := self._tokenizers.setdefault(spec.name, theirs)) != theirs:
            raise ValueError(
                f"shard {shard.name}, {spec.name}: its tokens are of the tokenizer {theirs}, this run's of {ours}: it "
                "was fitted again since; bring the tokenizer back, or run `fourmill tokenize` and `fourmill train` for "
                "a run on the new tokens"
            )
        return reader


def _nulls(spec: ModalitySpec, keys: pa.StringArray) -> Column:
    """A column of a modality that no sample has."""
    dim = spec.input_dim if spec.kind is Kind.EMBEDDING else 0
    if spec.has_bands:
        dim = spec.channels
    column = ColumnSpec(spec.name, spec.kind, 1, spec.max_tokens, spec.vocab_size, dim, width=spec.columns)
    shapes = {Kind.GRID: (len(keys), 1, spec.max_tokens), Kind.EMBEDDING: (0, spec.input_dim)}
    values = np.zeros(shapes.get(spec.kind, (0,)), column.dtype)
    nothing = np.zeros((len(keys), 1), np.int64)
    return Column(column, keys, np.zeros(len(keys), np.bool_), values, nothing, nothing)


def _check_column(reader: ColumnReader, shard: ShardRows, spec: ModalitySpec) -> None:
    column, where = reader.spec, f"shard {shard.name}, {spec.name}"
    if (column.modality, column.kind) != (spec.name, spec.kind):
        raise ValueError(f"{where}: expected a {spec.kind} column, the file holds {column.kind} of {column.modality}")
    if reader.num_rows != shard.rows:
        raise ValueError(
            f"{where}: the file has {reader.num_rows} samples, the ledger says {shard.rows}; tokenize again"
        )
    # A row's group and place in it follow from its number alone, in every column of the shard.
    if any(size != ROW_GROUP for size in reader.row_group_sizes()[:-1]):
        raise ValueError(f"{where}: row groups must have {ROW_GROUP} samples, got {reader.row_group_sizes()[:9]}")
    if column.vocab_size > spec.vocab_size:
        raise ValueError(f"{where}: token ids go to {column.vocab_size}, the model's vocabulary has {spec.vocab_size}")
    length = column.length
    if spec.kind is Kind.PIXELS:
        expected = picture_shape(spec)[1:]
        if column.dim != (spec.channels if spec.has_bands else 0):
            raise ValueError(f"{where}: the file has {column.dim or 3} bands, the model expects {spec.channels}")
        if column.picture != expected:
            there, here = size_text(column.picture), size_text(expected)
            raise ValueError(f"{where}: crops have {there} px, the model expects {here} px")
    elif spec.kind is Kind.GRID and (length, column.width) != (spec.max_tokens, spec.columns):
        there, here = (
            f"{count} tokens of each crop{f', {columns} in a row' if columns else ''}"
            for count, columns in ((length, column.width), (spec.max_tokens, spec.columns))
        )
        raise ValueError(f"{where}: the file has {there}, the model expects {here}")
    elif spec.kind is Kind.EMBEDDING and column.dim != spec.input_dim:
        raise ValueError(f"{where}: vectors have {column.dim} numbers, the model expects {spec.input_dim}")


class GroupCache:
    """The row groups in use: read ahead in a pool, and dropped when no later block reads from them.

    For one thread. An error in reading is raised by `get`.
    """

    def __init__(self, read: Callable[[Visit], RowGroup], pool: ThreadPoolExecutor) -> None:
        self._read, self._pool = read, pool
        self._futures: dict[Visit, Future[RowGroup]] = {}
        self._blocks: dict[int, dict[tuple[int, int], frozenset[Visit]]] = {}

    def want(self, blocks: Iterable[Block]) -> None:
        """Begin to read the row groups of blocks that are needed later."""
        for block in blocks:
            lane = self._blocks.setdefault(block.lane, {})
            if block.number not in lane:
                lane[block.number] = block.visits
                for visit in sorted(block.visits - self._futures.keys()):
                    self._futures[visit] = self._pool.submit(self._read, visit)

    def begin(self, blocks: Iterable[Block]) -> None:
        """From now on only these blocks and later ones of their lanes are needed; earlier ones are dropped."""
        # Blocks of a lane come one after the other; lanes may be at different blocks.
        first: dict[int, tuple[int, int]] = {}
        for block in blocks:
            first[block.lane] = min(block.number, first.get(block.lane, block.number))
        over = [(lane, number) for lane, least in first.items() for number in self._blocks[lane] if number < least]
        for lane, number in over:
            del self._blocks[lane][number]
        if over:
            # A row group may belong to several blocks: it is dropped when none of them is still to come.
            needed = frozenset().union(*(visits for lane in self._blocks.values() for visits in lane.values()))
            for visit in self._futures.keys() - needed:
                del self._futures[visit]

    def get(self, visit: Visit) -> RowGroup:
        """A row group of a block that was passed to `want` and is not dropped; waits until it is read."""
        return self._futures[visit].result()
