"""Scripts in processes of their own, forked from one that has imported what they import: 3 s of CPU less for each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
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


def _run(path: Path, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> None:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
