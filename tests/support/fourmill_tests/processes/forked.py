"""Processes of their own for scripts, commands and ranks, forked where that is possible: 3 s of CPU less for each."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import asking


@contextlib.contextmanager
def spawner() -> Iterator[None]:
    """The process that forks, for this one and all that it starts; where pidfds are missing, nothing is forked."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{folder}/spawner")
        listener.listen(64)
        command = [sys.executable, "-m", "fourmill_tests.processes.spawner", str(listener.fileno())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()]):  # it ends with its input
            os.environ[asking.SOCKET] = f"{folder}/spawner"
            try:
                yield
            finally:
                del os.environ[asking.SOCKET]


def ready() -> None:
    """Return when the modules are imported: nothing that gives its processes little time to start waits for them."""
    start(["-c", ""], os.environ).wait()


def start(
    arguments: Sequence[str], environment: Mapping[str, str], out: int = 1, err: int = 2, session: bool = False
) -> asking.Asked | subprocess.Popen[bytes]:
    """`python ARGUMENTS` with this environment, in this folder; in a session of its own if so."""
    asked = asking.ask(arguments, environment, (0, out, err), session)
    return asked or subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=out, stderr=err, start_new_session=session,
        preexec_fn=_heed_ctrl_c if session else None,
    )  # fmt: skip


def _heed_ctrl_c() -> None:
    """As at a terminal: what a shell has in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def script(path: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`python PATH ARGUMENTS`, to its end."""
    command = [str(path), *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = start(command, environment, out.fileno(), err.fileno()).wait()
        said = [os.pread(file.fileno(), 2**26, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(command, status, *said)


class Command:
    """`fourmill ARGUMENTS` at work, in a session of its own: what of `subprocess.Popen` the tests ask for."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()
        out = self._said.fileno()
        self._process = start(["-m", "fourmill.cli", *arguments], environment, out, out, session=True)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, None]:
        """What it said on both streams, when it has ended. Processes that it has left behind may go on."""
        self._process.wait()
        return os.pread(self._said.fileno(), 2**26, 0).decode(), None
