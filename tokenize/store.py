"""The token store: one Parquet file holds one modality's tokens of one shard (a column of the dataset).

Decisions:
- Rows never move: row i of every column of a shard is row i of the shard. A sample without tokens is null, not missing.
- A column explains itself: its schema's metadata carries the `ColumnSpec` and the version of the format.
- Row groups of 1,024 samples are what the loader reads at a time, and of these the crops that it uses: each crop is a
  field of its own.
- The same tokens give the same bytes (with the same pyarrow), so that a sha256 in the ledger means something.
- Damage is found where it is read: pages have checksums, and the footer has a sum of every field of every row group,
  which is compared with what came out; the record of the file has a sum of the footer (infra/footers.py).

Physical types of the fields `crop0`, `crop1`, ..., in all of which a sample without tokens is null; the field `key`
is a string:

| kind | Parquet | in memory (`Column.values`) |
|---|---|---|
| grid | FIXED_LEN_BYTE_ARRAY, uint16 little-endian (length,) | uint16 (samples, crops, length) |
| sequence | list<uint16> | uint16 (tokens,), crop after crop |
| pixels | large_binary, a JPEG or PNG file; of a sensor float16 (H, W, dim) | uint8 (bytes,), crop after crop |
| embedding | large_binary, float16 little-endian (n, dim) | float16 (vectors, dim), crop after crop |

A single crop is not copied.

Fixed-length bytes are read some three times as fast as list<uint16>, and take 20 % less room (benchmarks/store.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..modalities import Kind
from . import arrow
from .column_chunks import Cache
from .table_file import Damaged, Origin, Source, TableFile, again, encode_table, read_footer, source_name

ROW_GROUP = 1024
FORMAT = "fourmill.column"
VERSION = 2
MAX_VOCAB = 2**16  # ids are uint16

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("the token store maps little-endian files into memory; this machine is big-endian")


@dataclass(frozen=True)
class ColumnSpec:
    """What a column holds.

    modality: its name in `modalities.MODALITIES`.
    crops: tokenized crops of each sample (1 for modalities that do not depend on the crop).
    length: for one crop: tokens (grid), most tokens (sequence), pixels along a side (pixels), most vectors (embedding).
    vocab_size: ids are below it; 0 for pixels and embeddings.
    dim: width of an embedding; bands of pixels that are float16 and no picture; else 0.
    tokenizer: fingerprint of the tokenizer that made the tokens.
    width: of crops that are no square: tokens in a row (grid), or pixels (pixels), whose `length` is the height then.
    """

    modality: str
    kind: Kind
    crops: int
    length: int
    vocab_size: int = 0
    dim: int = 0
    tokenizer: str = ""
    width: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        if self.crops < 1 or self.length < 1:
            raise ValueError(
                f"column {self.modality}: crops and length must be at least 1, got {self.crops}, {self.length}"
            )
        if self.kind in (Kind.GRID, Kind.SEQUENCE) and not 0 < self.vocab_size <= MAX_VOCAB:
            raise ValueError(
                f"column {self.modality}: vocab_size must be 1..{MAX_VOCAB} (uint16), got {self.vocab_size}"
            )
        if self.width and (self.kind not in (Kind.GRID, Kind.PIXELS) or self.width < 0):
            raise ValueError(f"column {self.modality}: width {self.width} is of grids and pixels alone")
        has_width = self.dim > 0 if self.kind is Kind.PIXELS else self.kind is Kind.EMBEDDING
        if has_width != (self.dim > 0):
            raise ValueError(
                f"column {self.modality}: dim must be given for embeddings, may be for pixels, and only for these, got "
                f"{self.dim}"
            )

    @property
    def picture(self) -> tuple[int, int]:
        """Of pixels: the height and width of a crop."""
        return self.length, self.width or self.length

    def plain(self) -> dict[str, Any]:
        """Its fields, as files have them: `width` came later, and is left out where it is 0."""
        return {name: value for name, value in asdict(self).items() if value or name != "width"}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values in memory."""
        # float16 for embeddings: T5's vectors of 4,096 numbers would take 16 kB each in float32.
        types = {Kind.PIXELS: np.uint8, Kind.EMBEDDING: np.float16}
        return np.dtype(types.get(self.kind, np.uint16))


