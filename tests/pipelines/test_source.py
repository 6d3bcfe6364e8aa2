"""From what a recipe names to samples that can be read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from fourmill.infra import ledger, storage
from fourmill.pipelines import patterns, shard_names, source
from fourmill.pipelines.reject import Reject


def make_tar(entries: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def bucket() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


def put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(data)


# expand


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s3://b/{0..2}.tar", ["s3://b/0.tar", "s3://b/1.tar", "s3://b/2.tar"]),
        ("s3://b/{08..11}.tar", ["s3://b/08.tar", "s3://b/09.tar", "s3://b/10.tar", "s3://b/11.tar"]),
        ("s3://b/{9..11}.tar", ["s3://b/9.tar", "s3://b/10.tar", "s3://b/11.tar"]),
        ("s3://b/{2..0}.tar", ["s3://b/2.tar", "s3://b/1.tar", "s3://b/0.tar"]),
        ("s3://b/{x,y}-{0,1}.tar", ["s3://b/x-0.tar", "s3://b/x-1.tar", "s3://b/y-0.tar", "s3://b/y-1.tar"]),
        ("s3://b/{one}{a,}.tar", ["s3://b/{one}a.tar", "s3://b/{one}.tar"]),
        ("https://h/a.tar?sig=b*", ["https://h/a.tar?sig=b*"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert source.expand(pattern) == expected


def test_local_names_become_absolute_and_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = [str(tmp_path / "d/0.tar"), str(tmp_path / "d/1.tar")]
    assert source.expand("d/{0..1}.tar") == expected
    assert source.expand(["file://" + expected[0], "d/1.tar"]) == expected


def test_folders_and_globs_are_sorted(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt", "sub.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    expected = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert source.expand(str(tmp_path)) == expected
    assert source.expand(f"{tmp_path}/*.tar") == expected
    assert source.expand(f"{tmp_path}/{{a,b}}*r") == expected
    assert source.expand([f"{tmp_path}/?.txt", str(tmp_path / "a.tar")]) == [str(tmp_path / "c.txt"), expected[0]]


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(make_tar([]))
    (tmp_path / "00000.tar").symlink_to(tmp_path / "blob")
    names = shard_names.assign(source.expand(str(tmp_path / "00000.tar")))
    assert names == {"00000": str(tmp_path / "00000.tar")}


def test_remote_folders_and_globs(bucket: str) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        put(f"{bucket}/{name}", b"x")
    expected = [f"{bucket}/a.tar", f"{bucket}/b.tar"]
    assert source.expand(bucket) == expected
    assert [url.replace(":///", "://") for url in source.expand(f"{bucket}/*.tar")] == expected


NAMES = ["run[1]/a[0].tar", "run[1]/a[1].tar", "run[1]/sub/b.tar", "run1/c.tar", "run1/d.tar"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("run[1]/a[0].tar", [0]),  # a name
        ("run[1]", [0, 1]),  # a folder
        ("run[1]/*.tar", [0, 1]),  # a pattern in a folder whose name looks like one
        ("run[1]/a[0]*", [0]),
        ("run[1]/*/*.tar", [2]),
        ("run[1]/**/*.tar", [0, 1, 2]),
        ("run1/[cd].tar", [3, 4]),
        ("run?/?.tar", [3, 4]),
        ("run[[]1]/a*.tar", [0, 1]),
    ],
)
@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_names_with_brackets(
    pattern: str, expected: list[int], place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path)
    if place == "s3":
        url = request.getfixturevalue("s3").bucket(f"brackets{zlib.crc32(pattern.encode())}")
    if place == "memory":
        url = request.getfixturevalue("bucket")
    for name in NAMES:
        if place == "local":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        put(f"{url}/{name}", b"x")
    found = [found.replace(":///", "://") for found in source.expand(f"{url}/{pattern}")]
    assert found == [f"{url}/{NAMES[row]}" for row in expected]


def test_braces_of_a_name_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a{0..1}.tar").write_bytes(b"x")
    assert source.expand(f"{tmp_path}/a{{0..1}}.tar") == [f"{tmp_path}/a{{0..1}}.tar"]


@pytest.mark.parametrize("name", ["run[1]/a{0..3}.tar", "x{0..3}[ab]/c*?.tar", "{p,q}/[[]].tar", "plain/0.tar"])
@pytest.mark.parametrize("there", [True, False])
def test_a_name_that_is_written_as_such_means_itself(tmp_path: Path, bucket: str, name: str, there: bool) -> None:
    put(f"{bucket}/keep", b"x")
    for place in (str(tmp_path), bucket):
        if there:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            put(f"{place}/{name}", b"x")
        url = f"{place}/{name}"
        assert patterns.spelled(patterns.literal(url)) in (url, None)
        (found,) = source.expand(patterns.literal(url))
        assert found.replace(":///", "://") == url
        assert source.expand(patterns.literal(url), [url], gone := set()) == [found] and not gone
    assert patterns.spelled("a[1]*.tar") is patterns.spelled("[ab].tar") is patterns.spelled("[*]{0..1}.tar") is None


@pytest.mark.parametrize("spec", ["{}", "{}/nothing", "{}/*.tar"])
def test_finding_nothing_is_an_error_with_the_pattern(spec: str, tmp_path: Path) -> None:
    pattern = spec.replace("{}", str(tmp_path))
    with pytest.raises(ValueError, match="nothing found at") as error:
        source.expand(pattern)
    assert pattern in str(error.value)


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty list"):
        source.expand([])


def test_a_missing_remote_folder_is_an_error(bucket: str) -> None:
    put(f"{bucket}/keep", b"x")
    with pytest.raises(ValueError, match="no folder with a"):
        source.expand(f"{bucket}/missing")


# opening


ENTRIES = [("a.jpg", b"image a"), ("a.txt", b"caption a"), ("b.png", b"image b")]


def check(shard: source.Shard, stored: bytes) -> None:
    assert [sample.key for sample in shard.samples] == ["a", "b"]
    assert shard.rejects == []
    a, b = shard.samples
    assert (shard.image(a), shard.image(b)) == (b"image a", b"image b")
    assert (shard.caption(a), shard.caption(b)) == ("caption a", None)
    assert shard.size == len(stored)
    assert shard.sha256 == hashlib.sha256(stored).hexdigest()
    assert shard.read(a, "txt") == b"caption a"  # still, after the hash has moved the file's position


@pytest.mark.parametrize("packed", [False, True])
def test_local_and_remote_plain_and_gzip(packed: bool, tmp_path: Path, bucket: str) -> None:
    data = make_tar(ENTRIES)
    stored = gzip.compress(data) if packed else data
    scratch = tmp_path / "scratch"
    (tmp_path / "s.tar").write_bytes(stored)
    put(f"{bucket}/s.tar", stored)
    for url in (str(tmp_path / "s.tar"), f"file://{tmp_path}/s.tar", f"{bucket}/s.tar"):
        with source.open_shard(url, scratch) as shard:
            check(shard, stored)
            assert list(scratch.iterdir() if scratch.exists() else []) == [], "scratch files have no name"


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    contents = {f"{i:03d}": os.urandom(1 + 997 * i) for i in range(60)}
    (tmp_path / "s.tar").write_bytes(make_tar([(f"{key}.jpg", data) for key, data in contents.items()]))
    with source.open_shard(str(tmp_path / "s.tar"), tmp_path) as shard, ThreadPoolExecutor(8) as pool:
        for sample, data in zip(shard.samples, pool.map(shard.image, shard.samples), strict=True):
            assert data == contents[sample.key]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
def test_a_truncated_gzip_keeps_what_is_whole(share: float, tmp_path: Path) -> None:
    rng = random.Random(0)
    data = make_tar([(f"{i}.jpg", rng.randbytes(2000)) for i in range(10)])
    stored = gzip.compress(data)
    stored = stored[: int(len(stored) * share)]
    left = len(zlib.decompressobj(wbits=31).decompress(stored))
    (tmp_path / "s.tar.gz").write_bytes(stored)
    with source.open_shard(str(tmp_path / "s.tar.gz"), tmp_path) as shard:
        member = 512 + 2048
        assert [sample.key for sample in shard.samples] == [str(i) for i in range(10) if i * member + 2512 <= left]
        reasons = [reason for key, reason in shard.rejects if not key]
        assert any("gzip" in reason for reason in reasons)
        assert any("tar: truncated" in reason for reason in reasons) == (left < len(data))


@pytest.mark.parametrize("url", ["/nowhere/0.tar", "memory://nowhere/0.tar"])
def test_a_missing_shard_is_named(url: str, tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=f"shard {url}: there is no such file"),
        source.open_shard(url, tmp_path),
    ):
        pass


@pytest.mark.parametrize("data", [b"", b"<html>not here</html>", gzip.compress(b"no tar", mtime=0)])
def test_what_is_no_tar_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"shard {path}: not a tar archive"), source.open_shard(str(path), tmp_path):
        pass


def test_a_folder_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got a folder"), source.open_shard(str(tmp_path), tmp_path):
        pass


def test_a_sample_without_an_image_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(make_tar([("a.txt", b"x")]))
    with source.open_shard(str(tmp_path / "s.tar"), tmp_path) as shard, pytest.raises(Reject, match="there is none"):
        shard.image(shard.samples[0])


def test_images_of_absurd_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.tar").write_bytes(make_tar([("a.jpg", b"12345"), ("b.jpg", b"1234")]))
    monkeypatch.setattr(source, "_MAX_IMAGE_BYTES", 4)
    with source.open_shard(str(tmp_path / "s.tar"), tmp_path) as shard:
        with pytest.raises(Reject, match="image: 5 bytes"):
            shard.image(shard.samples[0])
        assert shard.image(shard.samples[1]) == b"1234"


def test_a_local_shard_that_changes_is_told(tmp_path: Path) -> None:
    """Overwritten in place, replaced, or only touched: its bytes decide where they were summed before."""
    path = tmp_path / "s.tar"
    data = make_tar([("a.jpg", b"x" * 900)])
    path.write_bytes(data)
    with source.open_shard(str(path), tmp_path) as shard:
        assert shard.origin(False) == ledger.Source(len(data), str(path.stat().st_mtime_ns), _sha256(data))
    with source.open_shard(str(path), tmp_path) as shard:
        os.utime(path, (1, 1))
        with pytest.raises(source.Changed, match="changed while it was read"):
            shard.origin(False)
    with source.open_shard(str(path), tmp_path) as shard:
        assert shard.sha256 == _sha256(data)
        os.utime(path, (2, 2))
        assert shard.origin(True) == ledger.Source(len(data), str(path.stat().st_mtime_ns), _sha256(data))
    with source.open_shard(str(path), tmp_path) as shard:
        assert shard.sha256 == _sha256(data)
        path.write_bytes(make_tar([("a.jpg", b"y" * 900)]))
        with pytest.raises(source.Changed):
            shard.origin(True)


def test_a_remote_shard_that_changes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://changing/s.tar"
    data = make_tar([("a.jpg", b"x" * 900)])
    put(url, data)
    with source.open_shard(url, tmp_path) as shard:
        origin = shard.origin(False)
        put(url, data + data)  # after it was fetched: what was read is what counts
        assert origin == shard.origin(False) and (origin.size, origin.sha256) == (len(data), _sha256(data))
    sizes = iter((1, 2))
    monkeypatch.setattr(storage, "stat", lambda _: storage.Stat(next(sizes), "v"))
    with pytest.raises(source.Changed, match="while it was fetched"), source.open_shard(url, tmp_path):
        pass


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_file_cut_while_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(make_tar([("a.jpg", b"x" * 900)]))
    with source.open_shard(str(path), tmp_path) as shard:
        os.truncate(path, 1000)
        with pytest.raises(OSError, match="read 488 of 900 bytes"):
            shard.image(shard.samples[0])


# captions and sidecars


Opener = Callable[..., source.Shard]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Opener]:
    """A function that opens a shard of the one sample `a`, made of the given members (extension=bytes)."""
    with ExitStack() as stack:

        def make(**members: bytes) -> source.Shard:
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tar"
            path.write_bytes(make_tar([(f"a.{extension}", data) for extension, data in members.items()]))
            return stack.enter_context(source.open_shard(str(path), tmp_path))

        yield make


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"txt": b"plain\n"}, "plain\n"),
        ({"txt": b"\xef\xbb\xbfmark"}, "mark"),
        ({"txt": "caf\u00e9 \U0001f600".encode("utf-16")}, "caf\u00e9 \U0001f600"),
        ({"txt": b" \n\t", "json": b'{"caption": "from json"}'}, "from json"),
        ({"txt": b"text", "json": b'{"caption": "from json"}'}, "text"),
        ({"json": b'{"text": "second", "caption": ""}'}, "second"),
        ({"json": b'\xef\xbb\xbf{"caption": "mark"}'}, "mark"),
        ({"json": b'{"caption": 5}'}, None),
        ({"json": b'{"caption": null}'}, None),
        ({"txt": b""}, None),
        ({"jpg": b"x"}, None),
        ({"txt": b"x" * 2**20}, "x" * 2**20),
    ],
)
def test_captions(one: Opener, members: dict[str, bytes], expected: str | None) -> None:
    shard = one(**members)
    assert shard.caption(shard.samples[0]) == expected
    assert shard.rejects == []


def test_caption_fields_are_an_argument(one: Opener) -> None:
    shard = one(json=b'{"caption": "c", "alt": "a"}')
    assert shard.caption(shard.samples[0], fields=("alt", "caption")) == "a"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b"caf\xe9"}, "not UTF-8"),
        ({"txt": b"\xff\xfea"}, "not UTF-8"),
        ({"txt": b"x" * (2**20 + 1)}, "1048577 bytes"),
        ({"json": b'{"caption": "\\ud800"}'}, "surrogate"),
    ],
)
def test_captions_that_are_rejected(one: Opener, members: dict[str, bytes], reason: str) -> None:
    shard = one(jpg=b"image", **members)
    with pytest.raises(Reject, match=reason):
        shard.caption(shard.samples[0])
    assert shard.image(shard.samples[0]) == b"image"


def test_info_is_the_sidecar(one: Opener) -> None:
    info = {"original_width": 640, "nested": {"a": [1, None]}}
    shard = one(json=json.dumps(info).encode())
    assert shard.info(shard.samples[0]) == info
    shard = one(jpg=b"x")
    assert shard.info(shard.samples[0]) == {}
    shard = one(json=b'{"a": 1}'.ljust(2**24))  # the largest that is read
    assert shard.info(shard.samples[0]) == {"a": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "json: not valid JSON"),
        (b"", "json: not valid JSON"),
        (b"\xff", "json: not valid JSON"),
        (b"[" * 100_000, "json: not valid JSON"),
        (b"[1]", "json: got list, expected an object"),
        (b" " * (2**24 + 1), "json: 16777217 bytes, expected at most 16777216"),
    ],
)
def test_broken_sidecars_are_recorded_once_and_not_fatal(one: Opener, data: bytes, reason: str) -> None:
    shard = one(json=data)
    assert shard.info(shard.samples[0]) == {}
    assert shard.caption(shard.samples[0]) is None
    assert shard.rejects == [("a", reason)]


def test_broken_sidecars_are_listed_in_the_order_of_the_samples(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(make_tar([(f"{i}.json", b"{") for i in range(5)]))
    with source.open_shard(str(tmp_path / "s.tar"), tmp_path) as shard:
        for sample in reversed(shard.samples):
            shard.info(sample)
        assert [key for key, _ in shard.rejects] == ["0", "1", "2", "3", "4"]
