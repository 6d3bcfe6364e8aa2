"""Whole files or nothing, on the local disk, in memory and on a real S3 server."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fourmill_tests.s3 import S3

from fourmill.infra import storage

BUCKETS = itertools.count()


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder on each kind of storage."""
    if request.param == "local":
        yield str(tmp_path / "data")
    elif request.param == "memory":
        yield "memory://storage-test/data"
        fs = fsspec.filesystem("memory")
        if fs.exists("/storage-test"):
            fs.rm("/storage-test", recursive=True)
    else:
        server: S3 = request.getfixturevalue("s3")
        yield storage.join(server.bucket(f"storage-{next(BUCKETS)}"), "data")


def test_what_is_put_is_there(folder: str) -> None:
    url = storage.join(folder, "a", "b.bin")
    assert storage.stat(url) is None and not storage.exists(url)
    assert storage.put(url, b"one")
    assert storage.read_bytes(url) == b"one"
    stat = storage.stat(url)
    assert stat is not None and stat.size == 3 and stat.version
    assert storage.sha256(url) == hashlib.sha256(b"one").hexdigest()
    with storage.open_binary(url) as file:
        file.seek(1)
        assert file.read(1) == b"n"


def test_put_replaces_and_the_version_says_so(folder: str) -> None:
    url = storage.join(folder, "x")
    storage.put(url, b"one")
    before = storage.stat(url)
    assert storage.put(url, b"two, which is longer")
    after = storage.stat(url)
    assert before is not None and after is not None and before.version != after.version
    assert after.size == 20 and storage.read_bytes(url) == b"two, which is longer"


def test_if_absent_keeps_what_is_there(folder: str) -> None:
    url = storage.join(folder, "claim")
    assert storage.put(url, b"first", if_absent=True)
    assert storage.put(url, b"second", if_absent=True) is None
    assert storage.read_bytes(url) == b"first"
    storage.delete(url)
    assert storage.put(url, b"third", if_absent=True)


def test_delete_of_nothing_is_nothing(folder: str) -> None:
    storage.put(storage.join(folder, "kept"), b"")
    storage.delete(storage.join(folder, "never-there"))
    assert storage.list_names(folder) == ["kept"]


def test_names_are_sorted_and_without_temporary_files(folder: str) -> None:
    assert storage.list_names(folder) == []
    for name in ("b.json", "a.json", "sub/c.json", f"{storage.TEMPORARY_PREFIX}1-d.json"):
        storage.put(storage.join(folder, name), b"{}")
    assert storage.list_names(folder) == ["a.json", "b.json", "sub"]
    storage.put(storage.join(folder, "0.json"), b"{}")
    assert storage.list_names(folder)[0] == "0.json"  # no stale listing


def test_reading_what_is_not_there_names_it(folder: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.bin"):
        storage.read_bytes(storage.join(folder, "nowhere.bin"))


def test_a_claim_has_one_winner(folder: str) -> None:
    url = storage.join(folder, "claim")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.put(url, b"%d" % i * 1000, if_absent=True), range(8)))
    assert won.count(None) == 7
    assert storage.read_bytes(url) == b"%d" % next(i for i, one in enumerate(won) if one) * 1000


def test_readers_never_see_half_a_file(folder: str) -> None:
    url = storage.join(folder, "busy")
    contents = [bytes([i]) * 200_000 for i in range(4)]
    storage.put(url, contents[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(storage.read_bytes(url))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: storage.put(url, contents[i % 4]), range(40)))
    stop.set()
    reader.join()
    assert seen and seen <= set(contents)


def test_check_writable_leaves_nothing(folder: str) -> None:
    storage.put(storage.join(folder, "x"), b"")
    storage.check_writable(folder)
    assert storage.list_names(folder) == ["x"]


def test_local_folder_brings_the_named_files(folder: str) -> None:
    storage.put(storage.join(folder, "a"), b"1")
    storage.put(storage.join(folder, "b"), b"2")
    with storage.local_folder(folder, ["a", "b"]) as local:
        assert (local / "a").read_bytes() == b"1" and (local / "b").read_bytes() == b"2"
    assert storage.read_bytes(storage.join(folder, "a")) == b"1"


# S3 alone


def test_on_s3_a_put_is_one_request_and_nothing_is_copied(s3: S3) -> None:
    url = storage.join(s3.bucket("one-put"), "a/b")
    seen = len(s3.requests)
    storage.put(url, b"x" * 1000)
    storage.put(storage.join(url, "c"), b"x" * 1000, if_absent=True)
    requests = [r for r in s3.requests[seen:] if r.method in ("PUT", "POST", "DELETE")]
    assert [(r.method, r.path, r.if_none_match) for r in requests] == [
        ("PUT", "/one-put/a/b", ""),
        ("PUT", "/one-put/a/b/c", "*"),
    ]
    assert not any(r.copies or "upload" in r.query for r in requests)


def test_on_s3_another_error_than_a_lost_claim_is_no_lost_claim(s3: S3) -> None:
    with pytest.raises(OSError):
        storage.put("s3://no-such-bucket-anywhere/x", b"", if_absent=True)


# local alone


@pytest.mark.parametrize(("step", "if_absent"), [("fsync", False), ("fsync", True), ("replace", False), ("link", True)])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, if_absent: bool
) -> None:
    path = tmp_path / "x"
    if not if_absent:
        path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        storage.put(str(path), b"new", if_absent=if_absent)
    assert [p.name for p in tmp_path.iterdir()] == ([] if if_absent else ["x"])
    assert if_absent or path.read_bytes() == b"old"


def test_an_unknown_storage_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"foo://a/b: fsspec knows no storage foo://"):
        storage.read_bytes("foo://a/b")


def test_a_file_is_not_put_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError, match=r"name: there is a folder of this name"):
        storage.put(str(tmp_path / "name"), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_what_a_killed_writer_left_is_no_file(tmp_path: Path) -> None:
    (tmp_path / f"{storage.TEMPORARY_PREFIX}123-abcd-x.json").write_bytes(b"hal")
    assert storage.list_names(str(tmp_path)) == []


def test_an_unwritable_root_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot write below .*file/out"):
        storage.check_writable(str(file / "out"))


def test_absolute_makes_local_paths_absolute_and_leaves_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("out") == str(tmp_path.resolve() / "out")
    assert storage.absolute("file:///a/b") == "/a/b"
    assert storage.absolute("s3://b/x") == "s3://b/x"
    with pytest.raises(ValueError, match="no local path"):
        storage.local_path("s3://b/x")


def test_what_a_library_writes_follows_the_umask(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"new")
        path.chmod(0o600)

    before = os.umask(0o027)
    try:
        with storage.replaced(tmp_path / "folder/x") as path:
            write(path)
    finally:
        os.umask(before)
    assert (tmp_path / "folder/x").read_bytes() == b"new" and (tmp_path / "folder/x").stat().st_mode & 0o777 == 0o640
    with pytest.raises(KeyError), storage.replaced(tmp_path / "folder/x") as path:
        path.write_bytes(b"half")
        raise KeyError
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["x"]
    assert (tmp_path / "folder/x").read_bytes() == b"new"
