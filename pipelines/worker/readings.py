"""Outputs of a shard whose members the first release grouped otherwise (grouping.py): their rows are of other keys."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...infra import ledger, storage
from ...infra.secrets import public
from ...tokenize import table_file
from ..plan import ShardTask

logger = logging.getLogger(__name__)


def drop_other_readings(root: str, task: ShardTask, keys: Sequence[str]) -> None:
    """Delete the records of a shard's outputs that have other keys than its tar: the first release grouped its members
    otherwise, and rows of both do not belong together.

    ValueError if the task would read one of them.
    """
    dropped = []
    for output in ledger.outputs(root):
        record = ledger.read(root, output, task.shard)
        if record is not None and (
            record.rows != len(keys) or (record.keys and record.keys != table_file.sum_of_keys(keys))
        ):
            storage.delete(ledger.record_url(root, output, task.shard))
            dropped.append(output)
    if dropped:
        logger.warning("shard %s: the first release read its members otherwise: %s count no more", task.shard, dropped)
    if {f"labels/{label}" for label in task.stored} & set(dropped):
        raise ValueError(
            f"shard {public(task.url)}: its labels were made by the first release, which grouped its members "
            "otherwise; run the same command again, which makes them again"
        )
