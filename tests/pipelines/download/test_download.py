"""From a table to shards: the layout, resuming, failures fetched again, and what a killed slice leaves."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests import engine
from fourmill_tests.s3 import S3
from fourmill_tests.web import fetching, server
from fourmill_tests.web.server import Web

from fourmill.infra import storage
from fourmill.pipelines import source
from fourmill.pipelines.download import download, slice_files
from fourmill.pipelines.download.download import Made
from fourmill.pipelines.download.settings import Download
from fourmill.pipelines.engine.settings import Engine

PATHS = [
    "image/0", "image/1", "status/404", "large/2", "lie/1", "image/3", "status/503", "image/4", "bomb/1", "image/5"
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.inline(monkeypatch)


def asked(web: Web, folder: Path, paths: list[str] = PATHS, **changes: Any) -> Download:
    table = fetching.write_tsv(folder / "table.tsv", [web.url(path) for path in paths])
    given = {"table": str(table), "out": str(folder / "shards"), "shard_size": 4}
    return fetching.settings(**(given | changes))


def make(settings: Download, retry_failed: bool = False) -> Made:
    return download.make(settings, 1_000_000, Engine(), retry_failed)


def files(out: str) -> dict[str, bytes]:
    """The tars and their Parquet files."""
    return {
        name: storage.read_bytes(storage.join(out, name))
        for name in storage.list_names(out)
        if name.endswith((".tar", ".parquet"))
    }


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_the_layout_is_that_of_img2dataset(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path)
    made = make(settings)
    assert (made.made, made.existed, made.count, made.successes) == (3, 0, 10, 6)
    assert made.by_class == {"http-404": 1, "http-503": 1, "not-an-image": 1, "too-large": 1} and not made.failures
    assert storage.list_names(settings.out) == [
        "00000.parquet", "00000.tar", "00000_stats.json", "00001.parquet", "00001.tar", "00001_stats.json",
        "00002.parquet", "00002.tar", "00002_stats.json", "download.json", "table",
    ]  # fmt: skip
    tar = members(files(settings.out)["00000.tar"])
    assert list(tar) == [f"00000{row}.{kind}" for row in (0, 1, 3) for kind in ("jpg", "txt", "json")]
    assert tar["000000.jpg"] == server.jpeg(0) and tar["000001.txt"] == b'Caption 1 of a "photo'
    known = json.loads(tar["000003.json"])
    assert known["url"].endswith("/large/2") and (known["original_width"], known["width"]) == (800, 341)
    rows = pq.read_table(tmp_path / "shards" / "00000.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["success", "success", "failed_to_download", "success"]
    assert rows[2]["failure"] == "http-404" and rows[2]["key"] == "000002" and rows[2]["sha256"] is None
    assert rows[3]["sha256"] == known["sha256"] and rows[3]["caption"] == 'Caption 3 of a "photo'
    stats = json.loads((tmp_path / "shards" / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["failed_to_download"], stats["failed_to_resize"]) == (4, 2, 1, 1)
    assert stats["status_dict"] == {"success": 2, "not-an-image": 1, "http-503": 1}


def test_shards_are_read_as_source_shards(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path)
    make(settings)
    with source.open_shard(str(tmp_path / "shards" / "00000.tar"), tmp_path) as shard:
        assert [sample.key for sample in shard.samples] == ["000000", "000001", "000003"] and not shard.rejects
        assert shard.caption(shard.samples[1]) == 'Caption 1 of a "photo'


def test_a_second_call_asks_nothing(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path)
    make(settings)
    asked_before = web.seen.total()
    (tmp_path / "table.tsv").unlink()  # slices of text are kept
    made = make(settings)
    assert (made.made, made.existed, made.successes) == (0, 3, 6) and web.seen.total() == asked_before


@pytest.mark.parametrize("lost", ["00001_stats.json", "00001.tar", "00001.parquet"])
def test_a_slice_without_all_its_files_is_made_again(web: Web, tmp_path: Path, lost: str) -> None:
    settings = asked(web, tmp_path)
    make(settings)
    before = files(settings.out)
    storage.delete(storage.join(settings.out, lost))
    made = make(settings)
    assert (made.made, made.existed) == (1, 2) and files(settings.out) == before


def test_a_download_killed_anywhere_ends_as_undisturbed(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each thing that it puts, one after the other, and started again: the same bytes."""
    (tmp_path / "whole").mkdir()
    whole = asked(web, tmp_path / "whole")
    make(whole)
    settings = asked(web, tmp_path)
    kills, seen = 0, set[str]()
    with monkeypatch.context() as patch:
        for name in ("put", "put_file"):
            patch.setattr(storage, name, _once(getattr(storage, name), seen))
        while True:
            try:
                make(settings)
                break
            except (engine.Dead, KeyboardInterrupt):
                kills += 1
    assert kills == len(seen) > 10
    assert files(settings.out) == files(whole.out)


