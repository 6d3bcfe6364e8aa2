"""The token store: what is written comes back, nulls stay in place, and mistakes are named."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind
from fourmill.tokenize import store
from fourmill.tokenize.store import ColumnSpec, encode_column, read

GRID = ColumnSpec("tok_rgb", Kind.GRID, crops=2, length=9, vocab_size=500, tokenizer="abc")
TEXT = ColumnSpec("caption", Kind.SEQUENCE, crops=2, length=12, vocab_size=30_000)
PIXELS = ColumnSpec("rgb", Kind.PIXELS, crops=2, length=32)
EMBEDDING = ColumnSpec("t5_caption", Kind.EMBEDDING, crops=1, length=5, dim=8)
SPECS = [GRID, TEXT, PIXELS, EMBEDDING]


def make_row(spec: ColumnSpec, rng: np.random.Generator) -> Any:
    if spec.kind is Kind.GRID:
        return rng.integers(0, spec.vocab_size, (spec.crops, spec.length)).astype(np.uint16)
    if spec.kind is Kind.EMBEDDING:
        return rng.normal(size=(spec.crops, rng.integers(1, spec.length + 1), spec.dim)).astype(np.float16)
    sizes = rng.integers(1, spec.length + 1, spec.crops)
    if spec.kind is Kind.PIXELS:
        return [rng.bytes(int(n)) for n in sizes]
    return [rng.integers(0, spec.vocab_size, n).astype(np.uint16) for n in sizes]


def make_rows(spec: ColumnSpec, valid: list[bool], seed: int = 0) -> tuple[list[str], list[Any]]:
    rng = np.random.default_rng(seed)
    return [f"{i:06d}" for i in range(len(valid))], [make_row(spec, rng) if v else None for v in valid]


def assert_same(got: Any, expected: Any) -> None:
    if expected is None or isinstance(expected, bytes):
        assert got == expected
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    else:
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
@given(valid=st.lists(st.booleans(), max_size=12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_come_back(spec: ColumnSpec, valid: list[bool], seed: int) -> None:
    keys, rows = make_rows(spec, valid, seed)
    column = read(encode_column(spec, keys, rows))
    assert column.spec == spec
    assert column.keys.to_pylist() == keys
    assert column.valid.tolist() == valid
    for i, row in enumerate(rows):
        assert_same(column.sample(i), row)
        for c in range(spec.crops):
            assert column.lengths[i, c] == (0 if row is None else len(row[c]) if spec.kind is not Kind.GRID else 9)
            if row is None:
                assert len(column.crop(i, c)) == 0


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_row_groups(spec: ColumnSpec, tmp_path: Path) -> None:
    valid = (np.arange(2 * store.ROW_GROUP + 100) % 7 > 0).tolist()
    valid[store.ROW_GROUP : 2 * store.ROW_GROUP] = [False] * store.ROW_GROUP  # a group without any tokens
    keys, rows = make_rows(spec, valid)
    path = tmp_path / "00000.parquet"
    path.write_bytes(encode_column(spec, keys, rows))
    reader = store.ColumnReader(path)
    assert reader.row_group_sizes() == [1024, 1024, 100]
    for groups in ([0], [1], [2, 0], [0, 1, 2], []):
        column = reader.read(groups)
        expected = [i for g in groups for i in range(1024 * g, min(1024 * (g + 1), len(keys)))]
        assert column.keys.to_pylist() == [keys[i] for i in expected]
        for got, i in enumerate(expected):
            assert_same(column.sample(got), rows[i])
    with pytest.raises(ValueError, match=r"row groups \[3\].*0\.\.2"):
        reader.read([3])


def test_sources(tmp_path: Path) -> None:
    keys, rows = make_rows(GRID, [True, False, True])
    data = encode_column(GRID, keys, rows)
    path = tmp_path / "00000.parquet"
    path.write_bytes(data)
    for source in (data, io.BytesIO(data), path, str(path), f"file://{path}"):
        assert_same(read(source).sample(2), rows[2])


def test_object_store_urls() -> None:
    keys, rows = make_rows(TEXT, [True, False, True])
    fsspec.filesystem("memory").pipe_file("/test_store/caption.parquet", encode_column(TEXT, keys, rows))
    assert_same(read("memory://test_store/caption.parquet", [0]).sample(2), rows[2])
    with pytest.raises(FileNotFoundError):
        read("memory://test_store/none.parquet")


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    data = bytearray(encode_column(GRID, *make_rows(GRID, [True] * 1000)))
    data[200:20_000] = bytes(19_800)
    (tmp_path / "damaged.parquet").write_bytes(data)
    with pytest.raises((OSError, ValueError), match=r"damaged\.parquet: "):
        read(tmp_path / "damaged.parquet")


@pytest.mark.parametrize("spec", [GRID, TEXT, PIXELS], ids=lambda s: s.kind)
@pytest.mark.parametrize("crops", [[1], [1, 0], [0, 1], [0, 0]])
def test_some_crops_are_a_column_of_their_own(spec: ColumnSpec, crops: list[int]) -> None:
    keys, rows = make_rows(spec, [True, False, True, True])
    column = store.ColumnReader(encode_column(spec, keys, rows)).read(crops=crops)
    assert column.spec == replace(spec, crops=len(crops)) and column.valid.tolist() == [True, False, True, True]
    for i, row in enumerate(rows):
        assert_same(column.sample(i), None if row is None else row[crops] if spec is GRID else [row[c] for c in crops])
    for bad in ([2], [-1], []):
        with pytest.raises(ValueError, match=r"crops .* asked for, the file has 0\.\.1"):
            store.ColumnReader(encode_column(spec, keys, rows)).read(crops=bad)


def test_only_the_crops_that_are_asked_for_are_read(tmp_path: Path) -> None:
    spec = replace(PIXELS, crops=8, length=5000)
    path = tmp_path / "00000.parquet"
    path.write_bytes(encode_column(spec, *make_rows(spec, [True] * 300)))

    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    file = Counted(path.read_bytes())
    reader = store.ColumnReader(file)
    file.count = 0
    reader.read(crops=[3])
    assert file.count < path.stat().st_size / 6


def test_grid_is_not_copied() -> None:
    column = store.ColumnReader(encode_column(GRID, *make_rows(GRID, [True] * 5))).read(crops=[1])
    assert column.values.shape == (5, 1, 9) and not column.values.flags.owndata and not column.values.flags.writeable


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_slices_of_a_table_keep_their_rows(spec: ColumnSpec) -> None:
    """Arrow's arrays may begin within their buffers; pyarrow does not promise that those of a file never do."""
    keys, rows = make_rows(spec, [True, True, False, True, True])
    fields = [f"crop{c}" for c in range(spec.crops)]
    table = pq.read_table(io.BytesIO(encode_column(spec, keys, rows)))
    column = store._column(spec, table.slice(1, 3), fields)
    assert column.keys.to_pylist() == keys[1:4]
    for i, row in enumerate(rows[1:4]):
        assert_same(column.sample(i), row)


