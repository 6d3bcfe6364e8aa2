"""A root that cannot be written for a while: nothing is lost, nothing is computed for nothing, and it is said."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.engine import inline

from fourmill.infra import storage
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
        assert (
            one.waiting
            == "the root cannot be written, waiting for it: [Errno 28] No space left on device; make "
            + ("room, or raise the quota")
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_stage_goes_on_when_the_root_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    inline(monkeypatch)
    log = tmp_path / "log"
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 2, 3), modalities=["rgb"], labels__keep=["canny_edge"],
        labels__specialists={"canny_edge": {"specialist": "fourmill_tests.specialists:Counting", "log": str(log)}},
        generate__chains=[],
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    left, put = [3], storage.put

    def failing(url: str, content: bytes, **options: bool) -> bool:
        if "/ledger/labels/" in url and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return put(url, content, **options)

    monkeypatch.setattr(storage, "put", failing)
    status, out, said = runs.command("label", str(tmp_path / "recipe.yaml"))
    assert status == 0, out + said
    assert left == [0] and len(log.read_text().splitlines()) == 6
