"""Labels on disk: every storage comes back, rejects stay null, mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind, Storage
from fourmill.tokenize.labels import encode_labels, read_labels
from fourmill.tokenize.store import ColumnSpec, encode_column


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_images(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    keys, values = read_labels(encode_labels("rgb", Storage.IMAGE, ["a", "b"], [None, image]))
    assert keys == ["a", "b"] and values[0] is None
    assert values[1].dtype == np.uint8
    np.testing.assert_array_equal(values[1], image)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=5))
@settings(max_examples=50, deadline=None)
def test_json(values: list[Any]) -> None:
    keys = [str(i) for i in range(len(values))]
    try:
        data = encode_labels("det", Storage.JSON, keys, values)
    except UnicodeEncodeError:
        return  # lone surrogates are no text
    assert read_labels(data) == (keys, values)


def test_empty_list_is_not_a_reject() -> None:
    assert read_labels(encode_labels("det", Storage.JSON, ["a", "b"], [[], None])) == (["a", "b"], [[], None])


def test_arrays() -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float16)
    _, (got,) = read_labels(encode_labels("clip", Storage.ARRAY, ["a"], [array]))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, array)


def test_row_groups_and_same_bytes(tmp_path: Path) -> None:
    keys = [str(i) for i in range(600)]
    data = encode_labels("caption", Storage.JSON, keys, keys)
    assert data == encode_labels("caption", Storage.JSON, keys, keys)
    (tmp_path / "x.parquet").write_bytes(data)
    assert read_labels(tmp_path / "x.parquet", [2]) == (keys[512:], keys[512:])


@pytest.mark.parametrize(
    ("storage", "value", "message"),
    [
        (Storage.IMAGE, np.zeros((2, 2), np.float32), "expected uint8"),
        (Storage.IMAGE, np.zeros((2, 2, 4), np.uint8), r"\(H, W, 3\)"),
        (Storage.JSON, float("nan"), "Out of range float"),
        (Storage.JSON, {1, 2}, "not JSON serializable"),
        (Storage.ARRAY, np.array([object()]), "allow_pickle=False"),
    ],
)
def test_wrong_values_are_named(storage: Storage, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"label x, sample 'k': .*{message}"):
        encode_labels("x", storage, ["k"], [value])


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(encode_column(ColumnSpec("tok_rgb", Kind.GRID, 1, 4, 9), [], []))
    with pytest.raises(ValueError, match=r"x.parquet: expected labels .*got fourmill.column"):
        read_labels(path)
    with pytest.raises(ValueError, match="1 keys but 2 values"):
        encode_labels("x", Storage.JSON, ["k"], [1, 2])
