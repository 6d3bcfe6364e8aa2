"""Tables of URLs, in all their forms, and their slices."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests.web.fetching import settings

from fourmill.pipelines.download import lines, table


def rows_of(path: Path, out: Path, **changes: Any) -> tuple[list[dict[str, Any]], table.Sliced]:
    asked = settings(table=str(path), out=str(out), **changes)
    sliced = table.slice_all(asked, table.files(asked))
    assert [one.number for one in sliced.slices] == list(range(len(sliced.slices)))
    return [row for one in sliced.slices for row in table.read(one, sliced.columns).to_pylist()], sliced


def test_cc12m_has_no_header_and_single_quotes(tmp_path: Path) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_text('http://a/1\tIt is 5" wide\nhttp://a/2\t"Quoted" <PERSON>\nhttp://a/3\t\xfcber\n', encoding="utf-8")
    rows, sliced = rows_of(path, tmp_path / "out", shard_size=2)
    assert [one.rows for one in sliced.slices] == [2, 1]
    assert rows == [
        {"url": "http://a/1", "caption": 'It is 5" wide'},
        {"url": "http://a/2", "caption": '"Quoted" <PERSON>'},
        {"url": "http://a/3", "caption": "\xfcber"},
    ]


def test_csv_has_quotes_and_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    text = 'id,image_url,Text,width\n1,http://a/1,"two\nlines, and a comma",64\n2,http://a/2,plain,65\n3,http://a/3\n'
    path.write_bytes(gzip.compress(text.encode()))
    rows, sliced = rows_of(path, tmp_path / "out")
    assert rows[0] == {"url": "http://a/1", "caption": "two\nlines, and a comma", "id": "1", "table_width": "64"}
    assert len(rows) == 2 and sliced.skipped == {"a line without 4 cells": 1}


URLS = ["http://a/1,2;3.jpg", "http://a/2.jpg"]
SEMICOLONS = 'url;Text\n"http://a/1,2;3.jpg";"one; 1"\nhttp://a/2.jpg;two, 2\n'
BARS = '"http://a/1,2;3.jpg"|a photo, of\nhttp://a/2.jpg|a photo; of\n'


@pytest.mark.parametrize(
    ("name", "data", "captions"),
    [
        ("t.csv", SEMICOLONS, ["one; 1", "two, 2"]),
        ("t.tsv", SEMICOLONS, ["one; 1", "two, 2"]),
        ("t.csv", BARS, ["a photo, of", "a photo; of"]),
        ("t.txt", "\n".join(URLS), [None, None]),
        ("t.tsv", f"{URLS[0]} \n{URLS[1]}\n", [None, None]),
        ("t.csv", SEMICOLONS.encode("utf-16"), ["one; 1", "two, 2"]),
        ("t.csv.bz2", bz2.compress(SEMICOLONS.encode()), ["one; 1", "two, 2"]),
        ("t.csv.zst", pa.Codec("zstd").compress(SEMICOLONS.encode(), asbytes=True), ["one; 1", "two, 2"]),
    ],
)
def test_what_lines_come_as(name: str, data: str | bytes, captions: list[str | None], tmp_path: Path) -> None:
    """The delimiter by the first line, whatever the name says; a line that is a URL may hold most of them."""
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    rows, _ = rows_of(tmp_path / name, tmp_path / "out")
    assert [(row["url"].strip(), row.get("caption")) for row in rows] == list(zip(URLS, captions, strict=True))
    with open(tmp_path / name, "rb", buffering=0) as file:  # a file that is not buffered, as remote ones are
        assert sum(1 for _ in lines.rows(name, io.BytesIO(file.read()))) == 2
        file.seek(0)
        assert sum(1 for _ in lines.rows(name, file)) == 2 and not file.closed


def test_the_delimiter_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a:http,//a/1:x\n")
    rows, _ = rows_of(tmp_path / "t.csv", tmp_path / "out", delimiter=":", columns=["id", "url", "text"])
    assert rows == [{"url": "http,//a/1", "caption": "x", "id": "a"}]


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"url": "http://a/1", "score": 4.5, "tags": ["x"]}, {"url": "http://a/2", "caption": "c", "score": None}]
    path.write_text("\n".join([*map(json.dumps, lines), "", "no json", "[1]"]))
    rows, sliced = rows_of(path, tmp_path / "out")
    assert rows == [
        {"url": "http://a/1", "caption": None, "score": 4.5, "tags": '["x"]'},
        {"url": "http://a/2", "caption": "c", "score": None, "tags": None},
    ]
    assert sliced.skipped == {"a line that is no JSON object": 2}


def test_parquet_is_read_in_place(tmp_path: Path) -> None:
    """As COYO's: columns with their types, slices across row groups, several files."""
    for part in range(2):
        numbers = list(range(10 * part, 10 * part + 10))
        columns = {
            "id": pa.array(numbers, pa.int64()),
            "url": [f"http://a/{i}" for i in numbers],
            "text": [f"caption {i}" for i in numbers],
            "width": pa.array([640] * 10, pa.int64()),
            "aesthetic_score_laion_v2": pa.array([i / 2 for i in numbers], pa.float32()),
        }
        pq.write_table(pa.table(columns), tmp_path / f"part-{part}.parquet", row_group_size=3, compression="snappy")
    rows, sliced = rows_of(tmp_path / "part-*.parquet", tmp_path / "out", shard_size=4)
    assert [one.rows for one in sliced.slices] == [4, 4, 2] * 2 and not (tmp_path / "out").exists()
    assert [row["id"] for row in rows] == list(range(20))
    read = table.read(sliced.slices[4], sliced.columns)
    assert read.schema.field("aesthetic_score_laion_v2").type == pa.float32()
    assert read.to_pylist()[0] == {
        "url": "http://a/14", "caption": "caption 14", "id": 14, "table_width": 640, "aesthetic_score_laion_v2": 7.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "changes", "expected"),
    [
        ("t.csv", "a,b\n1,2\n", {}, "has the columns a, b; which holds the URLs"),
        ("t.csv", "url,b\nx,2\n", {"caption": "text"}, "download.caption: .* no column 'text', but url, b"),
        ("t.csv", "url,b\n", {}, "has no rows"),
        ("t.parquet", "no parquet", {}, "neither Parquet"),
        ("t.tsv.gz", "no gzip", {}, "is damaged"),
        ("t.tsv.zst", "no zstd", {}, "is damaged"),
        ("t.json", '[{"url": "http://a"}]', {}, "one JSON array, expected an object a line"),
    ],
)
def test_a_bad_table_is_a_sentence(
    tmp_path: Path, name: str, content: str, changes: dict[str, Any], expected: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=expected):
        rows_of(tmp_path / name, tmp_path / "out", **changes)