def _once(put: Any, seen: set[str]) -> Any:
    """Dies at each name for the first time."""

    def dying(url: str, *arguments: Any, **options: Any) -> Any:
        if ".tmp-" not in url and url not in seen:
            seen.add(url)
            raise KeyboardInterrupt
        return put(url, *arguments, **options)

    return dying


def _move_busy(folder: Path, web: Web) -> None:
    """The URL of /busy is one of another host, which no other URL waits for."""
    table = folder / "table.tsv"
    table.write_text(table.read_text().replace(web.url("busy"), web.url("busy/1", "127.0.0.2")))


def test_failures_are_fetched_again_by_class(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path, ["image/0", "busy", "status/404", "image/2", "image/3"])
    _move_busy(tmp_path, web)
    web.busy, web.retry_after = 1, "100000"
    first = make(settings)
    assert first.by_class == {"http-404": 1, "http-429": 1}
    before, asked_before = files(settings.out), web.seen.total()
    again = make(settings, retry_failed=True)
    assert (again.made, again.existed, again.successes) == (1, 1, 4) and again.by_class == {"http-404": 1}
    assert web.seen.total() == asked_before + 2 and web.asked("status/404") == 1  # robots.txt as well
    after = files(settings.out)
    assert after["00001.tar"] == before["00001.tar"]
    assert list(members(after["00000.tar"])) == [f"00000{r}.{k}" for r in (0, 1, 3) for k in ("jpg", "txt", "json")]
    assert make(settings, retry_failed=True).made == 0


def test_failures_fetched_again_give_the_bytes_of_a_good_day(web: Web, tmp_path: Path) -> None:
    good = asked(web, tmp_path, ["busy/1", "image/0", "large/2"], out=str(tmp_path / "good"))
    make(good)
    web.busy, web.retry_after = 1, "100000"
    bad = asked(web, tmp_path, ["busy/1", "image/0", "large/2"], per_host=1)
    assert make(bad).successes < 3 and files(bad.out) != files(good.out)
    make(bad, retry_failed=True)
    assert files(bad.out) == files(good.out)


def test_columns_are_kept_beside_the_tars_and_in_them(web: Web, tmp_path: Path) -> None:
    columns = {
        "url": [web.url("image/0"), web.url("status/404")], "text": ["a", None], "clip_similarity_vitb32": [0.3, 0.1],
        "width": [640, 480], "score": pa.array([float("nan"), 1.0], pa.float32()),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "coyo.parquet")
    settings = fetching.settings(table=str(tmp_path / "coyo.parquet"), out=str(tmp_path / "shards"))
    make(settings)
    written = pq.read_table(tmp_path / "shards" / "00000.parquet")
    assert written.column("clip_similarity_vitb32").to_pylist() == [0.3, 0.1]
    assert written.column("table_width").to_pylist() == [640, 480]
    assert written.column("width").to_pylist() == [
        120,
        None,
    ]
    tar = members((tmp_path / "shards" / "00000.tar").read_bytes())
    known = json.loads(tar["000000000.json"])
    assert known["clip_similarity_vitb32"] == 0.3 and known["score"] is None and known["table_width"] == 640


def test_shards_of_other_options_are_refused(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path)
    make(settings)
    with pytest.raises(ValueError, match=r"other options \(size 256\)"):
        make(settings.model_copy(update={"size": 128}))
    with pytest.raises(ValueError, match="shards of another table"):
        make(asked(web, tmp_path, PATHS[:4]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"holds other files \(mine\.txt\)"):
        make(settings.model_copy(update={"out": str(tmp_path / "other")}))


def test_a_machine_without_a_network_finishes_nothing(tmp_path: Path) -> None:
    """Were its slices finished, all would count as failed for ever."""
    table = fetching.write_tsv(tmp_path / "table.tsv", [f"http://127.1.0.{i}:9/x" for i in range(30)])
    settings = fetching.settings(table=str(table), out=str(tmp_path / "shards"))
    made = make(settings)
    assert "has this machine a way out" in made.failures["00000"] and not slice_files.found(settings.out).slices


def test_a_slice_without_any_image_is_finished(web: Web, tmp_path: Path) -> None:
    settings = asked(web, tmp_path, ["status/404"] * 4)
    assert make(settings).count == 4
    with source.open_shard(str(tmp_path / "shards" / "00000.tar"), tmp_path) as shard:
        assert not shard.samples and not shard.rejects


def test_tables_and_shards_may_be_in_a_bucket(web: Web, s3: S3, tmp_path: Path) -> None:
    bucket = s3.bucket("download")
    good = asked(web, tmp_path)
    make(good)
    storage.put(f"{bucket}/in/table.tsv", (tmp_path / "table.tsv").read_bytes())
    settings = asked(web, tmp_path, table=f"{bucket}/in/*.tsv", out=f"{bucket}/shards")
    assert make(settings).made == 3 and files(settings.out) == files(good.out)
    again = make(settings, retry_failed=True)  # of http-503, which comes again
    assert again.made == 1 and files(settings.out) == files(good.out)
