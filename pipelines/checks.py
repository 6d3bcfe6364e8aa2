"""Checks over whole datasets that no single shard can make."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..infra import ledger, storage


def shared_keys(root: str, output: str, shards: Sequence[str], most: int = 5) -> list[tuple[str, list[str]]]:
    """Keys that are in more than one shard, at most `most` of them, each with the names of its shards.

    Keys are unique in a dataset: crops and order follow from them, and a gallery or a ledger is searched by them.

    Args:
        output: a label or column that every one of `shards` has; only its keys are read.
    """

    def keys(shard: str) -> pa.ChunkedArray:
        with storage.open_binary(ledger.output_url(root, output, shard)) as file:
            return pq.read_table(file, columns=["key"]).column("key")

    # Threads wait for storage; more would hold more columns of keys at a time.
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(keys, shards))
    chunks = [chunk for array in arrays for chunk in array.chunks]
    if not chunks:
        return []
    counts = pc.value_counts(pa.chunked_array(chunks))
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").slice(0, most)
    holders = list(zip(shards, arrays, strict=True))
    return [
        (key, [shard for shard, array in holders if pc.any(pc.equal(array, key)).as_py()]) for key in twice.to_pylist()
    ]
