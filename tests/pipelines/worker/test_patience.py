"""A root that cannot be written for a while: nothing is lost, nothing is computed for nothing, and it is said."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.engine import inline

from fourmill.infra import storage
from fourmill.pipelines import source
from fourmill.pipelines.worker import patience
from fourmill.pipelines.worker.patience import Patience, RootLost


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_write_is_tried_until_it_works(caplog: pytest.LogCaptureFixture) -> None:
    one, count = Patience(60.0), itertools.count()

    def write() -> str:
        if next(count) < 3:
            raise FULL
        assert one.waiting == "the root cannot be used, waiting for it: [Errno 28] No space left on device; make " + (
            "room, or raise the quota"
        )
        return "written"

    assert one.keep(write) == "written" and one.waiting == ""
    assert "waiting for it" in caplog.text


@pytest.mark.parametrize(("error", "raised"), [(FULL, RootLost), (ValueError("no row"), ValueError)])
def test_other_errors_are_raised(error: Exception, raised: type[Exception]) -> None:
    def write() -> None:
        raise error

    with pytest.raises(raised):
        Patience(0.05).keep(write)


class Stage:
    """`label` of two shards with three samples each, here, noting what is computed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inline(monkeypatch)
        self.log, self.file = folder / "log", folder / "recipe.yaml"
        counting = {"specialist": "fourmill_tests.specialists:Counting", "log": str(self.log)}
        settings = data.settings(
            folder / "out", data.good_shards(folder / "s", 2, 3), modalities=["rgb"], labels__keep=["canny_edge"],
            labels__specialists={"canny_edge": counting}, generate__chains=[],
        )  # fmt: skip
        self.file.write_text(yaml.safe_dump(settings))

    def ends_well(self) -> None:
        status, out, said = runs.command("label", str(self.file))
        assert status == 0, out + said
        assert len(self.log.read_text().splitlines()) == 6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_stage_goes_on_when_the_root_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    stage, left, put = Stage(tmp_path, monkeypatch), [3], storage.put

    def failing(url: str, content: bytes, **options: bool) -> storage.Stat | None:
        if "/ledger/labels/" in url and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return put(url, content, **options)

    monkeypatch.setattr(storage, "put", failing)
    stage.ends_well()
    assert left == [0]


def test_a_token_that_is_renewed_loses_no_shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused wherever it is shown, so that no other worker could read the shard."""
    stage, left, opened, exists = Stage(tmp_path, monkeypatch), [6], source.open_shard, storage.exists

    def refused() -> None:
        if left[0]:
            left[0] -= 1
            raise PermissionError(errno.EACCES, "The token has expired")

    def open_shard(url: str, scratch: str, *more: Any) -> Any:
        refused()
        return opened(url, scratch, *more)

    def looked_at(url: str) -> bool:
        if url.endswith("recipe.yaml") and left[0] < 6:
            refused()
        return exists(url)

    monkeypatch.setattr(source, "open_shard", open_shard)
    monkeypatch.setattr(storage, "exists", looked_at)
    stage.ends_well()
    assert left == [0]
