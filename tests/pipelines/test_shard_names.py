"""A shard keeps the name that it was given at first sight, whatever is listed beside it and wherever it is moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fourmill_tests import data

from fourmill.infra import storage
from fourmill.pipelines import shard_names
from fourmill.pipelines.shard_names import Named


def test_shards_are_named_by_stem_then_by_folder_and_stem() -> None:
    urls = ["s3://b/x/0.tar", "s3://b/x/1.tar.gz", "s3://b/y/0.tar", "/z/2.tgz", "https://h/3.tar?sig=a/b"]
    assert shard_names.assign(urls) == dict(zip(["0", "1", "y-0", "2", "3"], urls, strict=True))


def test_as_many_folders_as_it_takes_tell_shards_apart() -> None:
    urls = ["s3://a/train/0.tar", "s3://b/train/0.tar", "s3://c/train/0.tar"]
    assert shard_names.assign(urls) == dict(zip(["0", "train-0", "c-train-0"], urls, strict=True))


def test_a_shard_that_is_named_twice_is_one_shard() -> None:
    assert shard_names.assign(["/a/0.tar", "/a/1.tar", "/a/0.tar"]) == {"0": "/a/0.tar", "1": "/a/1.tar"}


def test_indistinguishable_shards_are_an_error_naming_both() -> None:
    urls = ["/x/0.tar", "/x/0.tgz", "/x/0.tar.gz"]
    with pytest.raises(ValueError, match="would both be called") as error:
        shard_names.assign(urls)
    assert urls[2] in str(error.value) and urls[1] in str(error.value)


def test_a_shard_without_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="no file name"):
        shard_names.assign(["s3://b/.tar"])


# of a root that knows some


def kept(root: Path, urls: list[str]) -> dict[str, str]:
    """The names of shards in a root, kept as a stage keeps them: URL -> name."""
    known = shard_names.read(str(root))
    names = shard_names.assign(urls, str(root), known)
    shard_names.keep(str(root), names, known, lambda name: _size(names[name]))
    return {url: name for name, url in names.items()}


def _size(url: str) -> int:
    try:
        stat = storage.stat(url)
    except ConnectionError:  # of a server that is not there
        return -1
    return -1 if stat is None else stat.size


def test_names_stay_whatever_is_listed_before(tmp_path: Path) -> None:
    first, second = (data.good_shards(tmp_path / name, 2, 1, first=10 * i) for i, name in enumerate(("cc", "aa")))
    before = kept(tmp_path / "out", first)
    after = kept(tmp_path / "out", [*second, *first])
    assert {url: after[url] for url in first} == before
    assert [after[url] for url in second] == ["aa-train-00000", "aa-train-00001"]
    assert kept(tmp_path / "out", second) == {url: after[url] for url in second}, "also alone"
    assert len(storage.list_names(str(tmp_path / "out/ledger/shards"))) == 2, "a file for each job with new shards"


def test_a_folder_that_moved_keeps_its_names(tmp_path: Path) -> None:
    """Two downloads of the same file names and, here, the same sizes: their folders tell them apart."""
    for name in ("cc", "aa"):
        data.good_shards(tmp_path / "data" / name, 2, 1)
    urls = [str(path) for name in ("cc", "aa") for path in sorted((tmp_path / "data" / name).iterdir())]
    before = kept(tmp_path / "out", urls)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = [url.replace("/data/", "/elsewhere/") for url in urls]
    assert kept(tmp_path / "out", moved[::-1]) == {m: before[url] for m, url in zip(moved, urls, strict=True)}
    assert shard_names.read(str(tmp_path / "out"))["train-00000"].url == moved[0], "its new place is kept"


def test_another_shard_at_another_place_is_another_shard(tmp_path: Path) -> None:
    (first,), (second,) = data.good_shards(tmp_path / "a", 1, 1), data.good_shards(tmp_path / "b", 1, 2)
    assert kept(tmp_path / "out", [first]) == {first: "train-00000"}
    assert kept(tmp_path / "out", [second]) == {second: "b-train-00000"}


def test_signatures_and_passwords_are_not_kept(tmp_path: Path) -> None:
    kept(tmp_path / "out", ["https://me:secret@127.0.0.1:9/a/0.tar?X-Signature=secret"])
    assert shard_names.read(str(tmp_path / "out")) == {"0": Named("https://127.0.0.1:9/a/0.tar", -1)}
    (file,) = (tmp_path / "out/ledger/shards").iterdir()
    assert "secret" not in file.read_text()


def test_two_jobs_never_name_two_shards_alike(tmp_path: Path) -> None:
    (first,), (second,) = data.good_shards(tmp_path / "a", 1, 1), data.good_shards(tmp_path / "b", 1, 1)
    root = str(tmp_path / "out")
    ours, theirs = shard_names.assign([first], root), shard_names.assign([second], root)
    shard_names.keep(root, ours, {}, lambda _: 1)
    shard_names.keep(root, ours, {}, lambda _: 1)  # the same job, again
    with pytest.raises(ValueError, match=r"another job has named .* run the same command again"):
        shard_names.keep(root, theirs, {}, lambda _: 1)


def test_a_damaged_file_of_names_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    urls = data.good_shards(tmp_path / "a", 1, 1)
    before = kept(tmp_path / "out", urls)
    (file,) = (tmp_path / "out/ledger/shards").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert kept(tmp_path / "out", urls) == before and "is damaged" in caplog.text
    assert kept(tmp_path / "out", urls) == before


def test_roots_of_older_releases_keep_their_names(tmp_path: Path) -> None:
    """Two downloads, no names kept: records say which shard each was made of."""
    options = {"modalities": ["rgb", "caption"], "labels__keep": ["caption"], "generate__chains": []}
    first, second = (data.good_shards(tmp_path / name, 2, 1, first=10 * i) for i, name in enumerate(("cc", "bb")))
    recipe = data.recipe(tmp_path / "out", [*first, *second], **options)
    data.make(recipe, data.outputs(recipe, tokens=False))
    assert not (tmp_path / "out/ledger/shards").exists()
    third = data.good_shards(tmp_path / "aa", 2, 1, first=20)
    again = data.recipe(tmp_path / "out", [*third, *second, *first], **options)
    _, tasks = data.worker_of(again, data.outputs(again, tokens=False))
    assert [(task.shard, task.url) for task in tasks] == [
        ("aa-train-00000", third[0]), ("aa-train-00001", third[1]),
    ]  # fmt: skip
