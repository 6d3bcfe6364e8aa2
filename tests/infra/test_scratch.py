"""Temporary folders go with their process, also with one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fourmill.infra import scratch

HOLD = "from fourmill.infra import scratch\nwith scratch.folder() as f:\n print(f, flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def left() -> list[str]:
    return os.listdir(scratch.base())


def test_nothing_is_left_at_the_end() -> None:
    with scratch.folder() as folder:
        assert os.listdir(folder) == []
        Path(folder, "x").write_text("x")
    assert left() == []


def test_what_a_killed_process_left_goes() -> None:
    command = [sys.executable, "-c", HOLD]
    holders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    places = [(one.stdout.readline() if one.stdout else "").strip() for one in holders]
    holders[0].kill()
    holders[0].wait()
    assert all(map(os.path.isdir, places))
    with scratch.folder():
        assert [os.path.isdir(place) for place in places] == [False, True]
    holders[1].communicate("\n")
    assert left() == []


def test_nobody_deletes_a_folder_that_is_being_made() -> None:
    def use(_: int) -> bool:
        with scratch.folder() as folder:
            return os.path.isdir(folder)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(100)))
