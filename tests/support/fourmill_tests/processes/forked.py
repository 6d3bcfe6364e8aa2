"""Scripts in processes of their own, forked from one that has imported what they import: 3 s of CPU less for each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

IMPORTED = ["cv2", "fourmill.project", "fourmill.train.pretrain.pretrain", "transformers"]


def prepare(*modules: str) -> ForkServerContext:
    """The way to start processes that are forked from one; the first call of all says what that imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, *modules])
    return context


def script(path: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`python PATH ARGUMENTS` in the folder /, with this environment."""
    context = prepare()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_run, args=(path, arguments, dict(environment), out, err))
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            [str(path), *arguments], process.exitcode or 0, out.read_text(), err.read_text()
        )


class Command:
    """`fourmill ARGUMENTS` at work, in a session of its own: what of `subprocess.Popen` the tests ask for."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name, "said")
        self._said.touch()
        given = (list(arguments), dict(environment), self._said)
        self._process = prepare().Process(target=_command, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, None]:
        """What it said on both streams, when it has ended. Processes that it has left behind may go on."""
        self._process.join()
        return self._said.read_text(), None


def _command(arguments: list[str], environment: dict[str, str], said: Path) -> None:
    os.setsid()
    # In the background the shell has SIGINT ignored, and Python leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become(["fourmill", *arguments], environment, said, said)
    from fourmill import cli

    sys.exit(cli.main())


def _become(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    sys.argv = arguments


def _run(path: Path, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> None:
    _become([str(path), *arguments], environment, out, err)
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
