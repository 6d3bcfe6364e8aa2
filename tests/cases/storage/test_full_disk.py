"""A root that cannot be written: a stage stops, and does not compute on for nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require
from fourmill_tests.engine import inline


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB. Only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_stops_a_stage(ray_cluster: str, small_disk: Path, tmp_path: Path) -> None:
    """ray#48104, ray#23674: no shard can be committed, and every one is read and labelled all the same."""
    log = tmp_path / "log"
    counting = {"specialist": "fourmill_tests.specialists:Counting", "log": str(log)}
    shards = data.good_shards(tmp_path / "s", 20, 4)
    settings = data.settings(
        small_disk / "out", shards, modalities=["tok_canny_edge"], labels__keep=["canny_edge"], generate__chains=[],
        labels__specialists={"canny_edge": counting}, engine__patience=5,
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    status, _, _ = runs.command("label", str(tmp_path / "recipe.yaml"))
    done = len(list((small_disk / "out/ledger/labels/canny_edge").glob("train-*.json")))
    if status == 0 or done == 20:
        raise RuntimeError("the disk was large enough")
    computed = len(log.read_text().splitlines())
    require(computed < 40 + 4 * done, f"{computed} of 80 samples are computed, {done} of 20 shards committed")


def test_root_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfuse, s3fs-fuse, SMB, exFAT: the stage works, or says so before it computes anything."""

    def link(source: str, target: str, **_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    inline(monkeypatch)
    log = tmp_path / "log"
    log.touch()
    counting = {"specialist": "fourmill_tests.specialists:Counting", "log": str(log)}
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 3), modalities=["tok_canny_edge"],
        labels__keep=["canny_edge"], generate__chains=[], labels__specialists={"canny_edge": counting},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(os, "link", link)
    status, _, _ = runs.command("label", str(tmp_path / "recipe.yaml"))
    computed = len(log.read_text().splitlines())
    require(status == 0 or not computed, f"{computed} samples are computed, and no shard can be committed")


def test_truncated_column_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that broke off, a quota: the record holds the size, the listing gives another."""
    inline(monkeypatch)
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 2, 2), modalities=["tok_canny_edge"],
        labels__keep=["canny_edge"], generate__chains=[],
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    runs.command("label", str(tmp_path / "recipe.yaml"))
    file = tmp_path / "out/labels/canny_edge/train-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    _, out, _ = runs.command("status", str(tmp_path / "recipe.yaml"), "--json")
    (row,) = (row for row in json.loads(out)["outputs"] if row["output"] == "labels/canny_edge")
    runs.command("label", str(tmp_path / "recipe.yaml"))
    mended = file.read_bytes() == whole
    require(mended or row["done"] < 2, "half a file is called complete")
