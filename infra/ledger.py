"""The ledger: one small JSON record for each committed output, and the only truth about what exists.

ROOT/ledger/OUTPUT/SHARD.json, where OUTPUT is "labels/canny_edge", "tokens/tok_rgb" or "samples". An output exists if
and only if its record does and its fingerprint is the one that the recipe asks for now.

The order of a commit makes every moment safe to be killed in: a stale record is deleted first, then the data is put
in one step, then the record. A file without a record is nothing; a record is written only over a whole file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .. import __version__
from . import storage

logger = logging.getLogger(__name__)

SAMPLES = "samples"  # the output that says which samples a shard holds: a record without a file
ATTEMPTS = 8  # at a commit that another job disturbs; each of its commits can disturb us once


@dataclass(frozen=True)
class Source:
    """The input of a record: the shard's size, its version on storage (ETag or mtime), and the SHA-256 of its bytes."""

    size: int
    version: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """What is known of one committed output of one shard.

    fingerprint: hash of everything the output depends on besides the shard (specialists, tokenizer, options).
    identity: the same in words, so that a person can see what a fingerprint stood for.
    splits: batches of the shard that did not fit into memory and were made in parts, which may change last digits.
    rows: rows of the file; nulls: rows without a value, each with its reason in `rejects` (key, reason).
    bytes, sha256: of the file. seconds: wall time of the shard's work that made it (shared by its sibling outputs).
    """

    output: str
    shard: str
    fingerprint: str
    source: Source
    rows: int
    nulls: int
    rejects: list[dict[str, str]]
    bytes: int
    sha256: str
    seconds: float
    identity: dict[str, Any] = field(default_factory=dict)
    code: str = __version__
    splits: list[str] = field(default_factory=list)


def dumps(record: Record) -> bytes:
    """A record as it is stored: JSON a person can read."""
    return (json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def record_url(root: str, output: str, shard: str) -> str:
    return storage.join(root, "ledger", output, f"{shard}.json")


def output_url(root: str, output: str, shard: str) -> str:
    return storage.join(root, output, f"{shard}.parquet")


def parse(data: bytes, where: str) -> Record:
    """A record from its bytes. ValueError naming the file if it is none."""
    try:
        raw = json.loads(data.decode("utf-8", "surrogatepass"))
        return Record(**{**raw, "source": Source(**raw["source"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where} is no ledger record ({error}); delete it and run the stage again") from error


def read(root: str, output: str, shard: str) -> Record | None:
    """The record of one output, or None."""
    url = record_url(root, output, shard)
    try:
        return parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None


def read_many(root: str, outputs: list[str], shards: list[str]) -> dict[tuple[str, str], Record]:
    """The records of these outputs and shards, by (output, shard): two listings an output, then reads in parallel.

    A record whose file somebody has deleted does not count.
    """

    def existing(output: str) -> list[tuple[str, str]]:
        records = set(storage.list_names(storage.join(root, "ledger", output)))
        files = set(storage.list_names(storage.join(root, output))) if output != SAMPLES else None
        return [
            (output, shard)
            for shard in shards
            if f"{shard}.json" in records and (files is None or f"{shard}.parquet" in files)
        ]

    with ThreadPoolExecutor(16) as pool:
        pairs = [pair for of_output in pool.map(existing, outputs) for pair in of_output]
        records = pool.map(lambda pair: read(root, *pair), pairs)
        return {pair: record for pair, record in zip(pairs, records, strict=True) if record is not None}


def commit(root: str, record: Record, data: bytes | None) -> Record:
    """Make an output exist: its data first (None for outputs that are their record alone), then its record.

    Returns the record as committed, with `bytes` and `sha256` of the data. Two jobs that commit the same output do no
    harm: the record is claimed by a conditional PUT that one of them wins. If the other one holds the same bytes that
    is all; if it works for another recipe, its record may stand over our data, so we commit again, and the last one
    to commit counts. OSError if that does not end.
    """
    url = record_url(root, record.output, record.shard)
    if data is not None:
        record = replace(record, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    for attempt in range(ATTEMPTS):
        if attempt:
            logger.warning("%s: another job committed it at the same time; attempt %d", url, attempt + 1)
        # The stale record goes first: it must never stand over the new data.
        if storage.exists(url):
            storage.delete(url)
        if data is not None:
            storage.put(output_url(root, record.output, record.shard), data)
        if storage.put(url, dumps(record), if_absent=True):
            return record
        other = read(root, record.output, record.shard)
        if other is not None and _content(other) == _content(record):
            return record
    raise OSError(f"{url}: other jobs keep committing other contents; do not run two recipes on one root at a time")


def _content(record: Record) -> tuple[str, str, str]:
    return record.fingerprint, record.source.sha256, record.sha256
