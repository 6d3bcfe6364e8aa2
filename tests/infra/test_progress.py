from __future__ import annotations

import io
import threading
import time

import pytest

from fourmill.infra import progress
from fourmill.infra.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (12.3, "12 s"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599, "59:59"),
        (3700, "1:01:40"),
        (90_000, "25:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rate_and_time_left_leave_out_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("train", 1000, "steps", start=400)
    now[0] += 10
    progress.update(100, notes="loss 1.2", failures={"image: N bytes": 3, "det": 1})
    line = progress.line()
    assert "500/1,000 steps" in line and "10.0 steps/s" in line and "50 s left" in line
    assert "loss 1.2" in line and "4 rejects (image: N bytes x3, det x1)" in line


def test_nothing_done_yet_promises_no_end() -> None:
    assert "left" not in Progress("label", 10, "shards").line()


def test_the_end_promises_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("label", 10, "shards", start=4)
    now[0] += 2
    progress.update(5)
    assert "1 s left" not in progress.line() and "0 s left" in progress.line()
    progress.update(1)
    assert "left" not in progress.line() and "10/10 shards" in progress.line()


def test_a_terminal_shows_one_line_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("label", 2, "shards") as progress:
        progress.update(1, notes="x" * 300)
        line = capsys.readouterr().err
        assert line.startswith("\r\x1b[2Klabel") and "1/2 shards" in line and line.endswith("x")
        assert len(line) == len("\r\x1b[2K") + 200  # a longer one would go on below, where nothing clears it
    assert capsys.readouterr().err.endswith("x\n")


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("label", 100, "shards", every=10) as progress:
        for _ in range(100):
            now[0] += 0.25
            progress.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "100/100 shards" in lines[-1]


def test_a_call_that_blocks_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()

    class Listener(io.StringIO):
        def write(self, text: str) -> int:
            heard.set()
            return super().write(text)

    monkeypatch.setattr("sys.stderr", listener := Listener())
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.001)
    with progress.said("a cluster is connected to"):
        assert heard.wait(30)
    said = listener.getvalue()
    assert said.startswith("a cluster is connected to (0 s)")
    assert not [thread for thread in threading.enumerate() if thread.name == "fourmill-said"]
