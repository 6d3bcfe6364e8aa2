"""The cache of columns: what was read once of an object store is not asked for again, what is damaged is."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests.s3 import S3
from fourmill_tests.training import SPECS, write_columns

from fourmill.infra import footers, storage
from fourmill.tokenize.store import ColumnReader
from fourmill.train.data import cache
from fourmill.train.data.cache import CacheOptions, ColumnCache
from fourmill.train.data.groups import ShardRows
from fourmill.train.data.loader import LoaderOptions, TokenLoader
from fourmill.train.masking.masking import MaskingConfig, ResolvedMixture

BUCKETS = itertools.count()
ROWS = 24
ALPHAS = {spec.name: 1.0 for spec in SPECS}
MASKING = MaskingConfig((12, 12), (10, 10), (ResolvedMixture(ALPHAS, {name: 1.0 for name in ALPHAS if name != "rgb"}),))


@pytest.fixture(autouse=True)
def little_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these few rows, whole epochs would be read ahead."""
    monkeypatch.setattr("fourmill.train.data.loader._SAMPLES_TOGETHER", 16)


@pytest.fixture
def root(s3: S3, tmp_path: Path) -> str:
    """URL of tokens on S3, and the same below tmp_path/local."""
    url = f"{s3.bucket(f'cache-{next(BUCKETS)}')}/out/tokens"
    for seed, name in enumerate(("a", "b")):
        write_columns(tmp_path / "local", name, ROWS, seed)
    upload(tmp_path / "local", url)
    return url


def upload(folder: Path, url: str) -> None:
    for path in (folder / "tokens").rglob("*.parquet"):
        storage.put(f"{url}/{path.relative_to(folder / 'tokens')}", path.read_bytes())


def shards(folder: Path) -> list[ShardRows]:
    """With the sums of their footers, as the ledger has them."""
    of = {n: {s.name: footers.digest_at(f"{folder}/tokens/{s.name}/{n}.parquet") for s in SPECS} for n in ("a", "b")}
    return [ShardRows(name, ROWS, sums) for name, sums in of.items()]


def batches(url: str, tmp_path: Path, start: int = 0, count: int = 6, **options: Any) -> list[bytes]:
    """The first batches from a step on, by a loader of its own; 6 of 8 samples are an epoch."""
    loader = TokenLoader(
        url, shards(tmp_path / "local"), SPECS, MASKING, 1,
        LoaderOptions(lanes=2, buffer_rows=16, read_ahead=1, prefetch=1, cache=CacheOptions(str(tmp_path), **options)),
    )  # fmt: skip
    made = loader.batches(start, 8)
    taken = [next(made)[1] for _ in range(count)]
    made.close()
    return [bytes(batch.input_ids) + bytes(batch.target_ids) + bytes(batch.values["rgb"]) for batch in taken]


def files(tmp_path: Path) -> list[Path]:
    return [path for path, _ in cache._files(tmp_path / cache.NAME)]


def test_what_was_read_once_is_not_asked_for_again(root: str, s3: S3, tmp_path: Path) -> None:
    local = batches(f"{tmp_path}/local/tokens", tmp_path, count=12)
    assert not files(tmp_path), "columns of this machine need no cache"
    assert batches(root, tmp_path, count=6) == local[:6]
    seen = len(s3.requests)
    assert batches(root, tmp_path, start=6) == local[6:], "the second epoch, after a restart"
    assert len(s3.requests) == seen


def test_a_size_of_0_keeps_nothing(root: str, s3: S3, tmp_path: Path) -> None:
    batches(root, tmp_path, gigabytes=0.0)
    assert not (tmp_path / cache.NAME).exists()


@pytest.mark.parametrize("how", ["byte", "cut", "empty", "swapped"])
def test_a_damaged_file_is_read_again(root: str, s3: S3, tmp_path: Path, how: str) -> None:
    expected = batches(root, tmp_path)
    kept = files(tmp_path)
    for path, other in zip(kept, kept[1:] + kept[:1], strict=True):
        raw = path.read_bytes()
        new = {"byte": bytes([raw[0] ^ 1]) + raw[1:], "cut": raw[:-1], "empty": b"", "swapped": other.read_bytes()}
        path.write_bytes(new[how])
    assert batches(root, tmp_path) == expected
    seen = len(s3.requests)
    assert batches(root, tmp_path) == expected and len(s3.requests) == seen


