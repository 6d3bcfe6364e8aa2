"""The job of a download as the engine runs it: a task is a slice of the table."""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...infra import cluster, faults, scratch
from ..engine import access
from ..engine.job import Demand, Hints, NodeSetup, PlaceError, Status
from ..engine.settings import Engine
from . import failures, slice_files, table, texts
from .failures import Failure
from .fetcher import Fetcher, Row
from .img2dataset import Img2dataset
from .limits import Limiter
from .own import OwnFetcher
from .pictures import Picture
from .settings import Download
from .slice_files import Spool, Stats
from .table import Slice

_GIB, _MIB = 2**30, 2**20
_OFFLINE = (failures.DNS, failures.CONNECTION, failures.TIMEOUT)
LEAST_HOSTS = 20  # none of which is reached, so that it must be this machine


@dataclass(frozen=True)
class Task:
    """A slice to make. again: it is finished, and failures of these classes are fetched again. there: parts of a slice
    of several shards that are finished."""

    slice: Slice
    again: tuple[str, ...] = ()
    there: frozenset[int] = frozenset()


@dataclass(frozen=True)
class DownloadJob:
    """settings: with an absolute `out`. columns: as of `Sliced`. sample: a file of the table, that nodes must reach."""

    settings: Download
    columns: tuple[str, str, str]
    max_pixels: int
    user_agent: str
    sample: str = ""
    engine: Engine = field(default_factory=Engine)

    def demand(self, gpu_there: bool) -> Demand:
        buffers = self.settings.buffer_mib * _MIB
        decoded = self.engine.decode_threads * 3 * self.max_pixels
        return Demand(self.engine.cpus or 1.0, 0.0, int(0.5 * _GIB + buffers + decoded))

    def uses_torch(self) -> bool:
        return False

    def node_setups(self) -> Sequence[NodeSetup]:
        return access.asked(self.settings.out, self.sample, cluster.started_here())

    def advice_if_too_large(self) -> str:
        return "lower download.buffer_mib, images.max_pixels or engine.decode_threads"

    def limiter(self) -> Limiter:
        """What all workers ask, in one process of the cluster."""
        return Limiter(self.settings.per_host, self.settings.host_interval)


@dataclass(frozen=True)
class TextsJob(DownloadJob):
    """text: the column of texts."""

    text: str = ""

    def demand(self, gpu_there: bool) -> Demand:
        return Demand(self.engine.cpus or 1.0, 0.0, int(0.5 * _GIB) + 4 * texts.CHARACTERS)

    def advice_if_too_large(self) -> str:
        return "it needs nodes with 2 GiB of free memory"


class DownloadWorker:
    """Makes slices. `run` is called from two threads, so that one slice's last slow hosts keep no other slice waiting.

    Args:
        fetcher: in place of the one that the recipe names.
    """

    def __init__(self, job: DownloadJob, fetcher: Fetcher | None = None) -> None:
        self.job, self._fetcher = job, fetcher
        self._limiter: Callable[..., Any] | None = None
        self._name = secrets.token_hex(8)
        self._samples, self._failures = 0, Counter[str]()
        self._lock = threading.Lock()

    def share(self, call: Callable[..., Any]) -> None:
        """Called by the engine before `setup`: (name of a method, its arguments) of the limiter of all workers."""
        self._limiter = call

    def setup(self, device: str) -> None:
        ask = self._limiter or functools.partial(_call, self.job.limiter())
        if self._fetcher is None:
            job = self.job
            asked = functools.partial(ask, "ask", self._name)
            given = job.settings, job.max_pixels, asked, job.user_agent, job.engine.decode_threads
            ours = job.settings.fetcher == "fourmill"
            self._fetcher = OwnFetcher(*given) if ours else Img2dataset(*given)

    def run(self, task: Task, hints: Hints) -> Stats:
        try:
            return self._make(task)
        except Exception as error:
            if faults.of_place(error):
                raise PlaceError.of(error, f"slice {slice_files.name_of(task.slice.number)}") from None
            raise

    def status(self) -> Status:
        with self._lock:
            return Status(self._samples, Counter(self._failures))

    def close(self) -> None:
        if self._fetcher:
            self._fetcher.close()

    def _make(self, task: Task) -> Stats:
        job, one, start = self.job, task.slice, time.time()
        assert self._fetcher is not None, "setup comes first"
        with scratch.folder() as folder:
            spool = Spool(folder, one.rows)
            try:
                if task.again:
                    rows, fetch = slice_files.load(job.settings.out, one.number, spool, task.again)
                else:
                    rows, fetch = table.read(one, job.columns), list(range(one.rows))
                urls, sums = rows.column("url").to_pylist(), table.hashes(rows, job.columns)
                asked = [Row(i, urls[i] or "", sums[i]) for i in fetch]

                def done(index: int, result: Picture | Failure) -> None:
                    spool.add(index, result)
                    with self._lock:
                        if isinstance(result, Failure):
                            self._failures[result.kind] += 1
                        else:
                            self._samples += 1

                self._fetcher.fetch(asked, done)
                _check_reached(asked, spool)
                times = (start, time.time())
                return slice_files.put(one, job.settings.out, rows, spool, job.settings.shard_size, folder, times)
            finally:
                spool.close()


class TextsWorker(DownloadWorker):
    """Makes slices of texts."""

    job: TextsJob

    def setup(self, device: str) -> None:
        """Nothing is fetched."""

    def _make(self, task: Task) -> Stats:
        return texts.make(task.slice, self.job.settings, self.job.text, task.there, self._count)

    def _count(self, made: Stats) -> None:
        with self._lock:
            self._samples += made.successes
            self._failures.update(made.failures)


def _check_reached(rows: Sequence[Row], spool: Spool) -> None:
    """PlaceError if nothing at all was reached of many hosts: a slice that failed for a machine without a network would
    count as finished."""
    results = [spool.results[row.index] for row in rows]
    if any(not isinstance(one, Failure) or one.kind not in _OFFLINE for one in results):
        return
    if len({_host(row.url) for row in rows}) >= LEAST_HOSTS:
        kinds = Counter(one.kind for one in results if isinstance(one, Failure))
        said = ", ".join(f"{kind} x{count}" for kind, count in kinds.most_common())
        raise PlaceError(f"none of {len(rows)} URLs could be reached ({said}); has this machine a way out?", "network")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _call(limiter: Limiter, method: str, *arguments: Any) -> Any:
    return getattr(limiter, method)(*arguments)
