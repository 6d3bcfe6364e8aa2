"""The stages that work on shards, on the cluster: label and tokenize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...infra import ledger
from ...infra.ledger import Entry
from ..engine import driver
from ..engine.job import NO_HINTS, Hints
from ..plan import ShardTask
from .job import Job
from .shard_worker import ShardWorker


@dataclass
class Outcome:
    """What came of the shards: records of what was committed, and shards that could not be done with the reason.

    ready_seconds: of `seconds`, those until the first actor was ready.
    """

    records: list[Entry] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    seconds: float = 0.0
    ready_seconds: float = 0.0


class _Worker(ShardWorker):
    """Tells the driver what it needs of the records: it holds those of all shards."""

    def run(self, task: ShardTask, hints: Hints = NO_HINTS) -> list[Entry]:  # type: ignore[override]
        return [ledger.entry(record) for record in super().run(task, hints)]


def run(job: Job, tasks: Sequence[ShardTask], stage: str) -> Outcome:
    """Make what the shards lack.

    Args:
        stage: the verb, for the progress line.

    Raises:
        RejectRun: a run of rejects stopped the job; what was committed before stays.
        ValueError: an actor fits on no node, or cannot start.
    """
    if not tasks:  # then there need be no job
        return Outcome()
    by_name = {task.shard: task for task in tasks}
    done = driver.run(job, _Worker, by_name, stage, "shards", job.root, tasks[0].url)
    records = [record for records in done.results.values() for record in records]
    # Every output of a shard has the same rows; each shard counts once.
    samples = sum({record.shard: record.rows for record in records}.values())
    return Outcome(records, done.failures, samples, done.seconds, done.ready_seconds)
