"""Processes that are forked behave as if they had been started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fourmill_tests.processes import asking, forked

SAYS = "import os, sys; print(os.getcwd(), sys.argv, sys.path[0], os.environ['SAID'], __name__); sys.exit(sys.argv[-1])"


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")


@pytest.mark.parametrize("how", ["-c", "-m", "path"])
def test_a_command_says_and_ends_as_if_it_was_started(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    command = {"-c": ["-c", SAYS], "-m": ["-m", "says"], "path": [str(tmp_path / "says.py")]}[how] + ["its", "end"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAID", "so")
    expected = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = asking.ask(command, os.environ, (0, out.fileno(), err.fileno()))
    assert process is not None and process.wait() == expected.returncode == 1
    assert (tmp_path / "out").read_text() == expected.stdout != ""
    assert (tmp_path / "err").read_text() == expected.stderr == "end\n"


def test_a_killed_process_has_its_signal_as_code() -> None:
    process = asking.ask(["-c", "import signal; signal.pause()"], os.environ)
    assert process is not None and process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("more", [{}, {"OMP_NUM_THREADS": "7"}], ids=["forked", "started"])
def test_a_command_heeds_ctrl_c_where_the_tests_ignore_it(
    more: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A suite in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script = "import signal; signal.raise_signal(signal.SIGINT)"
        process = forked.start(["-c", script], os.environ | more, session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.wait() != 0 and "KeyboardInterrupt" in capfd.readouterr().err


def test_it_ends_with_who_asked_for_it() -> None:
    """One that is killed leaves nothing behind, as Ray's workers do not."""
    script = (
        "import os, signal; from fourmill_tests.processes import asking\n"
        "print(asking.ask(['-c', 'import signal; signal.pause()'], os.environ).pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as who:
        assert who.stdout is not None
        process = os.pidfd_open(int(who.stdout.readline()))
        who.kill()
        signal.pidfd_send_signal(process, 0)  # it was there
        assert select.select([process], [], [], 60)[0]
    os.close(process)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PYTHONPATH"])
def test_other_settings_than_imports_have_read_are_not_forked(name: str) -> None:
    assert asking.ask(["-c", ""], os.environ | {name: "7"}) is None
    process = forked.start(["-c", ""], os.environ | {name: "7"})
    assert isinstance(process, subprocess.Popen) and process.wait() == 0


def test_settings_of_ray_are_those_of_who_asks() -> None:
    script = "import sys; from ray._private import ray_constants; sys.exit(ray_constants.AUTOSCALER_EVENTS)"
    for value in (7, 9):
        process = asking.ask(["-c", script], os.environ | {"RAY_SCHEDULER_EVENTS": str(value)})
        assert process is not None and process.wait() == value
