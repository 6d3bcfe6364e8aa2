"""Buckets that refuse, answer from a cache, or hold names that a path would allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require
from fourmill_tests.s3 import S3

from fourmill.infra import storage
from fourmill.pipelines import source


def test_resumed_stage_on_s3_ends_well(ray_cluster: str, s3: S3, tmp_path: Path) -> None:
    """The driver reads the new files through a listing that was cached before they were there."""
    bucket = s3.bucket("resumed")
    for path in data.good_shards(tmp_path / "s", 3, 2):
        storage.put(f"{bucket}/s/{Path(path).name}", Path(path).read_bytes())
    ended: list[Any] = []
    for last in (0, 2, 2):
        settings = data.settings(
            f"{bucket}/out", [f"{bucket}/s/train-{{00000..{last:05d}}}.tar"], modalities=["rgb", "caption"],
            labels__keep=["caption"], generate__chains=[],
        )  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        try:
            ended.append(runs.command("label", str(tmp_path / "recipe.yaml"))[0])
        except OSError as error:
            ended.append(f"{type(error).__name__}: {error}")
    if ended[0] != 0:
        raise RuntimeError(f"the first run failed: {ended}")
    require(ended == [0, 0, 0], f"the stage does its work, and then: {ended}")


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """S3 as a new process with these variables would see it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.delenv(name, raising=False)
            if value is not None:
                patch.setenv(name, value)
        _forget_sessions()
        yield
    _forget_sessions()


def _forget_sessions() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    storage._filesystem.cache_clear()


def test_mistakes_with_s3_are_sentences(s3: S3, tmp_path: Path) -> None:
    """No credentials, a mistyped profile, an endpoint that is down (intake#194, xcube#412): exit status 2, no
    traceback."""
    shard = f"{s3.bucket('mistakes')}/train/00000.tar"
    storage.put(shard, data.tar(data.good_entries(0, 1)))
    none = str(tmp_path / "none")
    bare = {
        "AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_SHARED_CREDENTIALS_FILE": none,
        "AWS_CONFIG_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    init = ["init", "--samples", shard, "--root", str(tmp_path / "out")]
    cases: dict[str, tuple[list[str], dict[str, str | None]]] = {
        "no credentials, init": (init, bare),
        "no credentials, inspect": (["inspect", shard], bare),
        "a profile that is not there": (init, {**bare, "AWS_PROFILE": "typo"}),
        "an endpoint that is down": (init, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}),
    }
    wrong = []
    for name, (arguments, variables) in cases.items():
        with _environment(**variables):
            try:
                status, _, said = runs.command(*arguments)
            except Exception as error:
                status, said = -1, f"a traceback: {type(error).__name__}"
        if status != 2 or "Traceback" in said:
            wrong.append(f"{name}: exit status {status}, {said}")
    require(not wrong, str(wrong))


def test_refused_access_says_to_what(s3: S3, tmp_path: Path) -> None:
    """403 for a folder and for a file: exit status 2 and the name of the bucket."""
    bucket = s3.bucket("private")
    storage.put(f"{bucket}/train/00000.tar", b"")
    wrong = []
    for samples in (f"{bucket}/train/", f"{bucket}/train/{{00000..00001}}.tar"):
        s3.refuses = True
        try:
            with _environment():
                status, _, said = runs.command("init", "--samples", samples, "--root", str(tmp_path / "out"))
        except Exception as error:
            status, said = -1, f"a traceback: {type(error).__name__}"
        finally:
            s3.refuses = False
        if status != 2 or "private" not in said:
            wrong.append(f"{samples}: exit status {status}, {said}")
    require(not wrong, str(wrong))


def _said_of(place: str, folder: Path) -> tuple[list[str], str]:
    """The shards at a place; what is said if there are none, or the first cannot be read."""
    try:
        urls = source.expand(place)
        with source.open_shard(urls[0], folder) as shard:
            return urls, f"{len(shard.samples)} samples"
    except (OSError, ValueError) as error:
        return [], str(error)


def test_places_on_s3_are_those_of_paths(s3: S3, tmp_path: Path) -> None:
    """A name with brackets (polars#23292, smart_open#285), and folders without *.tar, as on a local disk."""
    bucket, shard = s3.bucket("places"), data.tar(data.good_entries(0, 1))
    for key in ("run[1]/00000.tar", "run1/00000.tar", "packed/00000.tar.gz", "nested/a/00000.tar"):
        storage.put(f"{bucket}/{key}", shard)
    wrong = []
    for place in ("run[1]/00000.tar", "run[1]/", "run[1]/{00000..00000}.tar"):
        urls, said = _said_of(f"{bucket}/{place}", tmp_path)
        if not (urls and "run[1]" in urls[0]):
            wrong.append(f"{place}: {urls} {said}")
    for place in ("packed/", "nested/", "nested", ""):
        urls, said = _said_of(f"{bucket}/{place}", tmp_path)
        if urls or "parquet in" not in said or "0 bytes" in said:
            wrong.append(f"{place or 'the bucket'}: {urls} {said}")
    require(not wrong, f"cannot be named, taken for another, or wrongly said: {wrong}")
