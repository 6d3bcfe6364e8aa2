"""The samples that a trained model is asked about: the first of some shards that have what it is to be given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...infra import storage
from ...modalities import Kind, ModalitySpec
from ...tokenize import store
from ..data.groups import ShardRows
from ..data.samples import decode_patches

Place = tuple[str, str, int]  # shard, key, row


@dataclass(frozen=True)
class Samples:
    """Some samples, in the order of the shards.

    Attributes:
        places: shard, key and row of each.
        tokens: by modality, of each sample the tokens of its first crop as a column has them; None where it has none.
    """

    specs: dict[str, ModalitySpec]
    places: list[Place]
    tokens: dict[str, list[np.ndarray | None]]

    def having(self, names: Iterable[str]) -> np.ndarray:
        """The samples that have all of these modalities, int64, ascending."""
        there = [[tokens is not None for tokens in self.tokens[name]] for name in names]
        return np.flatnonzero(np.all(there, axis=0)) if there else np.arange(len(self.places))

    def first(self, count: int) -> Samples:
        """The first of them, all if there are no more."""
        tokens = {name: rows[:count] for name, rows in self.tokens.items()}
        return Samples(self.specs, self.places[:count], tokens)

    def given(self, names: Iterable[str], rows: Iterable[int] | None = None) -> dict[str, Any]:
        """These modalities of some samples, all unless given, in the form that `generate` takes."""
        chosen = range(len(self.places)) if rows is None else [int(row) for row in rows]
        return {name: self._given(name, chosen) for name in names}

    def _given(self, name: str, rows: Sequence[int]) -> Any:
        spec = self.specs[name]
        values = [_given(spec, self.tokens[name][row]) for row in rows]
        if spec.kind is Kind.GRID:  # of which nothing is known where there is none
            values = [np.full(spec.max_tokens, -1) if value is None else value for value in values]
        # Texts and vectors differ in length.
        whole = spec.kind in (Kind.GRID, Kind.PIXELS) and not any(value is None for value in values)
        return np.stack(values) if whole and values else values


def _given(spec: ModalitySpec, tokens: np.ndarray | None) -> Any:
    if tokens is None or spec.kind is Kind.EMBEDDING:
        return tokens
    if spec.kind is Kind.PIXELS:
        return decode_patches(tokens, spec)
    return tokens.astype(np.int64).tolist() if spec.kind is Kind.SEQUENCE else tokens.astype(np.int64)


def read(
    root: str,
    specs: Iterable[ModalitySpec],
    shards: Iterable[ShardRows],
    count: int,
    needed: Collection[str],
) -> Samples:
    """The first `count` samples that have all of `needed`, fewer if there are no more.

    Args:
        root: of the columns.
        specs: of the modalities to read, `needed` among them.
    """
    by_name = {spec.name: spec for spec in specs}
    samples = Samples(by_name, [], {name: [] for name in by_name})
    for shard in shards:
        readers = {
            name: store.ColumnReader(
                storage.join(root, "tokens", name, f"{shard.name}.parquet"), shard.footers.get(name, "")
            )
            for name in by_name
        }
        groups = next(iter(readers.values())).row_group_sizes()
        # Row group by row group: a few samples are wanted, and the first group has 1,000.
        for group, first in enumerate(np.cumsum([0, *groups])[:-1].tolist()):
            columns = {name: reader.read([group]) for name, reader in readers.items()}
            first_column = next(iter(columns.values()))
            whole = np.ones(len(first_column.keys), bool)
            for name in needed:
                whole &= columns[name].valid
            for row in np.flatnonzero(whole).tolist():
                if len(samples.places) == count:
                    return samples
                samples.places.append((shard.name, first_column.keys[row].as_py(), first + row))
                for name, column in columns.items():
                    samples.tokens[name].append(column.crop(row, 0).copy() if column.valid[row] else None)
    return samples