@dataclass(frozen=True)
class Column:
    """Tokens of consecutive samples of one modality, as they lie in the file.

    keys: string array (samples,).
    valid: bool (samples,); False where the sample has no tokens.
    values: see the table above. Read-only. Where a grid's sample is not valid its values mean nothing.
    starts, lengths: int64 (samples, crops): crop c of sample i is `values[starts[i, c]:][:lengths[i, c]]`, in tokens,
        bytes or vectors; lengths are 0 where not valid. For grids the same holds of `values.reshape(-1)`.
    """

    spec: ColumnSpec
    keys: pa.StringArray
    valid: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)

    def sample(self, index: int) -> Any:
        """One sample as `encode_column` took it, or None: grid uint16 (crops, length); sequence: list of uint16 (n,);
        pixels: list of bytes; embedding: float16 (crops, n, dim)."""
        if not self.valid[index]:
            return None
        if self.spec.kind is Kind.GRID:
            return self.values[index]
        crops = [self.crop(index, c) for c in range(self.spec.crops)]
        if self.spec.kind is Kind.PIXELS:
            return [crop.tobytes() for crop in crops]
        return np.stack(crops) if self.spec.kind is Kind.EMBEDDING else crops

    def crop(self, index: int, crop: int) -> np.ndarray:
        """Tokens, file bytes or vectors of one crop, not copied; empty where the sample is null."""
        if self.spec.kind is Kind.GRID:
            return self.values[index, crop] if self.valid[index] else self.values[:0].reshape(0)
        start = self.starts[index, crop]  # lengths are 0 where the sample is null
        return self.values[start : start + self.lengths[index, crop]]


def encode_column(spec: ColumnSpec, keys: Sequence[str], rows: Sequence[Any], origin: Origin | None = None) -> bytes:
    """The Parquet file of a column.

    Args:
        spec: what the rows are; every row is checked against it.
        keys: the shard's keys, all of them, in its order.
        rows: for each key the sample's tokens in the form that `Column.sample` returns, or None for a reject.
        origin: of a column that will have a record: the file says whose it is.

    Raises:
        ValueError: a row is not what `spec` says; names modality and key.
    """
    fields = {"key": arrow.strings(keys), **arrays(spec, keys, rows)}
    return encode_table(fields, _metadata(spec), ROW_GROUP, origin)


def arrays(spec: ColumnSpec, keys: Sequence[str], rows: Sequence[Any]) -> dict[str, pa.Array]:
    """The fields of a column beside its keys, by name; arguments and errors are those of `encode_column`."""
    _check_keys(spec.modality, keys, rows)
    for key, row in zip(keys, rows, strict=True):
        if row is not None:
            try:
                _check_row(spec, row)
            except ValueError as error:
                raise ValueError(f"column {spec.modality}, sample {key!r}: {error}") from None
    return {_field(c): _encode(spec, [None if row is None else row[c] for row in rows]) for c in range(spec.crops)}


def samples(spec: ColumnSpec, keys: Sequence[str], fields: Mapping[str, pa.ChunkedArray]) -> list[Any]:
    """The rows that `arrays` was given, None for rejects."""
    names = [_field(c) for c in range(spec.crops)]
    table = pa.table({"key": arrow.strings(keys), **{name: fields[name] for name in names}})
    column = _column(spec, table, names)
    return [column.sample(i) for i in range(len(column))]


