"""Arrow's arrays by their buffers are those that pyarrow makes, without pandas."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.tokenize import arrow
from fourmill.tokenize.table_file import encode_table

IDS = st.lists(st.integers(0, 65_535), max_size=5).map(lambda ids: np.array(ids, np.uint16))
KINDS: dict[str, tuple[Callable[..., Any], pa.DataType, st.SearchStrategy[Any]]] = {
    "strings": (arrow.strings, pa.string(), st.text(max_size=5)),
    "binary": (arrow.binary, pa.large_binary(), st.binary(max_size=5)),
    "lists": (arrow.lists, pa.list_(pa.uint16()), IDS),
}


@pytest.mark.parametrize("kind", KINDS)
@given(drawn=st.data())
@settings(max_examples=30, deadline=None)
def test_arrays_and_files_are_pyarrows(kind: str, drawn: st.DataObject) -> None:
    make, type_, values = KINDS[kind]
    rows = drawn.draw(st.lists(st.none() | values, max_size=20))
    ours, theirs = make(rows), pa.array(rows, type_)
    ours.validate(full=True)
    assert ours.equals(theirs) and ours.type == theirs.type and ours.null_count == theirs.null_count
    keys = arrow.strings([f"{i}" for i in range(len(rows))])
    files = [encode_table({"key": keys, "value": array}, {"a": "b"}, 8) for array in (ours, theirs)]
    assert files[0] == files[1]
    part = ours.slice(1, 9)
    assert arrow.is_valid(part).tolist() == [row is not None for row in rows[1:10]]
    assert arrow.is_valid(pa.chunked_array([part, ours])).tolist() == [row is not None for row in [*rows[1:10], *rows]]


def test_numbers_are_views() -> None:
    numbers = pa.array(range(9), pa.int32())
    assert arrow.numbers(numbers.slice(2, 3)).tolist() == [2, 3, 4]
    assert not arrow.numbers(numbers).flags.writeable
    assert arrow.numbers(pa.array([], pa.uint16())).dtype == np.uint16


def test_text_without_utf8_is_an_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        arrow.strings(["\ud800"])


def test_labels_and_columns_need_no_pandas() -> None:
    """Its import costs a worker 1.5 s of CPU time within its first shard."""
    code = """if True:
        import sys
        import numpy as np
        from fourmill.modalities import Kind, Storage
        from fourmill.tokenize import labels, store
        for kind, rows in ((Kind.GRID, [np.zeros((1, 4), np.uint16), None]),
                           (Kind.SEQUENCE, [[np.ones(3, np.uint16)], None])):
            spec = store.ColumnSpec("tok_rgb", kind, 1, 4, 16)
            assert store.read(store.encode_column(spec, ["a", "b"], rows)).valid.tolist() == [True, False]
        for storage, value in ((Storage.JSON, {"a": 1}), (Storage.IMAGE, np.zeros((4, 4), np.uint8))):
            read = labels.read_labels(labels.encode_labels("x", storage, ["a", "b"], [value, None]))
            assert read[0] == ["a", "b"] and read[1][1] is None
        assert "pandas" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