def test_what_a_killed_process_left_is_nothing(root: str, tmp_path: Path) -> None:
    expected = batches(root, tmp_path)
    kept = files(tmp_path)
    for path in kept:
        path.rename(path.with_name(f".tmp-1-1-{path.name}"))
        os.utime(path.with_name(f".tmp-1-1-{path.name}"), (0, 0))
    (tmp_path / cache.NAME / "size").unlink()
    assert batches(root, tmp_path) == expected
    assert sorted(files(tmp_path)) == sorted(kept), "old ones are deleted when the files are counted"


def test_a_column_that_was_made_again_is_another_one(root: str, tmp_path: Path) -> None:
    before = batches(root, tmp_path)
    write_columns(tmp_path / "local", "a", ROWS, seed=7)
    upload(tmp_path / "local", root)
    after = batches(root, tmp_path)
    assert after != before and after == batches(f"{tmp_path}/local/tokens", tmp_path)


def test_a_file_without_sums_is_known_by_its_version(root: str, s3: S3, tmp_path: Path) -> None:
    """As releases made them before there were sums: equal footers do not say that rows are equal."""
    import pyarrow.parquet as pq

    url, path = f"{root}/tok_rgb/a.parquet", tmp_path / "local/tokens/tok_rgb/a.parquet"
    one = ColumnCache(root, CacheOptions(str(tmp_path)))
    for seed in (0, 7):
        write_columns(tmp_path / "local", "a", ROWS, seed)
        table = pq.read_table(path)
        pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
        storage.put(url, path.read_bytes())
        expected = ColumnReader(str(path)).read().values
        for turn in range(2):
            reader, seen = ColumnReader(url, "", one), len(s3.requests)
            assert reader.read().values.tolist() == expected.tolist()
            assert len(s3.requests) - seen == (turn == 0)


def test_a_full_disk_ends_the_cache_and_nothing_else(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = batches(f"{tmp_path}/local/tokens", tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert batches(root, tmp_path) == expected
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "takes no more (it cannot be written: [Errno 28]" in said[0]
    assert not files(tmp_path)


def test_a_folder_that_is_none_ends_the_cache_and_nothing_else(root: str, tmp_path: Path) -> None:
    (tmp_path / cache.NAME).write_text("")
    assert batches(root, tmp_path) == batches(f"{tmp_path}/local/tokens", tmp_path)


def test_somebody_elses_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / cache.NAME).symlink_to(tmp_path / "elsewhere")
    one = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path), 1.0))
    one.put("a", b"a")
    assert "belongs to somebody else" in one.trouble and not list((tmp_path / "elsewhere").rglob("*/*/*"))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path), 10_000 / 1e9))
    for name in "abc":
        one.put(name, bytes(3000))
        os.utime(one._path(name), (1000 + ord(name),) * 2)
    assert one.get("a") is not None  # used now
    one.put("d", bytes(3000))
    assert [name for name in "abcd" if one.get(name)] == ["a", "c", "d"]
    # All of them were used by this run: what is new is not kept.
    one.put("e", bytes(3000))
    assert one.get("e") is None and "full" in one.trouble
    monkeypatch.setattr(cache, "_BEGUN", time.time() + 1)
    later = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path), 10_000 / 1e9))
    later.put("e", bytes(3000))
    assert later.get("e") is not None


def test_the_disk_keeps_some_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "RESERVE", 1 << 62)
    one = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path), 1e6))
    one.put("a", b"a")
    assert one.get("a") is None and "full" in one.trouble


def test_another_file_in_the_folder_is_never_deleted(tmp_path: Path) -> None:
    one = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path), 1e-6))
    own = one._path("a").parent / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    os.utime(own, (0, 0))
    one.put("a", bytes(100_000))
    assert one.trouble and own.exists()


def _fill(folder: str, number: int) -> None:
    one = ColumnCache(f"s3://bucket/{number % 2}", CacheOptions(folder, 1e-4))
    for i in range(60):
        one.put(f"{number} {i}", bytes(1000 + number))
        assert one.get(f"{number} {i}") in (None, bytes(1000 + number))


def test_several_processes_share_one_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(str(tmp_path), number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert 90_000 < size <= 100_000 and int((tmp_path / cache.NAME / "size").read_text()) >= size


def test_what_is_kept_of_a_root_can_be_deleted(root: str, tmp_path: Path) -> None:
    batches(root, tmp_path)
    other = ColumnCache("s3://bucket/tokens", CacheOptions(str(tmp_path)))
    other.put("a", b"a")
    assert cache.forget(root, CacheOptions(str(tmp_path)))
    assert other.get("a") == b"a" and len(files(tmp_path)) == 1
    assert cache.forget(root, CacheOptions(str(tmp_path))) is None
