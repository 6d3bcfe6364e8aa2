"""What a trial is done on, and what of it is killed: an S3 server, a proxy before it, a Ray."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circumstances import ROOT

from fourmill.infra import storage

SUPPORT = str(ROOT / "tests/support")
sys.path.insert(0, SUPPORT)
from fourmill_tests import runs  # noqa: E402

BUCKET = "s3://chaos"
SERVER = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
CLUSTER = """
import sys
from fourmill.infra.cluster import cluster
with cluster() as ray:
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


class Proxy:
    """The proxy, always on the same port."""

    def __init__(self, upstream: int) -> None:
        self._upstream, self.port = upstream, 0
        self.start(0, 0.0)

    def start(self, seed: int, rate: float) -> None:
        self._given = (seed, rate)
        command = [
            sys.executable,
            str(ROOT / "benchmarks/servers/proxy.py"),
            str(self._upstream),
            "--port",
            str(self.port),
        ]
        command += ["--seed", str(seed), "--rate", str(rate), "--endless", str(int(rate > 0))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def again(self) -> None:
        self.kill()
        self.start(*self._given)


class Cluster:
    """A Ray of its own, which is started again when it is gone."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = os.environ | environment
        self._process: subprocess.Popen[str] | None = None
        self._below: set[int] = set()
        self._is_broken = False

    def address(self) -> str:
        """Of a running one."""
        if self._is_broken:
            self.end()
        while self._process is None:
            command = [sys.executable, "-c", CLUSTER]
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(
                command, env=self._environment, stderr=subprocess.DEVNULL, text=True, **streams
            )
            assert self._process.stdout is not None
            self._address = self._process.stdout.readline().strip()
            self._look()
            if not self._address:  # it gave up on its start: cores are busy
                self.end()
        return self._address

    def _look(self) -> set[int]:
        """The processes that belong to it; what their parents leave behind is known from before."""
        if self._process is not None:
            self._below.update(runs.descendants(self._process.pid))
        return self._below

    def strike(self, victim: str, draw: random.Random) -> bool:
        """Kill its raylet, or one of the workers that are at work. False if there is none."""
        found = []
        for pid in sorted(self._look()):
            with suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]
                works = name.startswith(b"ray::") and not name.endswith((b"Agent", b"IDLE"))
                found += [pid] if (name.endswith(b"/raylet") if victim == "raylet" else works) else []
        if found:
            os.kill(draw.choice(found), signal.SIGKILL)
        self._is_broken |= victim == "raylet"
        return bool(found)

    def end(self) -> None:
        if self._process is not None:
            below = sorted(self._look())
            self._process.kill()
            self._process.communicate()
            runs.end_all(below)
        self._process, self._below, self._is_broken = None, set(), False


@dataclass
class Site:
    """What serves all seeds. proxy: None without a store. cluster: None without Ray."""

    proxy: Proxy | None
    cluster: Cluster | None

    def strike(self, victim: str, driver: Any, draw: random.Random) -> str:
        """Kill it; returns what was killed: the driver if there is no such process yet."""
        if victim == "proxy" and self.proxy is not None:
            self.proxy.again()
            return victim
        if victim in ("worker", "raylet") and self.cluster is not None and self.cluster.strike(victim, draw):
            return victim
        driver.kill()
        return "driver"


@contextmanager
def server() -> Iterator[int]:
    """The port of a fresh S3 server with the bucket; this process talks to it directly."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            os.environ |= endpoint(port) | {"AWS_DEFAULT_REGION": "us-east-1"}
            os.environ |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark")
            storage.filesystem(BUCKET)[0].call_s3("create_bucket", Bucket=BUCKET.removeprefix("s3://"))
            yield port
        finally:
            process.kill()


def endpoint(port: int) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
