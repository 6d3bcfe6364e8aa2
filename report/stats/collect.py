"""Summaries of a root's columns and labels: those that are kept, and those that are made now, each file read once.

Kept in ROOT/stats/OUTPUT/NAME.parquet, of some shards each, by the SHA-256 of what was read. A file that was made
again, or rows of which were removed, has another one: its summary does not count any more, and goes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ...infra import cluster, storage
from ...infra.fingerprint import fingerprint
from ...infra.ledger import Entry, output_url
from ...infra.progress import Progress
from ...modalities import import_modules
from ...pipelines.engine import driver
from ...pipelines.engine.access import Access
from ...pipelines.engine.job import Demand, Hints, NodeSetup, PlaceError, Status
from ...pipelines.engine.settings import Engine
from .measure import Notice, measure
from .summary import Summary, read, shards_of, write

logger = logging.getLogger(__name__)

FOLDER = "stats"
FILES, BYTES = 64, 256 << 20  # of one part, at most, if it has several files
LARGE = 4 << 30  # bytes from which a Ray of this machine is started: it takes as long as reading some of them
THREADS = 4  # of this process, below that
_GIB = 2**30

Of = TypeVar("Of")


@dataclass(frozen=True)
class File:
    """A file to read: its shard, the SHA-256 and the size that its record has, and the sum of its footer."""

    shard: str
    sha256: str
    footer: str
    bytes: int

    @classmethod
    def of(cls, record: Entry) -> File:
        return cls(record.shard, record.sha256, record.footer, record.bytes)


@dataclass(frozen=True)
class Part:
    """Files of one output that are read one after the other, whose summaries lie in one file."""

    output: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Made:
    """What came of a part: samples that were read, and why files could not be read, by shard."""

    samples: int
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StatsJob:
    """What actors need to know. modules: of the user's own, which declare labels."""

    root: str
    engine: Engine = field(default_factory=Engine)
    modules: tuple[str, ...] = ()
    largest: int = 0

    def demand(self, gpu_there: bool) -> Demand:
        # A row group of each of two parts, decoded, and the counts of their channels.
        return Demand(1.0, 0.0, 1 * _GIB + 4 * self.largest)

    def uses_torch(self) -> bool:
        return False

    def node_setups(self) -> Sequence[NodeSetup]:
        return (Access.of(self.root),)

    def advice_if_too_large(self) -> str:
        return "use machines with more memory: each actor reads row groups of two files at a time"


class StatsWorker:
    """Reads files, and keeps their summaries."""

    def __init__(self, job: StatsJob) -> None:
        import_modules(job.modules)
        self.job = job
        self._samples = 0
        self._lock = threading.Lock()

    def setup(self, device: str) -> None:
        """Nothing is loaded."""

    def run(self, task: Part, hints: Hints) -> Made:
        try:
            return make(self.job.root, task, self._count)
        except OSError as error:
            raise PlaceError.of(error, f"{task.output}, {task.files[0].shard}") from error

    def _count(self, samples: int) -> None:
        with self._lock:
            self._samples += samples

    def status(self) -> Status:
        return Status(self._samples, Counter())


def make(root: str, part: Part, notice: Notice) -> Made:
    """Read the files of a part and put their summaries into the root."""
    summaries, failures = [], {}
    for file in part.files:
        url = output_url(root, part.output, file.shard)
        try:
            summaries.append(measure(part.output, file.shard, file.sha256, url, file.footer, notice))
        except (FileNotFoundError, ValueError) as error:
            failures[file.shard] = str(error)
    if summaries:
        _put(root, part.output, summaries)
    return Made(sum(one.rows for one in summaries), failures)


def kept(root: str, output: str, records: Mapping[str, Entry]) -> Iterator[Summary]:
    """The summaries of an output that are of its files as they are; each shard once.

    Args:
        records: of the output, by shard.
    """
    seen: set[str] = set()
    for url in _bundles(root, output):
        for one in _decoded(url, storage.read_bytes(url), read):
            if _counts(one, records) and one.shard not in seen:
                seen.add(one.shard)
                yield one


