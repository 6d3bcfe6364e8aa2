"""Storage that refuses, drops, cuts, is late or forgets: asked again while that helps, and no longer."""

from __future__ import annotations

import errno
import functools
import http.server
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fourmill_tests import data
from fourmill_tests.s3 import LATE_SECONDS, S3
from fsspec.implementations.local import LocalFileSystem

from fourmill.infra import faults, remote, storage
from fourmill.pipelines import source

BUCKETS = itertools.count()
DATA = bytes(range(256)) * 1000


@pytest.fixture
def folder(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a bucket, by a client that leaves the asking to us."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    storage.reconnect()
    yield storage.join(s3.bucket(f"remote-{next(BUCKETS)}"), "x")
    s3.troubles.clear()
    storage.reconnect()


@pytest.mark.parametrize("kind", ["409", "429", "500", "503", "drop", "lost", "cut"])
def test_what_a_store_answers_twice_changes_nothing(folder: str, s3: S3, kind: str) -> None:
    url, claimed = storage.join(folder, "a"), storage.join(folder, "claimed")
    storage.put(storage.join(folder, "first"), b"")

    def twice() -> None:
        s3.troubles.extend([kind, kind])

    twice()
    assert storage.put(url, DATA)
    twice()
    assert storage.put(claimed, DATA, if_absent=True)
    s3.troubles.clear()
    assert not storage.put(claimed, b"other", if_absent=True)
    twice()
    assert storage.read_bytes(url) == DATA
    twice()
    with storage.open_binary(url) as file:
        parts = [file.read(1000)]
        twice()
        file.seek(200_000)
        parts.append(file.read())
    assert parts == [DATA[:1000], DATA[200_000:]]
    twice()
    assert storage.list_names(folder) == ["a", "claimed", "first"]
    twice()
    assert storage.exists(url)
    twice()
    storage.delete(url)
    s3.troubles.clear()
    assert not storage.exists(url)


def test_a_late_answer_is_asked_for_again(folder: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    url = storage.join(folder, "a")
    storage.put(url, DATA)
    monkeypatch.setattr(remote, "REQUEST_SECONDS", LATE_SECONDS / 5)
    s3.troubles.append("late")
    assert storage.list_names(folder) == ["a"]


def test_what_lasts_is_an_error_that_says_where(folder: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DEADLINE_SECONDS", 0.5)
    storage.put(storage.join(folder, "a"), DATA)
    s3.troubles.extend(["503"] * 50)
    with pytest.raises(OSError, match=rf"{folder}/a: .*Unavailable") as raised:
        storage.read_bytes(storage.join(folder, "a"))
    assert faults.name(raised.value) == "busy" and len(s3.troubles) < 50


@pytest.mark.parametrize(
    ("error", "calls"), [(FileNotFoundError("x"), 1), (PermissionError(errno.EACCES, "no"), 1), (ValueError("x"), 1)]
)
def test_what_time_does_not_mend_is_not_asked_again(error: Exception, calls: int) -> None:
    count = itertools.count(1)

    def call() -> None:
        next(count)
        raise error

    with pytest.raises(type(error)):
        remote.ask("s3://bucket/x", None, call)
    assert next(count) == calls + 1


def test_a_place_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_SECONDS", 0.1)
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/x: cannot be reached"):
        storage.read_bytes("http://127.0.0.1:9/x")


def test_a_file_that_is_replaced_while_it_is_read_is_none(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = storage.join(folder, "a")
    storage.put(url, DATA)
    with storage.open_binary(url) as file:
        assert file.read(10) == DATA[:10]
        storage.put(url, DATA[::-1])
        with pytest.raises(OSError, match=r"a: it was replaced while it was read"):
            file.seek(-10, os.SEEK_END) and file.read()


def test_reads_take_few_requests_and_few_bytes(folder: str, s3: S3) -> None:
    url = storage.join(folder, "a")
    storage.put(url, DATA * 20)
    seen = len(s3.requests)
    with storage.open_binary(url) as file:
        assert b"".join(iter(lambda: file.read(512), b"")) == DATA * 20
    assert len(s3.requests) - seen < 10
    with storage.open_binary(url) as file:
        seen = len(s3.requests)
        file.seek(3_000_000)
        assert file.read(100) == (DATA * 20)[3_000_000:3_000_100]
    assert len(s3.requests) - seen == 1


def test_a_shard_is_read_once(folder: str, s3: S3, tmp_path: Path) -> None:
    """All its samples, in any order, take each of its bytes once, and few requests."""
    (path,) = data.good_shards(tmp_path, 1, 30)
    url, size = storage.join(folder, "a.tar"), Path(path).stat().st_size
    storage.put(url, Path(path).read_bytes())
    s3.headers.clear()
    s3.keeps_headers = True
    try:
        with source.open_shard(url, tmp_path) as shard:
            for sample in reversed(shard.samples):
                assert shard.image(sample) and shard.caption(sample)
            shard.origin(hashed_before=False)
    finally:
        s3.keeps_headers = False
    ranges = [one["range"].removeprefix("bytes=").split("-") for one in s3.headers if "range" in one]
    assert sum(int(end) + 1 - int(start) for start, end in ranges) == size
    assert len(s3.headers) <= 4


@pytest.mark.parametrize("conditions", ["501", "ignored"])
def test_a_store_without_conditional_puts_is_found_at_once(folder: str, s3: S3, conditions: str) -> None:
    s3.conditions = conditions
    try:
        with pytest.raises(ValueError, match=r"root: cannot write below s3://.*conditional PUTs"):
            storage.check_writable(folder)
    finally:
        s3.conditions = ""
    assert storage.list_names(folder) == []
    storage.check_writable(folder)


def test_options_of_the_client_come_from_the_environment(s3: S3, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Requester pays and KMS, as docs/storage-and-clusters.md says."""
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"requester_pays": True, "s3_additional_kwargs": kms})
    storage.reconnect()
    s3.headers.clear()
    s3.keeps_headers = True
    try:
        storage.put(storage.join(folder, "a"), DATA)
        with storage.open_binary(storage.join(folder, "a")) as file:
            assert file.read() == DATA
    finally:
        s3.keeps_headers = False
    put, *_, get = s3.headers
    assert put["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert get["x-amz-request-payer"] == put["x-amz-request-payer"] == "requester"


def test_renewed_credentials_are_used(s3: S3, monkeypatch: pytest.MonkeyPatch, folder: str, tmp_path: Path) -> None:
    """Those of a role come with a time of expiry, and are asked for again before it."""
    renewed = tmp_path / "renewed"
    script = tmp_path / "renew.sh"
    script.write_text(
        f"#!/bin/sh\necho x >> {renewed}\nN=$(wc -l < {renewed})\n"
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"role-$N\\", \\"SecretAccessKey\\": \\"s\\", '
        '\\"SessionToken\\": \\"t\\", \\"Expiration\\": \\"$(date -u -d "+60 seconds" +%Y-%m-%dT%H:%M:%SZ)\\"}"\n'
    )
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage.reconnect()
    s3.headers.clear()
    s3.keeps_headers = True
    try:
        for _ in range(2):
            storage.put(storage.join(folder, "a"), DATA)
    finally:
        s3.keeps_headers = False
    used = {headers["authorization"].partition("Credential=")[2].partition("/")[0] for headers in s3.headers}
    assert len(used) > 1 and all(name.startswith("role-") for name in used)


class Breaking(http.server.SimpleHTTPRequestHandler):
    """A server that knows no ranges, and hangs up in the middle of each of its first files."""

    left = 2

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if Breaking.left:
            Breaking.left -= 1
            outputfile.write(source.read(100_000))
            self.close_connection = True
            return
        super().copyfile(source, outputfile)

    def log_message(self, *_: object) -> None:
        pass


def test_a_stream_that_breaks_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(DATA)
    monkeypatch.setattr(Breaking, "left", 2)
    handler = functools.partial(Breaking, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with storage.open_binary(f"http://127.0.0.1:{server.server_port}/a") as file:
            assert file.read(50_000) + file.read() == DATA
            assert file.seek(100) and file.read(10) == DATA[100:110]
        server.shutdown()


class Ranged(http.server.BaseHTTPRequestHandler):
    """A server that answers ranges. HEAD is refused, as of a signed URL."""

    content, etag, modified, now = DATA, "", "", ""

    def do_GET(self) -> None:
        start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = self.content[int(start) : int(end) + 1]
        self.send_response(206 if part else 416)
        said = {"ETag": self.etag, "Last-Modified": self.modified}
        said |= {"Content-Range": f"bytes {start}-{end}/{len(self.content)}", "Content-Length": str(len(part))}
        for name, value in said.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        self.send_error(403)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.now or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def ranged() -> Iterator[tuple[str, type[Ranged]]]:
    handler = type("Handler", (Ranged,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a", handler
        server.shutdown()


JULY, LATER, NEXT = (f"Sat, 01 Jul 2023 10:00:{seconds} GMT" for seconds in ("00", "05", "06"))
NEXT_DAY = "Sun, 02 Jul 2023 10:00:00 GMT"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"1"'}, {"etag": '"2"'}),
        ({"modified": JULY}, {"modified": LATER}),
        ({"etag": '"1"', "modified": JULY}, {"etag": '"1"', "modified": LATER}),
        ({"etag": '"1"', "modified": JULY, "now": LATER}, {"etag": '"2"'}),
        ({}, {"content": DATA + b"1"}),
        ({}, {"content": DATA[:1000]}),
    ],
)
def test_a_file_that_a_web_server_replaces_meanwhile_is_none(
    ranged: tuple[str, type[Ranged]], before: dict[str, Any], after: dict[str, Any]
) -> None:
    url, handler = ranged
    for name, value in before.items():
        setattr(handler, name, value)
    with storage.open_binary(url) as file:
        assert file.read(10) == DATA[:10]
        for name, value in after.items():
            setattr(handler, name, value)
        file.seek(200_000)
        with pytest.raises(OSError, match=r"/a: it was replaced while it was read"):
            file.read(10)


def test_a_web_server_of_several_machines_is_one(ranged: tuple[str, type[Ranged]]) -> None:
    """Each has another ETag for the same file, which none has changed for a day."""
    url, handler = ranged
    handler.modified, handler.now, handler.etag = JULY, NEXT_DAY, '"1"'
    with storage.open_binary(url) as file:
        assert file.read(10) == DATA[:10]
        handler.etag = '"2"'
        file.seek(200_000)
        assert file.read() == DATA[200_000:]


def test_an_empty_file_of_a_web_server_is_one(ranged: tuple[str, type[Ranged]]) -> None:
    url, handler = ranged
    handler.content = b""
    with storage.open_binary(url) as file:
        assert file.read() == b""


class Hanging(LocalFileSystem):
    """A filesystem that waits for its answers itself, as sftp, smb and ftp do, and never gets the first ones."""

    protocol, cachable, hangs = "hanging", True, 0
    asked: list[Any] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("hanging://")

    def _wait(self) -> None:
        Hanging.asked.append(self)
        if Hanging.hangs:
            Hanging.hangs -= 1
            threading.Event().wait(60)

    def info(self, path: str, **options: Any) -> Any:
        self._wait()
        return super().info(path, **options)

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._wait()
        return super()._open(path, *arguments, **options)


@pytest.mark.parametrize("hangs", [0, 1, 2])
def test_a_filesystem_that_waits_by_itself_has_limits_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: int
) -> None:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    (tmp_path / "a").write_bytes(DATA)
    url = f"hanging://{tmp_path}/a"
    assert storage.stat(url) is not None, "a place that has answered once is asked again"
    for first in (0, 100_000):
        Hanging.hangs = hangs
        Hanging.asked.clear()
        with storage.open_binary(url) as file:
            file.seek(first)
            assert file.read(1000) == DATA[first : first + 1000]
        # What hangs may hold its connection for ever: nobody else uses that.
        assert len({id(fs) for fs in Hanging.asked}) == 1 + hangs
    storage.reconnect()


def test_a_filesystem_that_never_answers_is_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(remote, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(Hanging, "hangs", 1000)
    storage.reconnect()
    with pytest.raises(ConnectionError) as raised:
        storage.exists(f"hanging://never/{tmp_path}/a")
    assert faults.name(raised.value) == "network" and "hanging://never" in str(raised.value)
