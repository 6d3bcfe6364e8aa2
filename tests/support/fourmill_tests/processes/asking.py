"""What a process does that wants one forked (`spawner`). It imports little, for each process of Ray runs this."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

SOCKET = "FOURMILL_TESTS_SPAWNER"
# What modules read once, when they are imported. By name: libraries set others of their own in the process that has
# loaded them (ultralytics TORCH_CPP_LOG_LEVEL, torch TORCHINDUCTOR_CACHE_DIR), and all that it starts would be refused.
READ_BY_IMPORTS = (
    "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "PYTHONHASHSEED", "PYTHONPATH", "TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)
FORKED = ("/ray/_private/workers/default_worker.py", "/bin/fourmill")
OF_XDIST = ["-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"]  # a process of `pytest -n`, as execnet starts it
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Asked:
    """A process that was forked: what of `subprocess.Popen` the tests ask for."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it goes on."""
        return self._ended(wait=False)

    def wait(self) -> int:
        ended = self._ended(wait=True)
        assert ended is not None
        return ended

    def _ended(self, wait: bool) -> int | None:
        if self.returncode is None:
            self._connection.setblocking(wait)
            with contextlib.suppress(BlockingIOError):
                said = self._connection.recv(2**10)
                self.returncode = int(json.loads(said)["ended"]) if said else -signal.SIGKILL
        return self.returncode


def ask(
    arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int] = (0, 1, 2), session: bool = False
) -> Asked | None:
    """Have `python ARGUMENTS` forked, in this folder; None where that is not possible, and it must be started."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    if session:  # as at a terminal: what a shell has in the background ignores Ctrl-C
        ignored.discard(signal.SIGINT)
    wish = {
        "arguments": list(arguments), "environment": dict(environment), "same": _same(environment),
        "folder": os.getcwd(), "session": session, "limits": [resource.getrlimit(limit) for limit in LIMITS],
        "ignored": sorted(ignored),
    }  # fmt: skip
    try:
        connection.connect(os.environ[SOCKET])
        socket.send_fds(connection, [json.dumps(wish).encode()], streams)
        said = connection.recv(2**10)
    except (KeyError, OSError):
        return None
    pid = json.loads(said or b"{}").get("pid")
    return Asked(pid, connection) if pid else None


def _same(environment: Mapping[str, str]) -> dict[str, Any]:
    """What must be equal of who asks and who forks."""
    spaces = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    with open("/proc/self/cgroup") as file:
        groups = file.read()
    return {
        "ray": {k: v for k, v in environment.items() if k.startswith("RAY_")},
        "environment": {name: environment.get(name) for name in READ_BY_IMPORTS},
        "namespaces": [os.readlink(f"/proc/self/ns/{space}") for space in spaces],
        "groups": groups,
        "cores": sorted(os.sched_getaffinity(0)),
        "executable": sys.executable,
    }


def stand_in(command: Sequence[str]) -> None:
    """Have the command forked that this Python was started with and end as it ends; return if it must start here."""
    arguments, environment = list(command[1:]), dict(os.environ)
    if arguments[0].endswith("/ray/_private/workers/setup_worker.py"):
        prepared = _prepared(arguments)
        if prepared is None:
            return
        arguments, more = prepared
        environment |= more
    elif arguments == OF_XDIST:
        arguments = arguments[1:]
    elif not arguments[0].endswith(FORKED) and arguments[:2] != ["-m", "fourmill.cli"]:
        return
    asked = ask(arguments, environment)
    if asked is None:
        return
    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(asked.pid, number))
    ended = asked.wait()
    if ended < 0:
        if -ended != signal.SIGKILL:
            signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    os._exit(ended)


def _prepared(arguments: list[str]) -> tuple[list[str], dict[str, str]] | None:
    """Ray's worker with an environment of its own: its command and that; None if that is more than variables."""
    kept, context = [], {}
    for argument in arguments[1:]:
        name, _, value = argument.partition("=")
        if name == "--serialized-runtime-env-context":
            context = json.loads(value)
        elif name != "--language":
            kept.append(argument)
    if context.pop("py_executable", sys.executable) != sys.executable:
        return None
    environment = context.pop("env_vars", {})
    return None if any(context.values()) else (kept, environment)
