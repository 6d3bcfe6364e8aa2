"""Rows of a Parquet file as samples: each row is one, and what lies below each of its columns is a member of it.

A member is named by the dotted path of its column ("spectrum.flux"; structs, and lists of structs, have paths below
them), and comes as bytes, as those of a tar do: numbers, in lists of any depth, as NumPy's .npy; text as UTF-8; bytes
as they are; all else as JSON. The single numbers and texts of a row are also its `json`. A struct, or a list of
structs, is a member too, where several of its columns hold numbers: their values by name.

A column that nobody asks for is not decoded. Of one that is, a few batches of rows are in memory, whatever the row
groups are.
"""

from __future__ import annotations

import io
import json
import os
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...infra.explain import nearest
from ...infra.remote import Seekable
from .. import members
from ..grouping import IMAGE_EXTENSIONS, IMAGE_PARTS, Index, Member, SourceSample
from ..reject import Reject

MAGIC = b"PAR1"

_BATCH_BYTES = 1 << 23  # of the rows of a column that are decoded together
_MOST_ROWS = 4096  # of a batch
_KEPT = 8  # batches of a column in memory: threads ask for rows that are near each other, in no strict order
_FILE = {"bytes", "path"}  # fields of a struct that holds a file, as `datasets` writes pictures and sound
_PICTURES = {b"\x89PN": "png", b"RIF": "webp"}


class Rows:
    """An open Parquet file as the contents of a shard.

    index: its samples, and the columns that nothing reads unless it is asked to.
    """

    def __init__(self, descriptor: int, stem: str, key: str = "") -> None:
        """Open the file of a descriptor, which stays the caller's.

        Args:
            stem: of the shard; keys are STEM-000017 by the number of the row, unless `key` is given.
            key: the column whose values are the samples' keys.

        Raises:
            ValueError: it cannot be read as Parquet, or has no such column.
        """
        self._lock = threading.Lock()  # of the one reader, which is not made for several threads
        try:
            self._file = pq.ParquetFile(
                _Positional(descriptor), buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"not Parquet that can be read ({_said(error)})") from error
        fields = list(self._file.schema_arrow)
        if sum(_leaves(field.type) for field in fields) != self._file.metadata.num_columns:
            raise ValueError("Parquet whose columns are not those that its schema says")
        self._columns: dict[str, _Column] = {}
        for column in _columns(fields, 0):
            self._columns.setdefault(".".join(column.names), column)
        self._groups = _groups(self._columns)
        self._windows: dict[str, _Window] = {}
        self._singles = tuple(name for name, one in self._columns.items() if one.is_single)
        self._rows: dict[str, int] = {}
        self.index = self._indexed(stem, key)

    def read(self, sample: SourceSample, extension: str) -> bytes:
        """A member of a sample; Reject if its row has none, or one that is damaged, ragged or too large."""
        name = (sample.members.get(extension) or sample.others[extension]).name
        row = self._rows[sample.key]
        try:
            return self._bytes(name, row)
        except Reject:
            raise
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # of the disk, and not of what is read from it
                raise
            raise Reject(f"{name}: its rows are damaged ({_said(error)})") from error
        except ValueError as error:
            raise Reject(f"{name}: {error}") from error

    def _indexed(self, stem: str, key: str) -> Index:
        index = Index(is_table=True)
        others = {name: Member(name, 0, 0) for name in (*self._columns, *self._groups)}
        known = {"json": Member("json", 0, 0)} if self._singles else {}
        if photo := self._photo():
            known[self._extension(photo)] = others.pop(photo)
        for row, name in enumerate(self._keys(key) if key else _numbered(stem, self._file.metadata.num_rows)):
            if not name:
                index.rejects.append(("", f"{key}: row {row} has no key"))
            elif self._rows.setdefault(name, row) != row:
                index.rejects.append((name, f"duplicate key: row {row} is ignored"))
            else:
                # All rows have the same columns, so that they share the tables of them.
                index.samples.append(SourceSample(name, known, others))
        rows = len(index.samples)
        index.ignored = Counter(
            {name: rows for name in others if rows and name in self._columns and name not in self._singles}
        )
        return index

    def _keys(self, name: str) -> Iterator[str]:
        column = self._columns.get(name)
        if column is None:
            raise ValueError(f"there is no column {name!r} for the keys{nearest(name, self._columns)}; see samples.key")
        if not column.is_single or pa.types.is_floating(column.kind):
            raise ValueError(f"the column {name!r} holds {column.kind}, and keys are texts or whole numbers")
        for row in range(self._file.metadata.num_rows):
            found = self._value(name, row)
            yield "" if found is None else str(found.item() if isinstance(found, np.ndarray) else found)

    def _photo(self) -> str:
        """The column that is the samples' image, "" if none is called so."""
        files = [name for name, one in self._columns.items() if one.is_file or pa.types.is_binary(one.kind)]
        called = {name.lower(): name for name in reversed(files)}
        return next((called[part] for part in (*IMAGE_EXTENSIONS, *IMAGE_PARTS) if part in called), "")

    def _extension(self, photo: str) -> str:
        found = None
        with suppress(ValueError, OSError):  # what is wrong with a row is said of that row
            found = self._value(photo, 0) if self._file.metadata.num_rows else None
        return _PICTURES.get(found[:3], "jpg") if isinstance(found, bytes) else "jpg"

    def _bytes(self, name: str, row: int) -> bytes:
        if name == "json":
            return json.dumps(self._window("json", self._singles).row(row).to_pylist()[0], default=_plain).encode()
        value = self._together(name, row) if name in self._groups else self._value(name, row)
        if value is None:
            raise Reject(f"{name}: there is none")
        if (size := getattr(value, "nbytes", 0)) > members.MAX_BYTES:
            raise Reject(f"{name}: {size} bytes, expected at most {members.MAX_BYTES}")
        if isinstance(value, np.ndarray):
            file = io.BytesIO()
            np.lib.format.write_array(file, value, allow_pickle=False)
            return file.getvalue()
        if isinstance(value, bytes):
            return value
        return value.encode() if isinstance(value, str) else json.dumps(value, default=_plain).encode()

    def _value(self, name: str, row: int) -> Any:
        return _of_row(self._window(name, (name,)).row(row).column(0), self._columns[name].names[1:])

    def _together(self, name: str, row: int) -> dict[str, Any] | None:
        """What the columns below a path hold, by the rest of their paths; None if all are null."""
        columns = {one.removeprefix(f"{name}."): self._value(one, row) for one in self._groups[name]}
        if all(one is None for one in columns.values()):
            return None
        return {rest: one.tolist() if isinstance(one, np.ndarray) else one for rest, one in columns.items()}

    def _window(self, name: str, columns: Sequence[str]) -> _Window:
        with self._lock:
            if name not in self._windows:
                leaves = [leaf for one in columns for leaf in self._columns[one].leaves]
                self._windows[name] = _Window(self._file, self._lock, leaves)
            return self._windows[name]


