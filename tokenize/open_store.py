"""The token store as a whole, for code outside fourmill: which columns there are, their arrays, a PyTorch dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..infra import ledger, storage
from .store import Column, ColumnReader, ColumnSpec

if TYPE_CHECKING:
    from .store_dataset import StoreDataset

TOKENS, LEDGER, SUFFIX = "tokens", "ledger", ".parquet"


class Store:
    """The columns of a token store; made by `open_store`. Nothing is read before it is asked for.

    Attributes:
        url: the folder of the columns: url/MODALITY/SHARD.parquet.
        columns: modality -> the names of the shards that have it, sorted.
        root: whose ledger has their records, None for a folder of columns alone.
    """

    def __init__(self, url: str, columns: dict[str, tuple[str, ...]], root: str | None = None) -> None:
        self.url, self.columns, self.root = url, columns, root
        self._readers: dict[tuple[str, str], ColumnReader] = {}

    def __repr__(self) -> str:
        return f"Store({self.url!r}: {', '.join(f'{name} ({len(s)})' for name, s in self.columns.items())})"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have a column of some shard, sorted."""
        return tuple(self.columns)

    def shards(self, modalities: Sequence[str] | None = None) -> tuple[str, ...]:
        """The shards that have all of some modalities (of all if None), sorted.

        ValueError if the store has no such modality.
        """
        names = self.modalities if modalities is None else modalities
        if not names:
            return ()
        of = [set(self._shards_of(name)) for name in names]
        return tuple(sorted(set.intersection(*of)))

    def column(self, modality: str, shard: str) -> Column:
        """All samples of one modality of one shard, as NumPy arrays that share the file's memory where they can.

        Returns:
            A column with `spec` (a `ColumnSpec`: kind, crops, length, vocab_size, dim), `keys` (Arrow strings
            (samples,)), `valid` (bool (samples,), False where a sample has no tokens) and `values`:

            - grids: uint16 (samples, crops, tokens), ids below `spec.vocab_size`;
            - sequences: uint16 (tokens,), end to end; `column.crop(i, c)` is crop c of sample i, with its end;
            - pixels: uint8 (bytes,), end to end; `column.crop(i, c)` is a JPEG or PNG file;
            - embeddings: float16 (vectors, dim), end to end.

        Raises:
            ValueError: the store has no such column; the message lists what it has.
            OSError: the file cannot be read.

        Examples:
            >>> column = fourmill.open_store("out").column("tok_rgb", "train")
            >>> column.values.shape, column.values.dtype
            ((32, 1, 16), dtype('uint16'))
        """
        if shard not in self._shards_of(modality):
            shown = ", ".join(self.columns[modality][:8])
            raise ValueError(f"{self.url}: {modality} has no shard {shard!r}; it has {shown} ...")
        return self.reader(modality, shard).read()

    def spec(self, modality: str) -> ColumnSpec:
        """What the columns of a modality hold, as its first shard says. ValueError if there is none."""
        return self.reader(modality, self._shards_of(modality)[0]).spec

    def dataset(
        self, modalities: Sequence[str] | None = None, shards: Sequence[str] | None = None, crop: int = 0
    ) -> StoreDataset:
        """A map-style PyTorch dataset over the samples of some shards.

        An item is a mapping, which PyTorch's default collation batches; L is `spec(modality).length`:

        - "key", "shard": the sample's key and its shard, strings;
        - grids: int64 (tokens,), all -1 where the sample has none;
        - sequences: int64 (L,), the ids with their end, then -1;
        - pixels: uint8 (3, L, L), RGB; zeros where the sample has none;
        - embeddings: float16 (L, dim), zeros after the last vector;
        - "valid": modality -> bool, whether the sample has it.

        `generate` takes these values as they are. Reading in order is fast. In random order each sample costs a read of
        its row group (1,024 samples) unless that is among the last 16 that were read.

        Args:
            modalities: of the store; all if None.
            shards: all that have all of the modalities if None.
            crop: which of the stored crops; modalities that are stored once for each sample give that one.

        Raises:
            ValueError: there is no such modality, shard or crop; or shards are of different sizes or tokenizers.

        Examples:
            >>> dataset = fourmill.open_store("out").dataset(["tok_rgb", "caption"], shards=["train"])
            >>> batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8)))
            >>> batch["tok_rgb"].shape, batch["caption"].shape, batch["tok_rgb"].dtype
            (torch.Size([8, 16]), torch.Size([8, 12]), torch.int64)
        """
        from .store_dataset import StoreDataset  # loads torch

        names = self.modalities if modalities is None else tuple(modalities)
        chosen = self.shards(names) if shards is None else tuple(shards)
        if missing := [(name, shard) for name in names for shard in chosen if shard not in self._shards_of(name)]:
            name, shard = missing[0]
            raise ValueError(f"{self.url}: {name} has no shard {shard!r}; `shards({names!r})` lists those with all")
        return StoreDataset(self.url, self.reader, names, chosen, crop)

    def reader(self, modality: str, shard: str) -> ColumnReader:
        """The reader of one column, which reads some row groups or crops alone."""
        if (modality, shard) not in self._readers:
            url = storage.join(self.url, modality, shard + SUFFIX)
            self._readers[modality, shard] = ColumnReader(url, self._footer(modality, shard))
        return self._readers[modality, shard]

    def _footer(self, modality: str, shard: str) -> str:
        """The sum of a column's footer by its record, "" outside of a root."""
        if self.root is None:
            return ""
        record = ledger.read(self.root, f"{TOKENS}/{modality}", shard)
        if record is None:
            raise ValueError(f"{self.url}: {modality} of shard {shard} has no good record; {ledger.again(self.root)}")
        return record.footer

    def __getstate__(self) -> dict[str, Any]:
        """Footers are read again by the workers of a DataLoader: thousands are not worth sending."""
        return self.__dict__ | {"_readers": {}}

    def _shards_of(self, modality: str) -> tuple[str, ...]:
        if modality not in self.columns:
            raise ValueError(f"{self.url}: there is no modality {modality!r}; there are {', '.join(self.columns)}")
        return self.columns[modality]


