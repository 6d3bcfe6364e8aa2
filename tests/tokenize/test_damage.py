"""A column or label file that is damaged anywhere is refused where it is read, or gives the very same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fourmill.infra import footers
from fourmill.modalities import Kind, Storage
from fourmill.tokenize import labels, store
from fourmill.tokenize.table_file import Damaged, Origin

KEYS = [f"k{i}" for i in range(5)]
ORIGIN = Origin("00000", "f1")
SPECS = {
    Kind.GRID: store.ColumnSpec("tok_rgb", Kind.GRID, 1, 4, 500, tokenizer="t"),
    Kind.SEQUENCE: store.ColumnSpec("caption", Kind.SEQUENCE, 1, 9, 500),
    Kind.PIXELS: store.ColumnSpec("rgb", Kind.PIXELS, 1, 9),
    Kind.EMBEDDING: store.ColumnSpec("t5_caption", Kind.EMBEDDING, 1, 3, dim=4),
}


def column(kind: Kind, seed: int = 0, keys: list[str] = KEYS, origin: Origin | None = ORIGIN) -> bytes:
    rng = np.random.default_rng(seed)
    rows: dict[Kind, Callable[[], Any]] = {
        Kind.GRID: lambda: rng.integers(0, 500, (1, 4)).astype(np.uint16),
        Kind.SEQUENCE: lambda: [rng.integers(0, 500, rng.integers(1, 9)).astype(np.uint16)],
        Kind.PIXELS: lambda: [rng.bytes(7)],
        Kind.EMBEDDING: lambda: rng.random((1, 3, 4)).astype(np.float16),
    }
    return store.encode_column(SPECS[kind], keys, [None if i == 2 else rows[kind]() for i in range(len(keys))], origin)


def label(origin: Origin | None = ORIGIN) -> bytes:
    cells = ["[1]", None, "[2, 3]", '"x"', "{}"]
    return labels.encode_cells("det", Storage.JSON, KEYS, cells, origin=origin)


def read_column(data: bytes, footer: str) -> list[Any]:
    read = store.read(data, footer=footer)
    return [read.spec, read.keys.to_pylist(), *(repr(read.sample(i)) for i in range(len(read)))]


def read_label(data: bytes, footer: str) -> list[Any]:
    return list(labels.read_cells(data, footer=footer))


def damages(data: bytes) -> list[bytes]:
    """Every byte changed in one of three ways in turn, and every length cut."""
    flips = (0xFF, 0x12, 1)
    changed = [data[:at] + bytes([data[at] ^ flips[at % 3]]) + data[at + 1 :] for at in range(len(data))]
    return [*changed, *(data[:length] for length in range(len(data)))]


@pytest.mark.parametrize(
    ("data", "read"),
    [*((column(kind), read_column) for kind in SPECS), (label(), read_label)],
    ids=[*map(str, SPECS), "label"],
)
def test_every_damage_is_found(data: bytes, read: Callable[[bytes, str], list[Any]]) -> None:
    footer = footers.digest(footers.of(data))
    whole, found = read(data, footer), 0
    for bad in damages(data):
        try:
            assert read(bad, footer) == whole
        except Damaged:
            found += 1
    assert found > 1.9 * len(data)  # few bytes of page headers say nothing


@pytest.mark.parametrize("kind", SPECS)
def test_rows_alone_are_found_damaged_without_a_record(kind: Kind) -> None:
    """Files beside the ledger, of generated answers: the footer's sums are of the rows."""
    data = column(kind, origin=None)
    whole = read_column(data, "")
    for at in range(4, len(data) - len(footers.of(data))):
        try:
            assert read_column(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :], "") == whole
        except Damaged:
            continue


def test_another_file_is_not_the_one_that_was_committed() -> None:
    """Of another shard, recipe or attempt, or with other keys."""
    footer = footers.digest(footers.of(column(Kind.GRID)))
    others = [
        column(Kind.GRID, origin=Origin("00001", "f1")),
        column(Kind.GRID, origin=Origin("00000", "f2")),
        column(Kind.GRID, seed=1),
        column(Kind.GRID, keys=["a", *KEYS[1:]]),
    ]
    for other in others:
        with pytest.raises(Damaged, match="not the file that its record stands for"):
            store.read(other, footer=footer)


def test_a_damaged_file_says_what_to_run(tmp_path: Any) -> None:
    path = tmp_path / "out" / "tokens" / "tok_rgb" / "00000.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(column(Kind.GRID)[:-1])
    with pytest.raises(Damaged, match=f"{path}: .*; run `fourmill check {tmp_path}/out --repair`"):
        store.read(str(path))


def test_sums_do_not_depend_on_row_groups_read() -> None:
    """Several groups at once, in any order, are compared group by group."""
    keys = [f"k{i}" for i in range(2500)]
    data = column(Kind.SEQUENCE, keys=keys)
    read = store.read(data, [2, 0])
    assert read.keys.to_pylist() == keys[2048:] + keys[:1024]