class ColumnReader:
    """A column's footer, read once; its row groups are read on demand. Safe to use from several threads.

    Args:
        footer: sum of the footer as the ledger has it, "" if it is not known: another one is another file.
        cache: of this machine, for a column that is on another one.

    Raises:
        ValueError: the file is no column of this format version; `Damaged` if it is not the one that was committed.
    """

    def __init__(self, source: Source, footer: str = "", cache: Cache | None = None) -> None:
        self.source = source
        self._file = read_footer(source, footer, cache)
        self.spec = _spec_of(self._file, source_name(source))

    @property
    def num_rows(self) -> int:
        return int(self._file.parquet.num_rows)

    @property
    def num_row_groups(self) -> int:
        return int(self._file.parquet.num_row_groups)

    def row_group_sizes(self) -> list[int]:
        return self._file.row_group_sizes()

    def read(self, row_groups: Sequence[int] | None = None, crops: Sequence[int] | None = None) -> Column:
        """All samples, or those of some row groups, in the order given; all crops, or some, as a column of these alone.

        One crop of one group, or of a file of one, is not copied. What is read is compared with the file's sums:
        `Damaged` if it is something else.
        """
        groups = list(range(self.num_row_groups)) if row_groups is None else list(row_groups)
        if bad := [g for g in groups if not 0 <= g < self.num_row_groups]:
            raise ValueError(
                f"{source_name(self.source)}: row groups {bad} asked for, the file has 0..{self.num_row_groups - 1}"
            )
        numbers = list(range(self.spec.crops)) if crops is None else list(crops)
        bad = [c for c in numbers if not 0 <= c < self.spec.crops]
        if bad or not numbers:
            raise ValueError(
                f"{source_name(self.source)}: crops {bad or numbers} asked for, the file has 0..{self.spec.crops - 1}"
            )
        fields = [_field(c) for c in numbers]
        table = self._file.read(groups, ["key", *fields])
        return _column(replace(self.spec, crops=len(numbers)), table, fields)


def read(source: Source, row_groups: Sequence[int] | None = None, footer: str = "") -> Column:
    """A column, or some of its row groups, as NumPy arrays.

    Args:
        footer: as of `ColumnReader`.

    Raises:
        ValueError: the file is no column of this format version, or is damaged; names the file.
    """
    return ColumnReader(source, footer).read(row_groups)


def _metadata(spec: ColumnSpec) -> dict[str, str]:
    height, width = spec.picture
    form = "float16" if spec.dim else "JPEG or PNG"
    shape = {
        Kind.GRID: f"({spec.crops}, {spec.length})",
        Kind.SEQUENCE: f"({spec.crops}, <= {spec.length})",
        Kind.PIXELS: f"{spec.crops} x {form} of ({height}, {width}, {spec.dim or 3})",
        Kind.EMBEDDING: f"({spec.crops}, <= {spec.length}, {spec.dim})",
    }[spec.kind]
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "spec": json.dumps(spec.plain(), sort_keys=True),
        "shape": shape,
        "dtype": spec.dtype.newbyteorder("<").str,
    }


def _spec_of(file: TableFile, name: str) -> ColumnSpec:
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{name}: expected a token column ({FORMAT}), got Parquet with fields {file.parquet.schema.names}"
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{name}: format version {metadata.get('version')}, this release reads {VERSION}; tokenize it again"
        )
    try:
        return ColumnSpec(**json.loads(metadata["spec"]))
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{name}: its footer is damaged ({error!r}){again(file.source)}") from None


def _check_keys(what: str, keys: Sequence[str], rows: Sequence[Any]) -> None:
    if len(keys) != len(rows):
        raise ValueError(f"column {what}: {len(keys)} keys but {len(rows)} rows; give None for samples without one")
    if len(set(keys)) != len(keys):  # the slow search for the key only when there is one
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"column {what}: key {twice!r} occurs twice; keys are unique in a dataset")


def _check_row(spec: ColumnSpec, row: Any) -> None:
    if len(row) != spec.crops:
        raise ValueError(f"got {len(row)} crops, expected {spec.crops}")
    if spec.kind is Kind.PIXELS:
        if not all(isinstance(crop, bytes) and crop for crop in row):
            raise ValueError("expected one encoded JPEG or PNG (bytes) for each crop")
    elif spec.kind is Kind.EMBEDDING:
        if row.dtype != np.float16 or row.ndim != 3 or row.shape[2] != spec.dim or not 0 < row.shape[1] <= spec.length:
            raise ValueError(
                f"got {row.dtype} {row.shape}, expected float16 ({spec.crops}, 1..{spec.length}, {spec.dim})"
            )
    elif spec.kind is Kind.GRID:
        if row.dtype != np.uint16 or row.shape != (spec.crops, spec.length):
            raise ValueError(f"got {row.dtype} {row.shape}, expected uint16 ({spec.crops}, {spec.length})")
        _check_ids(spec, row)
    else:
        for crop in row:
            if crop.dtype != np.uint16 or crop.ndim != 1 or not 0 < len(crop) <= spec.length:
                raise ValueError(f"got {crop.dtype} {crop.shape}, expected uint16 (1..{spec.length},)")
            _check_ids(spec, crop)


