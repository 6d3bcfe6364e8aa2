"""Logging: quiet by default, a level, a file, and the same in workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fourmill_tests import runs

from fourmill.infra import logs

logger = logging.getLogger("fourmill.some.module")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(logs.LEVEL, "warning")
    monkeypatch.delenv(logs.FILE, raising=False)
    yield
    logs.configure()


def test_only_warnings_are_shown_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logger.info("a detail")
    logger.warning("a retry")
    err = capsys.readouterr().err
    assert "a detail" not in err and "WARNING" in err and "fourmill.some.module: a retry" in err


def test_a_file_holds_what_the_screen_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(file=str(tmp_path / "log"))
    logger.info("a detail")
    logger.debug("too much")
    assert "a detail" in (tmp_path / "log").read_text() and "too much" not in (tmp_path / "log").read_text()
    assert not capsys.readouterr().err


def test_workers_log_as_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs.configure("debug", "log")
    assert os.environ[logs.FILE] == str(tmp_path / "log")
    logs.configure_worker()
    logger.debug("from a worker")
    assert "from a worker" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("before", [True, False])
def test_the_options_stand_before_or_after_the_verb(tmp_path: Path, before: bool) -> None:
    options, verb = ["--log-file", str(tmp_path / "log"), "--log-level", "debug"], ["inspect", str(tmp_path / "none")]
    assert runs.command(*(options + verb if before else verb + options))[0] == 2
    assert (tmp_path / "log").exists() and os.environ[logs.LEVEL] == "debug"


def test_a_log_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    status, _, err = runs.command("inspect", "x", "--log-file", str(tmp_path / "no" / "log"))
    assert status == 2 and err.startswith("fourmill inspect: ") and "Traceback" not in err


def test_lines_say_what_was_worked_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with logs.about(shard="00012"):
        with ThreadPoolExecutor(1, initializer=logs.inherited()) as thread, logs.about(key="7"):
            logger.warning("here")
            thread.submit(logger.warning, "in a thread").result()
        logger.warning("after it")
    logger.warning("outside")
    said = [line.partition("fourmill.some.module: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["[shard=00012 key=7] here", "[shard=00012] in a thread", "[shard=00012] after it", "outside"]