def types(schema: pa.Schema) -> dict[str, str]:
    """The columns of a table by their dotted paths: what each holds, in Arrow's words."""
    found: dict[str, str] = {}
    for column in _columns(list(schema), 0):
        found.setdefault(".".join(column.names), f"lists of {column.kind}" if column.is_listed else str(column.kind))
    return found


def _groups(columns: Mapping[str, _Column]) -> dict[str, list[str]]:
    """The columns of numbers below each path that has several: the structs of a table."""
    found: dict[str, list[str]] = {}
    for name, one in columns.items():
        for end in range(1, len(one.names)):
            if _is_number(one.kind) and (parent := ".".join(one.names[:end])) not in columns:
                found.setdefault(parent, []).append(name)
    return {parent: names for parent, names in found.items() if len(names) > 1}


@dataclass(frozen=True)
class _Column:
    """What lies below a path of names: the numbers of its columns in the file, and the type of its values, without the
    lists that they are in."""

    names: tuple[str, ...]
    leaves: range
    kind: pa.DataType
    is_listed: bool

    @property
    def is_file(self) -> bool:
        return _is_file(self.kind)

    @property
    def is_single(self) -> bool:
        """Whether a row has one number or one text there."""
        kind = self.kind.value_type if pa.types.is_dictionary(self.kind) else self.kind
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_temporal(kind)
        return not self.is_listed and (texts or _is_number(kind))


def _columns(
    fields: Sequence[pa.Field], first: int, before: tuple[str, ...] = (), listed: bool = False
) -> Iterator[_Column]:
    """The columns of these fields, depth first, as a file has them; its first one is number `first`."""
    for field in fields:
        kind, in_list = _stored(field.type), listed
        while _is_list(kind):
            kind, in_list = _stored(kind.value_type), True
        names, count = (*before, field.name), _leaves(kind)
        if pa.types.is_struct(kind) and not _is_file(kind):
            yield from _columns(_fields(kind), first, names, in_list)
        else:
            yield _Column(names, range(first, first + count), kind, in_list)
        first += count