def _check_ids(spec: ColumnSpec, ids: np.ndarray) -> None:
    if (largest := int(ids.max())) >= spec.vocab_size:
        raise ValueError(f"got token id {largest}, the vocabulary has {spec.vocab_size}")


def _field(crop: int) -> str:
    return f"crop{crop}"


def _encode(spec: ColumnSpec, crops: Sequence[Any]) -> pa.Array:
    """One crop of each sample, None for those without."""
    if spec.kind is Kind.SEQUENCE:
        return arrow.lists(crops)
    if spec.kind is Kind.PIXELS:
        return arrow.binary(crops)  # large: a shard may hold more than 2 GiB
    if spec.kind is Kind.EMBEDDING:
        vectors = [None if crop is None else np.ascontiguousarray(crop, "<f2").tobytes() for crop in crops]
        return arrow.binary(vectors)
    # Fixed-length bytes from one array: no Python object for each sample. Rows of null samples stay 0, so that the same
    # tokens give the same bytes.
    values = np.zeros((len(crops), spec.length), np.dtype("<u2"))
    valid = np.array([crop is not None for crop in crops], bool)
    if valid.any():
        values[valid] = np.stack([crop for crop in crops if crop is not None])
    mask = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(spec.length * 2), len(crops), [mask, pa.py_buffer(values)])


def _one_chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _column(spec: ColumnSpec, table: pa.Table, fields: Sequence[str]) -> Column:
    # A sample is null in all its crops or in none, so that the first field says it.
    arrays = [_one_chunk(table, name) for name in fields]
    valid = arrow.is_valid(arrays[0])
    count, crops = len(valid), spec.crops
    if spec.kind is Kind.GRID:
        grids = [_grid(spec, array) for array in arrays]
        values = grids[0][:, None] if crops == 1 else np.stack(grids, axis=1)
        starts = np.arange(count * crops, dtype=np.int64).reshape(count, crops) * spec.length
        lengths = np.full((count, crops), spec.length, np.int64)
    else:
        parts = [_items(spec, array) for array in arrays]
        # Where each crop's values begin in their concatenation.
        first = np.cumsum([0, *(len(part) for part, _ in parts)])
        values = parts[0][0] if crops == 1 else np.concatenate([part for part, _ in parts])
        starts = np.stack([ends[:-1] + at for (_, ends), at in zip(parts, first, strict=False)], axis=1)
        lengths = np.stack([np.diff(ends) for _, ends in parts], axis=1)
    values.flags.writeable = False  # views of Arrow's buffers, which others may share
    return Column(spec, _one_chunk(table, "key"), valid, values, starts, lengths * valid[:, None])


def _grid(spec: ColumnSpec, array: pa.Array) -> np.ndarray:
    """uint16 (samples, length)."""
    flat = np.frombuffer(array.buffers()[1] if len(array) else b"", np.uint16)
    return flat[array.offset * spec.length : (array.offset + len(array)) * spec.length].reshape(-1, spec.length)


def _items(spec: ColumnSpec, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values of one crop of all samples, end to end, and where each begins and ends: int64 (samples + 1,)."""
    if spec.kind is Kind.SEQUENCE:
        return arrow.numbers(array.values), arrow.numbers(array.offsets).astype(np.int64)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if not len(array):
        ends = np.zeros(1, np.int64)
    raw = np.frombuffer(data or b"", np.uint8)[: int(ends[-1])]
    if spec.kind is Kind.PIXELS:
        return raw, ends
    return raw.view(np.float16).reshape(-1, spec.dim), ends // (2 * spec.dim)
