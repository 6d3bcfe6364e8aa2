"""Signals that ask a command to stop: one exception for all, and the exit status of each."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from fourmill import cli
from fourmill.infra import stopping

ALL = [signal.SIGINT, *stopping.SIGNALS]


@pytest.fixture(autouse=True)
def restored() -> Any:
    before = {number: signal.getsignal(number) for number in ALL}
    # As of a command in a terminal, whatever started the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("said", ["", "step 3 is saved"])
def test_each_signal_has_its_exit_status(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(args: Any) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except KeyboardInterrupt as interrupt:
            raise stopping.because_of(interrupt, said) from None
        return 0

    verb = SimpleNamespace(ORDER=1, HELP="wait", EXAMPLES=(), add_arguments=lambda parser: None, main=main)
    monkeypatch.setattr(cli, "verbs", lambda: {"wait": verb})
    monkeypatch.setattr(cli, "groups", lambda: {"make": {"wait": verb}})
    assert cli.main(["wait"]) == 128 + number
    assert (
        capsys.readouterr().err == f"stopped; {said or 'what is finished is kept: the same command makes the rest'}\n"
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handlers_of_others_stay_and_ours_come_back() -> None:
    """A signal that a caller handles or ignores (`nohup`) is left alone; `ray.init` sets handlers of its own."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping.heeded():
        with stopping.kept():
            signal.signal(signal.SIGTERM, lambda *_: None)
        with pytest.raises(stopping.Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        assert stopped.value.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with stopping.kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "there was none of ours"
