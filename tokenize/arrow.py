"""Arrow arrays from lists, and NumPy arrays from Arrow's, by their buffers.

pyarrow's own conversions (`pyarrow.array`, `Array.to_numpy`) import pandas wherever it is installed, as by Ray: up to
1.6 s of CPU time in each process that writes or reads a column, within a worker's first shard. The arrays are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_MOST = 2**31 - 1  # bytes of an array of strings, whose offsets are int32


def strings(values: Sequence[str | None]) -> pa.Array | pa.ChunkedArray:
    """A string array; in several chunks if it is larger than one can be.

    Raises:
        UnicodeEncodeError: a string has no UTF-8.
    """
    cells = [None if value is None else value.encode() for value in values]
    if sum(len(cell) for cell in cells if cell is not None) > _MOST:
        return pa.array(values, pa.string())
    return _of_bytes(cells, pa.string(), np.int32)


def binary(values: Sequence[bytes | None]) -> pa.Array:
    """A large_binary array, which may hold more than 2 GiB."""
    return _of_bytes(values, pa.large_binary(), np.int64)


def lists(values: Sequence[np.ndarray | None]) -> pa.Array:
    """A list<uint16> array of arrays uint16 (n,)."""
    rows = [value for value in values if value is not None]
    flat = np.concatenate(rows) if rows else np.zeros(0, np.uint16)
    numbers = pa.Array.from_buffers(pa.uint16(), len(flat), [None, pa.py_buffer(flat.astype(np.uint16, copy=False))])
    buffers = [_validity(values), pa.py_buffer(_offsets(values, np.int32))]
    return pa.Array.from_buffers(pa.list_(pa.uint16()), len(values), buffers, children=[numbers])


def is_valid(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """bool (n,): False where the array is null."""
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return np.concatenate([_is_valid(chunk) for chunk in chunks]) if chunks else np.zeros(0, bool)


def numbers(array: pa.Array) -> np.ndarray:
    """The numbers of an array of integers or floats without nulls; not copied, read-only."""
    kind = array.type.to_pandas_dtype()
    data = np.frombuffer(array.buffers()[1] or b"", kind)
    data.flags.writeable = False
    return data[array.offset : array.offset + len(array)]


def _of_bytes(values: Sequence[bytes | None], kind: pa.DataType, offset: type[np.integer[Any]]) -> pa.Array:
    data = pa.py_buffer(b"".join([value for value in values if value is not None]))
    return pa.Array.from_buffers(kind, len(values), [_validity(values), pa.py_buffer(_offsets(values, offset)), data])


def _offsets(values: Sequence[Any], kind: type[np.integer[Any]]) -> np.ndarray:
    """Where each value begins, and where the last one ends."""
    offsets = np.zeros(len(values) + 1, kind)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    return offsets


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    valid = np.array([value is not None for value in values], bool)
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _is_valid(array: pa.Array) -> np.ndarray:
    bits = array.buffers()[0]
    if bits is None or not array.null_count:
        return np.ones(len(array), bool)
    some = np.unpackbits(np.frombuffer(bits, np.uint8), count=array.offset + len(array), bitorder="little")
    return some[array.offset :].astype(bool)