def test_a_column_of_lists_is_a_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [["http://a/1"]]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"list<.*> in the column url, expected text"):
        rows_of(tmp_path / "t.parquet", tmp_path / "out")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("none.tsv", "*.parquet", "empty"):
        with pytest.raises(ValueError, match="there is no file"):
            rows_of(tmp_path / name, tmp_path / "out")
    with pytest.raises(ValueError, match="an empty list"):
        table.files(settings(table=[]))


def test_a_folder_is_its_tables(tmp_path: Path) -> None:
    for name in ("b.tsv", "a.csv", "readme.md"):
        (tmp_path / name).write_text(f"http://{name}/1{',' if name == 'a.csv' else chr(9)}caption\n")
    rows, _ = rows_of(tmp_path, tmp_path / "out")
    assert [row["url"] for row in rows] == ["http://a.csv/1", "http://b.tsv/1"]


def test_names_of_columns_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("7\thttp://a/1\tcat\n8\thttp://a/2\tdog\n")
    rows, _ = rows_of(tmp_path / "t.tsv", tmp_path / "out", columns=["id", "url", "caption"])
    assert rows[1] == {"url": "http://a/2", "caption": "dog", "id": "8"}
    found, _ = rows_of(tmp_path / "t.tsv", tmp_path / "other")
    assert found[1] == {"url": "http://a/2", "caption": "8", "column_2": "dog"}


def test_a_parquet_file_that_changed_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a/1"] * 10}), tmp_path / "t.parquet")
    _, sliced = rows_of(tmp_path / "t.parquet", tmp_path / "out")
    pq.write_table(pa.table({"url": ["http://a/1"] * 9}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="has changed since"):
        table.read(sliced.slices[0], sliced.columns)