def _leaves(kind: pa.DataType) -> int:
    """How many columns of a file a type takes."""
    kind = _stored(kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if _is_list(kind):
        return _leaves(kind.value_type)
    return sum(_leaves(field.type) for field in _fields(kind)) if pa.types.is_struct(kind) else 1


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)]


def _stored(kind: pa.DataType) -> pa.DataType:
    """What an extension type is stored as."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_file(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in _fields(kind)} == _FILE


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)


class _Window:
    """Rows of some columns: those that lie near the ones that were asked for last are in memory."""

    def __init__(self, file: pq.ParquetFile, lock: threading.Lock, leaves: Sequence[int]) -> None:
        self._file, self._lock, self._leaves = file, lock, leaves
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._starts = list(accumulate(groups, initial=0))
        self._group, self._next = -1, 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=_KEPT)

    def row(self, row: int) -> pa.RecordBatch:
        """A batch of this row alone. ValueError if one is too large; Arrow's errors for damage."""
        with self._lock:
            for start, batch in self._kept:
                if start <= row < start + batch.num_rows:
                    return batch.slice(row - start, 1)
            group = bisect_right(self._starts, row) - 1
            if group != self._group or row < self._next:
                self._open(group)
            while True:
                batch = next(self._batches, None)
                if batch is None:
                    self._group = -1
                    raise pa.ArrowInvalid(f"row group {group} ends before row {row}")
                start, self._next = self._next, self._next + batch.num_rows
                self._kept.append((start, batch))
                if row < self._next:
                    return batch.slice(row - start, 1)

    def _open(self, group: int) -> None:
        info, schema = self._file.metadata.row_group(group), self._file.metadata.schema
        chunks = [info.column(leaf) for leaf in self._leaves]
        # A dictionary may stand for much more than its bytes.
        size = sum(max(one.total_uncompressed_size, 8 * one.num_values) for one in chunks) // max(info.num_rows, 1)
        if size > members.MAX_BYTES:
            raise ValueError(f"{size} bytes a row, expected at most {members.MAX_BYTES}")
        rows = min(max(1, _BATCH_BYTES // max(size, 1)), _MOST_ROWS)
        paths = [schema.column(leaf).path for leaf in self._leaves]
        self._batches = self._file.iter_batches(rows, row_groups=[group], columns=paths, use_threads=False)
        self._group, self._next = group, self._starts[group]
        self._kept.clear()


class _Positional(Seekable):
    """A file by its descriptor, with a position of its own: others read the same file."""

    def __init__(self, descriptor: int) -> None:
        super().__init__("", os.fstat(descriptor).st_size)
        self._descriptor = descriptor

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count


def _numbered(stem: str, rows: int) -> Iterator[str]:
    return (f"{stem}-{row:06d}" for row in range(rows))


def _of_row(array: pa.Array, names: Sequence[str]) -> Any:
    """What an array of one row holds below these names: an array of numbers, text, bytes, or what JSON can say; None if
    it is null.

    Raises:
        ValueError: lists of different lengths, or null, in a list.
    """
    shape, left, tensor = list[int](), list(names), list[int]()
    while True:
        if isinstance(array, pa.FixedShapeTensorArray):
            tensor = list(array.type.shape)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if _is_list(array.type):
            if array.null_count and shape:
                raise ValueError("a list in it is null")
            if array.null_count:
                return None
            lengths = pc.unique(pc.list_value_length(array)).to_pylist() or [0]
            if len(lengths) > 1:
                raise ValueError(f"lists of {lengths[0]} and of {lengths[1]} values in it, expected equally many")
            shape.append(lengths[0])
            array = array.flatten()
        elif left and pa.types.is_struct(array.type):
            array = pc.struct_field(array, [array.type.get_field_index(left.pop(0))])
        else:
            break
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count and not shape:
        return None
    if _is_number(array.type):
        if array.null_count or pa.types.is_decimal(array.type):
            array = array.cast(pa.float64(), safe=False)  # in which null is NaN
        return array.to_numpy(zero_copy_only=False).reshape([*shape[:-1], *tensor] if tensor else shape)
    if pa.types.is_timestamp(array.type):  # a nanosecond is no time of Python's
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    values = array.to_pylist()
    if pa.types.is_temporal(array.type) and not shape:
        return str(values[0])
    if shape:
        return np.array([*values, None], object)[:-1].reshape(shape).tolist()
    if _is_file(array.type):
        if not isinstance(values[0]["bytes"], bytes):
            raise ValueError("the table holds the path of a file, and not the file")
        return values[0]["bytes"]
    return values[0]


def _plain(value: Any) -> Any:
    """What JSON can say of a value that it has no form for."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