def collect(
    job: StatsJob, records: Mapping[str, Mapping[str, Entry]], stage: str = "stats"
) -> tuple[int, dict[tuple[str, str], str]]:
    """Make the summaries that are not kept yet.

    Args:
        records: of the outputs whose files are looked at, by output and shard.

    Returns: how many files were read, and why some could not be, by (output, shard).
    """
    parts: dict[str, Part] = {}
    for output, of_output in records.items():
        there = _clean(job.root, output, of_output)
        lacking = [File.of(record) for shard, record in sorted(of_output.items()) if shard not in there]
        parts |= {f"{output}/{part.files[0].shard}": part for part in _parts(output, lacking)}
    if not parts:
        return 0, {}
    files = [file for part in parts.values() for file in part.files]
    storage.check_writable(job.root)
    job = StatsJob(job.root, job.engine, job.modules, max(file.bytes for file in files))
    is_large = sum(file.bytes for file in files) >= LARGE
    if cluster.address_of(job.engine.address) or is_large:
        outcome = driver.run(job, StatsWorker, parts, stage, "parts")
        results, lost = outcome.results, outcome.failures
    else:
        results, lost = _here(job, parts, stage, len(files)), {}
    failures = {
        (parts[name].output, shard): why for name, one in results.items() for shard, why in one.failures.items()
    }
    failures |= {(parts[name].output, file.shard): why for name, why in lost.items() for file in parts[name].files}
    return len(files) - len(failures), failures


def _here(job: StatsJob, parts: Mapping[str, Part], stage: str, files: int) -> dict[str, Made]:
    """In this process: NumPy, pyarrow and OpenCV let other threads work."""
    import_modules(job.modules)
    threads = min(THREADS, os.cpu_count() or 1)
    with Progress(stage, files, "files") as progress, ThreadPoolExecutor(threads) as pool:

        def done(part: Part) -> Made:
            made = make(job.root, part, lambda samples: None)
            progress.update(len(part.files))
            return made

        return dict(zip(parts, pool.map(done, parts.values()), strict=True))


def _parts(output: str, files: Sequence[File]) -> list[Part]:
    parts: list[list[File]] = []
    room = 0
    for file in files:
        if not parts or len(parts[-1]) >= FILES or room < file.bytes:
            parts.append([])
            room = BYTES
        parts[-1].append(file)
        room -= file.bytes
    return [Part(output, tuple(part)) for part in parts]


def _clean(root: str, output: str, records: Mapping[str, Entry]) -> set[str]:
    """The shards of which a summary is kept. Those of files that were made again since, or rows of which were removed,
    are taken out."""
    there: set[str] = set()
    for url in _bundles(root, output):
        data = storage.read_bytes(url)
        marks = _decoded(url, data, shards_of)
        stale = {mark for mark in marks if mark[0] in records and records[mark[0]].sha256 != mark[1]}
        if stale or not marks:
            keep = [one for one in _decoded(url, data, read) if (one.shard, one.sha256) not in stale]
            if keep:
                _put(root, output, keep)
            storage.delete(url)
        there |= {shard for shard, _ in marks if shard in records} - {shard for shard, _ in stale}
    return there


def _put(root: str, output: str, summaries: Sequence[Summary]) -> None:
    name = fingerprint([(one.shard, one.sha256) for one in summaries])
    storage.put(storage.join(root, FOLDER, output, f"{name}.parquet"), write(summaries))


def _counts(one: Summary, records: Mapping[str, Entry]) -> bool:
    return one.shard in records and records[one.shard].sha256 == one.sha256


def _bundles(root: str, output: str) -> list[str]:
    folder = storage.join(root, FOLDER, output)
    return [storage.join(folder, name) for name in storage.list_names(folder) if name.endswith(".parquet")]


def _decoded(url: str, data: bytes, decode: Callable[[bytes], list[Of]]) -> list[Of]:
    try:
        return decode(data)
    except ValueError as error:
        logger.warning("%s: %s; its files are read again", url, error)
        return []
