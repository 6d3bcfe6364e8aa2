"""Whole runs from the command line, and how they are killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fourmill import cli

from . import data
from .processes.asking import SOCKET
from .processes.forked import Command

# Edges take time, so that a stage has a middle in which it can be killed.
SLOW_EDGES = {"specialist": "fourmill_tests.specialists:Slow", "seconds": 0.03}


@dataclass
class Run:
    """A run: its folder, its recipe, and what the command said."""

    folder: Path
    recipe: Path
    status: int = -1
    said: str = ""
    inspected: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "out"


def command(*arguments: str) -> tuple[int, str, str]:
    """A verb in this process: exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(list(arguments))
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def whole(folder: Path) -> Run:
    """Shards, `init`, the starter recipe at tiny sizes, `run`."""
    data.good_shards(folder / "s", 2, 8)
    (folder / "s" / "train-00002.tar").write_bytes(data.tar(data.bad_entries()))
    data.good_shards(folder / "s", 1, 8, first=100, name="val")
    samples = [f"--samples={folder}/s/train-{{00000..00002}}.tar", f"--val={folder}/s/val-*.tar"]
    status, text, said = command("init", *samples, f"--root={folder}/out")
    assert status == 0, said
    starter = yaml.safe_load(text)
    tiny = {name: section for name, section in data.TINY.items() if name != "labels"}
    starter.update(tiny)
    starter["labels"]["specialists"] |= {"canny_edge": SLOW_EDGES, "det": {"specialist": "hog_people"}}
    for listed in (starter["modalities"], starter["labels"]["keep"]):  # boxes, as of a detector that is there
        listed.append("det")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(starter))
    status, out, err = command("run", str(recipe))
    return Run(folder, recipe, status, out + err)


def kill_when(pattern: str, root: Path, arguments: Sequence[str], address: str | None, timeout: float = 400) -> None:
    """Start `fourmill ARGUMENTS` and kill -9 it as soon as a file matches the pattern below the root.

    Without an address it starts a Ray of its own, whose workers are not forked: they import as a user's do."""
    environment = os.environ | ({"RAY_ADDRESS": address} if address else {})
    if not address:
        environment.pop(SOCKET, None)
    process = Command(arguments, environment)
    children: list[int] = []
    try:
        until(process, pattern, root, timeout)
        children = descendants(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        end_all(children)
    assert process.returncode == -signal.SIGKILL


def until(process: Command, pattern: str, root: Path, timeout: float = 400) -> None:
    """Wait until a file that is not empty matches the pattern below the root."""
    end = time.monotonic() + timeout
    while not any(map(_size, root.glob(pattern))):
        assert process.poll() is None, f"it ended by itself: {process.communicate()[0]}"
        assert time.monotonic() < end, f"nothing matched {pattern} within {timeout} s"
        time.sleep(0.01)


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # checkpoints are deleted when newer ones are there
        return file.stat().st_size
    return 0


def descendants(pid: int) -> list[int]:
    """The processes below one, from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...", and the name may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def end_all(pids: Sequence[int]) -> None:
    """What a killed driver leaves behind: its local Ray. By process, never by name."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish(arguments: Sequence[str], address: str) -> str:
    """The same command, uninterrupted; returns what it said."""
    process = Command(arguments, os.environ | {"RAY_ADDRESS": address})
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def losses(root: Path, run: str = "4m") -> list[dict[str, Any]]:
    """The log of a run without what depends on the clock."""
    (log,) = root.glob(f"runs/{run}/*/metrics.jsonl")
    clock = ("tokens_per_second", "data_wait_share", "slowest_worker", "lag_share", "samples_per_second", "seconds")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in clock} for row in rows]