def test_a_column_may_have_one_crop_of_one_token() -> None:
    spec = ColumnSpec("tok_rgb", Kind.GRID, crops=1, length=1, vocab_size=1)
    assert read(encode_column(spec, ["k"], [np.zeros((1, 1), np.uint16)])).sample(0).tolist() == [[0]]


def test_same_tokens_same_bytes() -> None:
    digests = {hashlib.sha256(encode_column(TEXT, *make_rows(TEXT, [True] * 50))).digest() for _ in range(3)}
    assert len(digests) == 1


def test_a_column_explains_itself() -> None:
    metadata = pq.read_schema(io.BytesIO(encode_column(GRID, *make_rows(GRID, [True])))).metadata
    assert metadata[b"shape"] == b"(2, 9)" and metadata[b"dtype"] == b"<u2" and metadata[b"version"] == b"2"
    assert b'"tokenizer": "abc"' in metadata[b"spec"] and b'"vocab_size": 500' in metadata[b"spec"]


def u16(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint16)


@pytest.mark.parametrize(
    ("spec", "row", "message"),
    [
        (GRID, np.zeros((2, 8), np.uint16), r"tok_rgb, sample 'k': got uint16 \(2, 8\), expected uint16 \(2, 9\)"),
        (GRID, np.zeros((2, 9), np.int64), r"got int64 \(2, 9\)"),
        (GRID, np.full((2, 9), 500, np.uint16), "token id 500, the vocabulary has 500"),
        (TEXT, [u16(1)], "got 1 crops, expected 2"),
        (TEXT, [u16(1), u16(*range(13))], r"got uint16 \(13,\), expected uint16 \(1..12,\)"),
        (TEXT, [u16(1), u16()], r"got uint16 \(0,\)"),
        (TEXT, [u16(1), u16(30_000)], "token id 30000"),
        (PIXELS, [b"x", b""], "one encoded JPEG or PNG"),
        (EMBEDDING, np.zeros((1, 6, 8), np.float16), r"expected float16 \(1, 1..5, 8\)"),
    ],
)
def test_wrong_rows_are_named(spec: ColumnSpec, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_column(spec, ["k"], [row])


def test_wrong_keys_are_named() -> None:
    with pytest.raises(ValueError, match="2 keys but 1 rows"):
        encode_column(GRID, ["a", "b"], [None])
    with pytest.raises(ValueError, match="key 'a' occurs twice"):
        encode_column(GRID, ["a", "b", "a"], [None] * 3)


@pytest.mark.parametrize(
    "fields", [{"vocab_size": 0}, {"vocab_size": 2**16 + 1}, {"vocab_size": 9, "dim": 2}, {"crops": 0}]
)
def test_wrong_specs(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="column tok_rgb"):
        ColumnSpec(**{"modality": "tok_rgb", "kind": Kind.GRID, "crops": 1, "length": 9, "vocab_size": 5, **fields})


def test_wrong_files_are_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(encode_column(GRID, *make_rows(GRID, [True]))[:-20])
    with pytest.raises(ValueError, match=r"torn.parquet: not a readable Parquet file"):
        read(torn)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), other)
    with pytest.raises(ValueError, match=r"other.parquet: expected a token column.*fields \['x'\]"):
        read(other)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.parquet")


def test_future_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VERSION", 3)
    data = encode_column(GRID, *make_rows(GRID, [True]))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 3, this release reads 2"):
        read(data)
