"""What another job has committed of a shard since this job's plan was made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ...infra import ledger, storage
from ...infra.ledger import SAMPLES, Record
from ..plan import ShardTask
from ..sensors import places
from .job import Job


def committed_since(job: Job, task: ShardTask) -> list[Record]:
    """Records of the task's outputs that need not be made any more: newer than the plan, of what is asked for, of the
    shard as it is now, with their files."""

    def newer(name: str) -> Record | None:
        record = ledger.read(job.root, name, task.shard)
        is_new = record is not None and ledger.mark(record) != task.seen[name]
        return record if is_new and record is not None and _is_whole(job, record) else None

    # One request each, all at once: most find nothing.
    with ThreadPoolExecutor(max(1, len(task.seen))) as pool:
        found = [record for record in pool.map(newer, task.seen) if record is not None]
    now = places.stat(task.url) if found else None
    version = None if now is None else (now.size, now.version)
    return [record for record in found if (record.source.size, record.source.version) == version]


def _is_whole(job: Job, record: Record) -> bool:
    if job.outputs[record.output].outdated(record, {}) != []:
        return False
    if record.output == SAMPLES:
        return True
    stat = storage.stat(ledger.output_url(job.root, record.output, record.shard))
    return stat is not None and not ledger.damage(job.root, record, stat.size, footers=True)
