"""Tables of texts, as C4's json.gz: shards of samples without an image, nothing fetched, whole shards or none."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests import engine
from fourmill_tests.web import fetching

from fourmill.infra import storage
from fourmill.pipelines import source
from fourmill.pipelines.download import download, slice_files, texts
from fourmill.pipelines.download.download import Made
from fourmill.pipelines.download.settings import Download
from fourmill.pipelines.engine.settings import Engine


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.inline(monkeypatch)


def c4(path: Path, count: int, first: int = 0) -> Path:
    """A file as those of C4."""
    rows = [
        {"text": f"Page {i}.\nIts second line, \xfcber.", "timestamp": "2019-04-25T12:57:54Z", "url": f"http://a/{i}"}
        for i in range(first, first + count)
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def asked(folder: Path, table: Path | str, **changes: Any) -> Download:
    given = {"table": str(table), "out": str(folder / "shards"), "shard_size": 4}
    return fetching.settings(**(given | changes))


def make(settings: Download) -> Made:
    return download.make(settings, 1_000_000, Engine())


def files(out: str) -> dict[str, bytes]:
    names = (name for name in storage.list_names(out) if name.endswith((".tar", ".parquet")))
    return {name: storage.read_bytes(storage.join(out, name)) for name in names}


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_c4_becomes_samples_without_an_image(tmp_path: Path) -> None:
    """Each file is a slice of several shards; its URLs are those of pages, which nobody asks for."""
    for n, count in enumerate((10, 0, 3)):
        c4(tmp_path / f"c4-train.{n:05d}-of-00003.json.gz", count, 100 * n)
    settings = asked(tmp_path, tmp_path / "c4-train.*.json.gz")
    made = make(settings)
    assert (made.made, made.count, made.successes, made.text) == (3, 13, 13, "text") and not made.failures
    tars = [name for name in storage.list_names(settings.out) if name.endswith(".tar")]
    assert tars == ["00000-00000.tar", "00000-00001.tar", "00000-00002.tar", "00002-00000.tar"]
    tar = members(tmp_path / "shards" / "00000-00001.tar")
    assert list(tar) == [f"0000000001{row}.{kind}" for row in range(4) for kind in ("txt", "json")]
    assert tar["00000000010.txt"] == "Page 4.\nIts second line, \xfcber.".encode()
    known = json.loads(tar["00000000010.json"])
    assert known == {"timestamp": "2019-04-25T12:57:54Z", "url": "http://a/4", "key": "00000000010"}
    with source.open_shard(str(tmp_path / "shards" / "00002-00000.tar"), tmp_path) as shard:
        assert shard.caption(shard.samples[0]) == "Page 200.\nIts second line, \xfcber."
        assert [one.image for one in shard.samples] == ["", "", ""] and not shard.rejects
    again = make(settings)
    assert (again.made, again.existed, again.successes) == (0, 3, 13)


def test_rows_without_text_are_rejects_with_reasons(tmp_path: Path) -> None:
    lines = [
        '{"text": "good"}', '{"text": ""}', '{"text": " \\n"}', '{"text": null}', '{"id": 7}', '{"text": 5}',
        '{"text": ["a"]}', '{"text": "half \\ud800"}', "[1]", "no json", "", json.dumps({"text": "x" * (1 << 20)}),
        json.dumps({"text": "x" * (1 + (1 << 20))}), '{"text": "last", "status": "its own", "deep": {"a": [1]}}',
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"text": "no UTF-8: \xff"}\n')
    settings = asked(tmp_path, tmp_path / "t.jsonl", shard_size=100)
    made = make(settings)
    assert made.count == 14 and made.successes == 3
    assert made.by_class == {"empty": 4, "not-text": 4, "no-row": 2, "too-large": 1}
    rows = pq.read_table(tmp_path / "shards" / "00000-00000.parquet").to_pylist()
    said = [row["error_message"] for row in rows if row["status"] == "rejected"]
    assert said == [
        "text is empty", "text is nothing but white space", "there is no text", "there is no text",
        "text is a number, expected text", "text is a list, expected text", "text is not UTF-8",
        "a line that is no JSON object", "a line that is no JSON object", "1,048,577 bytes, expected at most 1,048,576",
        "text is not UTF-8",
    ]  # fmt: skip
    assert rows[12]["table_status"] == "its own" and json.loads(rows[12]["deep"]) == {"a": [1]}
    assert "text" not in rows[0] and rows[0]["key"] == "000000000000"
    with source.open_shard(str(tmp_path / "shards" / "00000-00000.tar"), tmp_path) as shard:
        assert [shard.caption(one) for one in shard.samples] == ["good", "x" * (1 << 20), "last"]


def test_parquet_and_csv_with_a_column_of_texts(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"content": [f"document {i}" for i in range(6)] + [None], "id": range(7)}), tmp_path / "a.parquet"
    )
    (tmp_path / "b.csv").write_text('id,content\n1,"two\nlines"\n2,one\n')
    settings = asked(tmp_path, [str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")])  # type: ignore[arg-type]
    settings = settings.model_copy(update={"table": [str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")]})
    made = make(settings)
    assert made.text == "content" and (made.made, made.count, made.successes) == (3, 9, 8)
    tars = [name for name in storage.list_names(settings.out) if name.endswith(".tar")]
    assert tars == ["00000.tar", "00001.tar", "00002-00000.tar"]
    assert members(tmp_path / "shards" / "00001.tar")["000011.txt"] == b"document 5"
    assert members(tmp_path / "shards" / "00002-00000.tar")["00002000000.txt"] == b"two\nlines"


def test_texts_killed_anywhere_end_as_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at random while it reads and before it puts: shards that were whole are not made again."""
    (tmp_path / "whole").mkdir()
    for n in range(2):
        c4(tmp_path / f"c4.{n}.json.gz", 17, 100 * n)
    whole = asked(tmp_path / "whole", tmp_path / "c4.*.json.gz")
    make(whole)
    settings, draw, kills, made = asked(tmp_path, tmp_path / "c4.*.json.gz"), random.Random(4), 0, list[str]()
    text, put = texts._text, slice_files.put_files

    def dying(*arguments: Any) -> Any:
        if draw.random() < 0.05:
            raise KeyboardInterrupt
        return text(*arguments)

    def noted(out: str, name: str, *rest: Any) -> None:
        if draw.random() < 0.2:
            raise KeyboardInterrupt
        put(out, name, *rest)
        made.append(name)

    monkeypatch.setattr(texts, "_text", dying)
    monkeypatch.setattr(slice_files, "put_files", noted)
    while True:
        try:
            make(settings)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 3 and len(made) == len(set(made)) == 10
    assert files(settings.out) == files(whole.out)


