"""A process that has imported what processes of the tests import, and forks them: 3 s of CPU less for each.

Who wants one (`asking`) sends its command, its environment and its three streams. Nothing is imported before the first
one asks. What imports read of the environment must be equal. Ray is imported once for each of its settings, to which
the node and the job of a worker belong: its C++ reads them when it is imported. One that differs in more is refused and
starts by itself, as do those of another namespace or control group.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from .asking import LIMITS

IMPORTED = (
    "cv2", "fourmill.pipelines.engine.actor", "fourmill.project", "fourmill.train.pretrain.pretrain", "google.protobuf",
    "jsonschema", "pandas", "requests", "transformers",
)  # fmt: skip
OF_RAY = ("ray._private.workers.default_worker", "ray.train.torch", "ray.train.v2.api.data_parallel_trainer")


MOST = 4  # processes with settings of Ray's, of 100 MB each; what they have forked outlives them


def serve(listener: socket.socket) -> None:
    """Hand what is asked for to the process that has the same settings of Ray, until the standard input is closed."""
    known: dict[str, Any] | None = None
    ready: dict[str, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while 0 not in {key.fd for key, _ in selector.select()}:
            client, _ = listener.accept()
            message, streams, _, _ = socket.recv_fds(client, 2**20, 3)
            wish = json.loads(message)
            same = wish["same"]
            of_ray = json.dumps(same.pop("ray"), sort_keys=True)
            if known is None:
                known = same
                os.environ.update(wish["environment"])
                _import(IMPORTED)
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what ends leaves nothing behind
            if same == known:
                if of_ray in ready:
                    ready[of_ray] = ready.pop(of_ray)  # the last of them is the newest
                else:
                    if len(ready) == MOST:
                        ready.pop(next(iter(ready))).close()
                    ready[of_ray] = _with_ray(wish["environment"], [listener, client, *ready.values()], streams)
                socket.send_fds(ready[of_ray], [message], [client.fileno(), *streams])
            else:
                with contextlib.suppress(OSError):  # who asked may be gone
                    client.send(b'{"refused": true}')
            client.close()
            _close(streams)


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never looked at again stays shared
    assert threading.active_count() == 1, threading.enumerate()


def _with_ray(environment: dict[str, str], others: list[socket.socket], streams: list[int]) -> socket.socket:
    """A process that has imported Ray with these settings, and forks what it is sent."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        there.close()
        return here
    for other in (here, *others):
        other.close()
    _close(streams)  # a pipe that is open here would never end for its reader
    os.environ.clear()
    os.environ.update(environment)
    _import(OF_RAY)
    while True:
        message, files, _, _ = socket.recv_fds(there, 2**20, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            there.close()
            _keep(socket.socket(fileno=files[0]), json.loads(message), files[1:])
        _close(files)


def _keep(client: socket.socket, wish: dict[str, Any], streams: list[int]) -> NoReturn:
    """Fork the process, say how it ends, and end it when who asked for it is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        client.close()
        _become(wish, streams)
    _close([*streams, 0, 1, 2])
    process = os.pidfd_open(pid)
    with contextlib.suppress(OSError), selectors.DefaultSelector() as selector:
        client.send(json.dumps({"pid": pid}).encode())
        selector.register(client, selectors.EVENT_READ)
        selector.register(process, selectors.EVENT_READ)
        selector.select()
    with contextlib.suppress(ProcessLookupError):
        if not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        client.send(json.dumps({"ended": ended}).encode())
    os._exit(0)


def _become(wish: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be what the command line says, as if Python had started with it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    _close([stream for stream in streams if stream > 2])
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        # Python itself ignores SIGPIPE and SIGXFSZ.
        ignored = number in (*wish["ignored"], signal.SIGPIPE, signal.SIGXFSZ)
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if signal.SIGINT not in wish["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if wish["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(wish["environment"])
    os.chdir(wish["folder"])
    for limit, most in zip(LIMITS, wish["limits"], strict=True):
        resource.setrlimit(limit, most)
    status = 1
    try:
        _run(*wish["arguments"])
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            status = end.code or 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for out in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            out.flush()
    os._exit(status)


def _run(first: str, *others: str) -> None:
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *others[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(others[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv, sys.path[0] = list(others), os.getcwd()
        sys.modules.pop(others[0], None)
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *others], os.path.dirname(first)
        runpy.run_path(first, run_name="__main__")


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
