"""Nodes of a Ray cluster as `ray start` makes them, each with its environment, and how they are taken away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .. import runs
from ..processes.asking import SOCKET

SLOW_START = "timed out during startup"
BIN = str(Path(sys.executable).parent)
NODE = ["--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
PATIENT = {"RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}


def environment(**more: str) -> dict[str, str]:
    """That of a user at a shell: nothing of the tests' own Ray, no forking, and the environment's programs on PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", SOCKET))}
    return kept | PATIENT | {"PATH": os.pathsep.join([BIN, os.environ.get("PATH", "")])} | more


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def node(log: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of Ray, from its start to the end of the block. On busy cores Ray may give up on its own start: again."""
    # A folder for each, as if they were machines: two nodes with one would delete each other's copy of a job's files.
    # Of a short name: paths of Ray's sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as short:
        for _ in range(3):
            own = f"--temp-dir={short}", f"--dashboard-agent-listen-port={free_port()}"
            with log.open("wb") as out:
                command = [f"{BIN}/ray", "start", *NODE, *arguments, *own]
                process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
            while "Ray runtime started" not in log.read_text() and process.poll() is None:
                time.sleep(0.2)
            if process.poll() is None:
                break
            kill(process)
            if SLOW_START not in log.read_text():
                raise RuntimeError(log.read_text())
        else:
            pytest.skip("Ray does not start on cores as busy as these")
        try:
            yield process
        finally:
            kill(process)


@contextmanager
def head(log: Path, environment: dict[str, str], *arguments: str) -> Iterator[str]:
    """The address of a head node, to which others connect."""
    port, client = free_port(), free_port()
    with node(log, environment, "--head", f"--port={port}", f"--ray-client-server-port={client}", *arguments):
        yield f"127.0.0.1:{port}"


def kill(process: subprocess.Popen[bytes]) -> None:
    """Everything of a node at once, as a preempted machine."""
    children = runs.descendants(process.pid)
    process.kill()
    runs.end_all(children)
    process.wait()
