"""The rows of a root as tables that other programs read: a row a sample, its tokens and labels in columns.

| output | column | Arrow type |
|---|---|---|
| grid or sequence of tokens | its name | list<uint16>; a list of these with several crops |
| pixels | its name | binary, a JPEG or PNG file; a list of these with several crops |
| pixels of a sensor | its name, NAME_shape | list<float>, in the order of C; list<int32>, crops first if several |
| embedding | its name | list<list<float>>, vectors; a list of these with several crops |
| label of fields, lists or words | label_NAME | string, JSON; words as they are |
| label that is a picture | label_NAME | binary, a PNG file |
| label that is an array | label_NAME, label_NAME_shape | list<float>, in the order of C; list<int32> |

Samples that were removed have no row. A sample that lacks an output is null there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ....infra import ledger
from ....infra.ledger import Entry, Record
from ....infra.removals import REASON, Removals
from ....modalities import Kind, Storage
from ....tokenize import labels
from ....tokenize.sensors.pixels import pixels
from ....tokenize.store import ColumnReader, ColumnSpec
from . import placed
from .selected import COLUMN, Selected

ROWS = labels.ROW_GROUP  # of a table: some hundred, since arrays are large
OF_SHAPE = "_shape"
IDS, VECTORS = pa.list_(pa.uint16()), pa.list_(pa.list_(pa.float32()))
VALUES, SHAPE = pa.list_(pa.float32()), pa.list_(pa.int32())


def name_of(output: str) -> str:
    """The column of an output: "tok_rgb" of "tokens/tok_rgb", "label_depth" of "labels/depth"."""
    family, _, name = output.partition("/")
    return name if family == "tokens" else f"label_{name}"


class Rows:
    """An output of one shard, read row by row in order; the group that a row lies in is kept.

    Args:
        record: of the output, or its entry. ValueError if its file is damaged.
    """

    def __init__(self, root: str, record: Record | Entry) -> None:
        self.output = record.output
        url = ledger.output_url(root, record.output, record.shard)
        self._column = ColumnReader(url, record.footer) if record.output.startswith("tokens/") else None
        self._labels = labels.LabelReader(url, record.footer) if self._column is None else None
        self._first, self._group = 0, -1
        self.keys: list[str] = []
        self._values: Any = ()

    @cached_property
    def fields(self) -> list[pa.Field]:
        """The columns that it becomes: of arrays their shapes as well."""
        name = name_of(self.output)
        if self._column is not None and not _has_bands(self._column.spec):
            return [pa.field(name, _type(self._column.spec))]
        if self._labels is None or self._labels.storage is Storage.ARRAY:
            return [pa.field(name, VALUES), pa.field(f"{name}{OF_SHAPE}", SHAPE)]
        return [pa.field(name, pa.string() if self._labels.storage is Storage.JSON else pa.binary())]

    def groups(self) -> int:
        reader = self._column or self._labels
        assert reader is not None
        return reader.num_row_groups

    def at(self, row: int) -> tuple[str, list[Any]]:
        """The key of a row and its values, one for each of `fields`, None for a null; rows ascend."""
        while row >= self._first + len(self.keys):
            self._first += len(self.keys)
            self._group += 1
            if self._group >= self.groups():
                raise ValueError(f"{self.output}: it has no row {row}; `fourmill check` says what is wrong")
            self._read()
        place = row - self._first
        value = self._values.sample(place) if self._column is not None else self._values[place]
        return self.keys[place], [None] * len(self.fields) if value is None else self._plain(value)

    def _read(self) -> None:
        if self._column is not None:
            self._values = self._column.read([self._group])
            self.keys = self._values.keys.to_pylist()
        else:
            assert self._labels is not None
            self.keys, self._values = self._labels.read([self._group])

    def _plain(self, value: Any) -> list[Any]:
        """A value as Arrow takes it."""
        if self._column is None:
            assert self._labels is not None
            if self._labels.storage is Storage.JSON:
                words = labels.decode_cell(Storage.JSON, value)
                return [words if isinstance(words, str) else value]
            if self._labels.storage is Storage.IMAGE:
                return [value]
            return _flat(labels.decode_cell(Storage.ARRAY, value))
        spec = self._column.spec
        kind, one = spec.kind, spec.crops == 1
        if _has_bands(spec):
            bands = [pixels(crop, spec.picture, spec.dim) for crop in value]
            return _flat(bands[0] if one else np.stack(bands))
        crops = [list(crop.astype(np.float32)) if kind is Kind.EMBEDDING else crop for crop in value]
        return [crops[0] if one else crops]


def _has_bands(spec: ColumnSpec) -> bool:
    """Whether its crops are bands of a sensor, and no pictures."""
    return spec.kind is Kind.PIXELS and spec.dim > 0


def _flat(array: np.ndarray) -> list[Any]:
    return [array.reshape(-1).astype(np.float32), list(array.shape)]


def _type(spec: ColumnSpec) -> pa.DataType:
    one = {Kind.PIXELS: pa.binary(), Kind.EMBEDDING: VECTORS}.get(spec.kind, IDS)
    return one if spec.crops == 1 else pa.list_(one)


def schema(readers: Sequence[Rows], beside: Collection[str] = ()) -> pa.Schema:
    """Of all tables of a root: key and shard, whether the sample is selected and where it lies if asked for, then the
    outputs."""
    fields = [pa.field("key", pa.string()), pa.field("shard", pa.string())]
    fields += [pa.field(COLUMN, pa.bool_())] if COLUMN in beside else []
    fields += [pa.field(placed.COLUMN, pa.string())] if placed.COLUMN in beside else []
    return pa.schema([*fields, *(field for one in readers for field in one.fields)])


def tables(
    root: str, shard: str, records: Mapping[str, Record | Entry], removed: Removals, selected: Selected | None = None,
    lies: Mapping[str, str] | None = None,
) -> Iterator[pa.Table]:  # fmt: skip
    """The rows of a shard, in its order, some hundred at a time.

    Args:
        records: of its outputs, by name; whole ones, where samples were taken down. removed: samples that are left out.
        selected: as of `train.select`. lies: where samples lie, by key; None without the column.

    ValueError if a file is damaged, or keys of the outputs differ.
    """
    readers = [Rows(root, record) for record in records.values()]
    with_column = selected is not None and not selected.only
    known = schema(readers, [COLUMN] * with_column + [placed.COLUMN] * (lies is not None))
    chosen = None if selected is None else selected.rows(shard)
    out = removed.of_shard(shard) | {
        reject["key"]
        for record in records.values()
        if isinstance(record, Record)
        for reject in record.rejects
        if reject["reason"] == REASON
    }
    total = next(iter(records.values())).rows
    for start in range(0, total, ROWS):
        columns: dict[str, list[Any]] = {name: [] for name in known.names}
        for row in range(start, min(start + ROWS, total)):
            values = [reader.at(row) for reader in readers]
            keys = {key for key, _ in values}
            if len(keys) > 1:
                raise ValueError(f"{root}: row {row} of {shard} has other keys in other outputs; run `fourmill check`")
            if (key := keys.pop()) in out or (not with_column and chosen is not None and not chosen[row]):
                continue
            if with_column:
                columns[COLUMN].append(None if chosen is None else bool(chosen[row]))
            columns["key"].append(key)
            columns["shard"].append(shard)
            for reader, (_, several) in zip(readers, values, strict=True):
                for field, value in zip(reader.fields, several, strict=True):
                    columns[field.name].append(value)
        if lies is not None:
            columns[placed.COLUMN] = [lies.get(key) for key in columns["key"]]
        if columns["key"]:
            arrays = [pa.array(columns[field.name], field.type) for field in known]
            yield pa.Table.from_arrays(arrays, schema=known)
