"""A removal in the columns, labels and records of a root: rows become null, and records are written again over them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...infra import ledger, removals, storage
from ...infra.ledger import SAMPLES, Record, Source
from ...infra.removals import Removals
from ...tokenize import table_file
from .. import chunk_files

logger = logging.getLogger(__name__)

THREADS = 8  # that wait for storage; each holds a file


def places(root: str) -> list[tuple[str, str]]:
    """(output, shard) of every file of columns and labels, committed or not, and of every record of samples."""
    found = []
    for family in ledger.FAMILIES:
        for name in storage.list_names(storage.join(root, family)):
            files = storage.list_names(storage.join(root, family, name))
            found += [(f"{family}/{name}", one.removesuffix(".parquet")) for one in files if one.endswith(".parquet")]
    records = storage.list_names(storage.join(root, "ledger", SAMPLES))
    return found + [(SAMPLES, one.removesuffix(".json")) for one in records if one.endswith(".json")]


def reach(root: str, removed: Removals, sources: Mapping[str, Source]) -> tuple[dict[str, set[str]], list[str]]:
    """Remove from every output.

    Args:
        sources: what records say of shards that were written again.

    Returns:
        Keys that are there, by shard; and what could not be done, a sentence for each file.
    """
    found: dict[str, set[str]] = {}
    problems = []

    def one(place: tuple[str, str]) -> tuple[str, set[str], str]:
        output, shard = place
        try:
            return shard, _file(root, output, shard, removed.of_shard(shard), sources.get(shard)), ""
        except (OSError, ValueError) as error:
            return shard, set(), f"{output}/{shard}: {error}"

    listed = places(root)
    with ThreadPoolExecutor(THREADS) as pool:
        for shard, keys, problem in pool.map(one, [place for place in listed if place[0] != SAMPLES]):
            found.setdefault(shard, set()).update(keys)
            problems += [problem] if problem else []
    for shard in (shard for output, shard in listed if output == SAMPLES):
        try:  # which keys a shard has, its files said: a record of samples alone has no keys
            _samples(root, shard, found.get(shard, set()), sources)
        except (OSError, ValueError) as error:
            problems.append(f"{SAMPLES}/{shard}: {error}")
    return {shard: keys for shard, keys in found.items() if keys}, problems


def delete_chunks(root: str, removed: Removals, problems: list[str]) -> dict[str, set[str]]:
    """Delete the chunks that have a removed sample: the next run makes their rows again. Which keys they had, by shard.

    Args:
        problems: gets a sentence for each that cannot be deleted.
    """
    found: dict[str, set[str]] = {}
    for shard in chunk_files.shards(root):
        for place in chunk_files.of_shard(root, shard):
            try:
                keys = set(chunk_files.read(root, place).keys) & removed.of_shard(shard)
                if keys:
                    storage.delete(storage.join(root, place.path))
                    found.setdefault(shard, set()).update(keys)
            except FileNotFoundError:  # its shard is done by now
                continue
            except ValueError:  # damaged: nobody takes it
                storage.delete(storage.join(root, place.path))
            except OSError as error:
                problems.append(f"{place.path}: {error}")
    return found


def _file(root: str, output: str, shard: str, keys: Collection[str], source: Source | None) -> set[str]:
    """Remove from one file, and give the keys that it has."""
    url = ledger.output_url(root, output, shard)
    record = ledger.read(root, output, shard)
    there = set(table_file.keys(url)) & set(keys)
    if not there and (record is None or source is None):
        return there
    data, lost = table_file.nulled(storage.read_bytes(url), there)
    if record is None:  # of a killed job, or of a removal that was: it counts as missing, and holds what it holds
        if lost:
            storage.put(url, data)
        return there
    changed = replace(record, rejects=rejects(record, there), source=source or record.source)
    if lost or changed != record:
        keys_sum, content = table_file.content(data)
        ledger.commit(root, replace(changed, nulls=record.nulls + lost, keys=keys_sum, content=content), data)
    return there


def _samples(root: str, shard: str, there: Collection[str], sources: Mapping[str, Source]) -> None:
    """Remove from the record of a shard's samples; `there` are the keys that its files have."""
    record = ledger.read(root, SAMPLES, shard)
    if record is None:
        return
    changed = replace(record, source=sources.get(shard, record.source), rejects=rejects(record, there))
    if changed != record:
        ledger.commit(root, changed, None)


def rejects(record: Record, keys: Collection[str]) -> list[dict[str, str]]:
    """The rejects of a record with these keys among them, as removed: in the place of the reasons that they had."""
    left, kept = dict.fromkeys(sorted(keys)), []
    for reject in record.rejects:
        if reject["key"] not in keys:
            kept.append(reject)
        elif reject["key"] in left:  # a key may have several: a second image, broken JSON
            del left[reject["key"]]
            kept.append({"key": reject["key"], "reason": removals.REASON})
    return kept + [{"key": key, "reason": removals.REASON} for key in left]