def test_a_lost_file_of_a_shard_is_made_again_alone(tmp_path: Path) -> None:
    c4(tmp_path / "c4.json.gz", 10)
    settings = asked(tmp_path, tmp_path / "c4.json.gz")
    make(settings)
    before = files(settings.out)
    for lost in ("00000-00001.parquet", "00000-00002_stats.json", "00000_of_00003_stats.json"):
        storage.delete(storage.join(settings.out, lost))
        assert make(settings).made == 1 and files(settings.out) == before


def test_large_rows_end_a_shard_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c4(tmp_path / "c4.json.gz", 7)
    monkeypatch.setattr(texts, "CHARACTERS", 250)
    settings = asked(tmp_path, tmp_path / "c4.json.gz")
    assert make(settings).successes == 7
    tars = [name for name in storage.list_names(settings.out) if name.endswith(".tar")]
    assert [len(members(tmp_path / "shards" / name)) // 2 for name in tars] == [2, 2, 2, 1]


def test_a_line_without_an_end_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourmill.pipelines.download.lines._MAX_LINE", 64)
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "' + "x" * 1000 + '"}\n{"text": "b"}')
    made = make(asked(tmp_path, tmp_path / "t.jsonl"))
    assert (made.count, made.successes, made.by_class) == (3, 2, {"no-row": 1})


def test_a_damaged_file_fails_alone(tmp_path: Path) -> None:
    """What was whole of it stays; the other files are made."""
    good, bad = c4(tmp_path / "c4.0.json.gz", 9), c4(tmp_path / "c4.1.json.gz", 5000, 100)
    bad.write_bytes(bad.read_bytes()[:-3000])
    made = make(asked(tmp_path, tmp_path / "c4.*.json.gz", shard_size=1000))
    assert "c4.1.json.gz is damaged" in made.failures["00001"] and made.successes == 9 and good.exists()
    assert (tmp_path / "shards" / "00001-00000.tar").exists()
    assert list(slice_files.found(str(tmp_path / "shards")).slices) == [0]


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        ([{"text": "a"}], {"text": "body"}, "download.text: .* has no column 'body', but text"),
        ([{"page": "a"}], {}, "has the columns page; which holds the URLs.* or download.text"),
        ([{"picture": "http://a/1", "caption": "a"}], {}, "which holds the URLs"),
        ([], {}, "has no rows"),
        ([["a"]], {}, "has no rows, but a line that is no JSON object x1"),
    ],
)
def test_a_table_that_is_none_of_texts(tmp_path: Path, rows: list[Any], changes: dict[str, Any], said: str) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=said):
        make(asked(tmp_path, tmp_path / "t.jsonl", **changes))


def test_text_and_url_are_two_kinds_of_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out url"):
        asked(tmp_path, "t.jsonl", text="text", url="url")


def test_urls_with_captions_stay_a_table_of_urls(tmp_path: Path) -> None:
    """COYO's columns hold those of C4, and its URLs are of images."""
    row = {"url": "http://127.0.0.1:9/x", "text": "a caption", "clip_similarity_vitb32": 0.3}
    (tmp_path / "coyo.jsonl").write_text(json.dumps(row))
    assert not download.slice_table(asked(tmp_path, tmp_path / "coyo.jsonl")).text
    named = asked(tmp_path, tmp_path / "coyo.jsonl", text="text", out=str(tmp_path / "named"))
    assert download.slice_table(named).text == "text"


def test_halves_of_surrogate_pairs_break_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"url": "http://127.0.0.1:9/x", "caption": "half \\ud800"}\n')
    sliced = download.slice_table(asked(tmp_path, tmp_path / "t.jsonl"))
    assert pq.read_table(io.BytesIO(storage.read_bytes(sliced.slices[0].url))).to_pylist()[0]["caption"] == "half ?"
