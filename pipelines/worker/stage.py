"""The stages that work on shards, on the cluster: label and tokenize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...infra.index.file import Line, Shared, line_of
from ...infra.ledger import Entry
from ..engine import driver
from ..engine.job import NO_HINTS, Hints
from ..plan import ShardTask
from .job import Job
from .shard_worker import ShardWorker


@dataclass
class Outcome:
    """What came of the shards: records of what was committed, and shards that could not be done with the reason.

    lines: the records once more, as an index has them: what this job wrote itself, nobody need read back for it.
    ready_seconds: of `seconds`, those until actors were ready, the mean of all that were started.
    """

    records: list[Entry] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    ready_seconds: float = 0.0


class _Worker(ShardWorker):
    """Tells the driver what it needs of the records: it holds those of all shards."""

    def run(self, task: ShardTask, hints: Hints = NO_HINTS) -> list[Line]:  # type: ignore[override]
        return [line_of(one) for one in self.make(task, hints)]


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
    shared = Shared()
    done = driver.run(job, _Worker, by_name, stage, "shards", job.root, tasks[0].url, taken=shared.lines)
    lines = [line for lines in done.results.values() for line in lines]
    records = [line.entry for line in lines]
    # Every output of a shard has the same rows; each shard counts once.
    samples = sum({record.shard: record.rows for record in records}.values())
    return Outcome(records, done.failures, lines, samples, done.seconds, done.ready_seconds)
