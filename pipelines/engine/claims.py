"""Which tasks the drivers of one root are at, so that two jobs that run at the same time do no work twice.

ROOT/ledger/drivers/ID.json is a driver's own file: the names of the tasks that it has claimed, those that it wants to
claim, and a count that it raises every few seconds. Others leave these tasks alone. A file that has not changed for a
minute, or whose process has gone from this machine, is of a driver that died: its claims are void. Claims only spare
work: what two jobs commit is safe without them (`ledger.commit`).

A driver writes what it wants and looks again before it takes anything: of two that want the same task at least the
later one sees the other. The younger one then lets it go; the older one waits until it has, or has taken it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from ...infra import storage

logger = logging.getLogger(__name__)

FOLDER = "drivers"
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0  # without a beat
LOOK_SECONDS = 2.0  # between two looks at what others claim, when nothing was free
AGREE_SECONDS = 5.0  # that a driver waits for another one to take a task or to let it go


@dataclass
class _Other:
    """Another driver as it was last seen: its count, when that last changed (of this clock), what it has claimed, and
    what it wants to."""

    beat: int
    changed: float
    names: frozenset[str]
    wanted: frozenset[str]


@dataclass
class Claims:
    """The claims of one driver; use as a context manager.

    root: URL that all drivers of these tasks see.
    held: names that this driver has claimed. others: names that another driver is at, when last looked.
    """

    root: str
    held: set[str] = field(default_factory=set)
    others: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.folder = storage.join(self.root, "ledger", FOLDER)
        # Ordered by time: of two that want one task at the same moment the older driver has it.
        self.identity = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._wanted: set[str] = set()
        self._seen: dict[str, _Other] = {}
        self._beat, self._next_look = 0, 0.0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="fourmill-claims", daemon=True)

    def __enter__(self) -> Claims:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        try:
            storage.delete(self._url(self.identity))
        except OSError as problem:  # it expires
            logger.warning("claims cannot be removed: %s", problem)

    def take(self, names: Iterable[str], most: int) -> None:
        """Claim the first `most` of these names that no other driver is at."""
        if time.monotonic() < self._next_look:
            return
        self._look()
        free = list(islice((name for name in names if name not in self.others and name not in self.held), most))
        if free:
            self._want(free)
            taken = self._agreed()
            with self._lock:
                self.held |= taken
                self._wanted = set()
            if self._seen:  # else they read it with the next claim or beat, and leave alone what is wanted
                self._write()
        if not self.held & set(free):
            self._next_look = time.monotonic() + LOOK_SECONDS

    def release(self, name: str) -> None:
        """The task is done, or given up. Others see it at the next beat or claim."""
        with self._lock:
            self.held.discard(name)

    def _want(self, names: Iterable[str]) -> None:
        with self._lock:
            self._wanted = set(names)
        self._write()

    def _agreed(self) -> set[str]:
        """What is wanted here and by no other driver that has it, or comes first."""
        end = time.monotonic() + AGREE_SECONDS
        while True:
            self._look()
            older = [one.wanted for identity, one in self._seen.items() if identity < self.identity]
            lost = self._wanted & frozenset().union(*(one.names for one in self._seen.values()), *older)
            if lost:
                self._want(self._wanted - lost)
            # A younger driver may have looked before this one wrote, and be about to take it.
            open_ = self._wanted & frozenset().union(*(one.wanted for one in self._seen.values()))
            if not open_ or time.monotonic() > end:
                return self._wanted - open_
            time.sleep(0.02)

    def _look(self) -> None:
        """Read the files of the other drivers."""
        now, seen = time.monotonic(), {}
        for file in storage.list_names(self.folder):
            identity = file.removesuffix(".json")
            if identity == self.identity or not file.endswith(".json"):
                continue
            content = self._read(identity)
            beat = int(content.get("beat", -1))
            before = self._seen.get(identity)
            changed = before.changed if before is not None and before.beat == beat else now
            if now - changed > EXPIRES_SECONDS or _is_dead(content):
                storage.delete(self._url(identity))
                continue
            names, wanted = (frozenset(map(str, content.get(name, ()))) for name in ("names", "wanted"))
            seen[identity] = _Other(beat, changed, names, wanted)
        self._seen = seen
        self.others = frozenset().union(*(one.names | one.wanted for one in seen.values()))

    def _read(self, identity: str) -> dict[str, Any]:
        """A driver's file; {} if it is being written, damaged or gone."""
        try:
            content = json.loads(storage.read_bytes(self._url(identity)))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            content = {"beat": self._beat, "names": sorted(self.held), "wanted": sorted(self._wanted), **_process()}
            storage.put(self._url(self.identity), json.dumps(content).encode())

    def _keep_beating(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self._write()
            except Exception as error:  # whatever the storage raises: the next beat may come through
                logger.warning("claims cannot be written: %s", error)

    def _url(self, identity: str) -> str:
        return storage.join(self.folder, f"{identity}.json")


def _process() -> dict[str, Any]:
    """What tells on this machine whether a process lives."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    """This machine, and what numbers its processes: containers of one name may number their own."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks, "" if there is none: numbers of processes are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_dead(content: dict[str, Any]) -> bool:
    """Whether a driver of this machine has gone."""
    if content.get("host") != _host() or not content.get("started"):
        return False
    return _started(int(content["pid"])) != content["started"]