def open_store(url: str | os.PathLike[str]) -> Store:
    """Open the token store of a root, or a folder of columns.

    Args:
        url: a root of `fourmill run` (local, or any fsspec URL such as "s3://bucket/out"), whose committed columns
            count: those with a record in the ledger; or a folder that holds MODALITY/SHARD.parquet, all of which count.
            Whether a column is what a recipe asks for now is what `fourmill status` says.

    Returns:
        A `Store`: `modalities`, `shards()`, `column(modality, shard)`, `dataset(modalities)`.

    Raises:
        ValueError: there are no columns.

    Examples:
        >>> store = fourmill.open_store("out")
        >>> store.modalities
        ('caption', 'rgb', 'tok_dinov2_global', 'tok_rgb')
        >>> store.shards()
        ('train', 'val')
    """
    url = storage.absolute(os.fspath(url))
    names = set(storage.list_names(url))
    if TOKENS in names:
        columns = _columns(storage.join(url, TOKENS), storage.join(url, LEDGER, TOKENS))
        place, root = storage.join(url, TOKENS), url
    else:
        columns, place, root = _columns(url, None), url, None
    if not columns:
        raise ValueError(
            f"{url}: there are no columns; expected a root with committed tokens (`fourmill tokenize` makes them), or "
            "a folder of MODALITY/SHARD.parquet"
        )
    return Store(place, columns, root)


def _columns(url: str, records: str | None) -> dict[str, tuple[str, ...]]:
    """Modality -> its shards that have a file, and a record if there is a ledger."""
    found = {}
    for name in storage.list_names(url):
        shards = {
            file.removesuffix(SUFFIX) for file in storage.list_names(storage.join(url, name)) if file.endswith(SUFFIX)
        }
        if records is not None:
            shards &= {file.removesuffix(".json") for file in storage.list_names(storage.join(records, name))}
        if shards:
            found[name] = tuple(sorted(shards))
    return found
