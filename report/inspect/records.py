"""The ledger of a root for `fourmill inspect`: its records, what stages note beside them, and whether a file is one."""

from __future__ import annotations

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import Any

from ...infra import ledger, storage
from ...infra.explain import reason_class
from ...infra.index.listing import THREADS
from ...infra.ledger import Entry, Record
from . import foreign
from .view import Inspection

MAX_RECORDS = 2_000  # read of each folder of the ledger; beyond that evenly spread ones
SHOWN_REJECTS = 16
AGAIN = "delete it and run the stage again"
_RECORD = {field.name for field in fields(Record)}
_STAGE = {"seconds", "made", "samples", "unit"}


def inspect_json(path: str, url: str) -> Inspection:
    """Facts of a JSON file: a ledger record, the times of a stage, or a file of another program.

    Raises:
        ValueError: it is no JSON; says so if it is a damaged record.
    """
    try:
        value = foreign.read_json_value(path, url)
    except ValueError as error:
        raise ValueError(f"{error}{advice(url)}") from None
    if _is_record(value):
        return _inspect_record(path, url)
    if isinstance(value, dict) and value.keys() >= _STAGE:
        stage = posixpath.basename(url).removesuffix(".json")
        return Inspection({"path": path, "kind": "times of a stage", "stage": stage, **value, "sample": None})
    return foreign.inspect_json(path, url, value)


def advice(url: str) -> str:
    """What to do about a damaged file, as the end of a sentence; "" unless it is proven to be one of fourmill's.

    A record proves itself by its first bytes, which name the output and the shard that its place stands for; the file
    of an output is proven by its record, which knows another size.
    """
    head, name = posixpath.split(url)
    if name.endswith(".json") and "/ledger/" in head:
        output = head.rsplit("/ledger/", 1)[1]
        shard = json.dumps(name.removesuffix(".json"), ensure_ascii=False)
        start = f'{{\n "output": {json.dumps(output)},\n "shard": {shard}'.encode("utf-8", "surrogatepass")
        if storage.read_bytes(url).startswith(start):
            return f"; it is a damaged ledger record of fourmill: {AGAIN}"
    family, output = posixpath.split(head)
    root, family = posixpath.split(family)
    if name.endswith(".parquet") and family in ("tokens", "labels"):
        record = _read(ledger.record_url(root, f"{family}/{output}", name.removesuffix(".parquet")))
        stat = storage.stat(url)
        if isinstance(record, Record) and stat is not None and stat.size != record.bytes:
            return f"; it has {stat.size:,} bytes, {record.bytes:,} by its ledger record: {AGAIN}"
    return ""


def _is_record(value: Any) -> bool:
    """Whether JSON is a ledger record, also one of another release that has other fields besides."""
    return isinstance(value, dict) and {"output", "shard", "fingerprint", "source"} <= value.keys()


def _inspect_record(path: str, url: str) -> Inspection:
    record = _read(url)
    if not isinstance(record, Record):
        raise ValueError(record or f"{path}: this is no ledger record")
    marker = f"/ledger/{record.output}/{record.shard}.json"
    root = url.removesuffix(marker) if url.endswith(marker) else None
    stat = None
    if root is not None and record.output.startswith(("tokens/", "labels/")):
        stat = storage.stat(ledger.output_url(root, record.output, record.shard))
    facts = {
        "path": path,
        "kind": "ledger record",
        **{n: getattr(record, n) for n in ("output", "shard", "fingerprint", "rows", "nulls", "bytes", "sha256")},
        "bytes_per_sample": record.bytes / record.rows if record.rows else None,
        "seconds": record.seconds,
        "code": record.code,
        "file_bytes": stat.size if stat else None,
        "file_matches": None if stat is None else stat.size == record.bytes,
        "source": asdict(record.source),
        "identity": record.identity,
        "rejects": dict(Counter(reason_class(reject["reason"]) for reject in record.rejects)),
        "rejected": record.rejects[:SHOWN_REJECTS],
        "sample": None,
    }
    return Inspection(facts)


def inspect_ledger(path: str, folder: str) -> Inspection | None:
    """Facts of a folder of ledger records (the whole ledger, or that of one family or output); None if it has none."""
    outputs, rejects, remarks = summarize(folder)
    if not outputs and not remarks:
        return None
    facts = {"path": path, "kind": "ledger", "outputs": outputs, "rejects": rejects, "notes": remarks, "sample": None}
    return Inspection(facts)


def summarize(
    folder: str, known: Mapping[tuple[str, str], Entry] | None = None
) -> tuple[list[dict[str, Any]], dict[str, int], list[str]]:
    """(a row for each output, reason -> rejects, remarks on damaged or unread records) below a folder of the ledger.

    Args:
        known: of the whole ledger, the records that were read, by (output, shard); the others are read here. Without
            it evenly spread ones are, where there are many.
    """
    by_output: dict[str, dict[str, Entry]] = defaultdict(dict)
    for (output, shard), entry in (known or {}).items():
        by_output[output][shard] = entry
    rows, rejects, remarks = [], Counter[str](), []
    for url, names in _folders(folder):
        there = by_output.get(url.removeprefix(f"{folder}/"), {})
        left = [name for name in names if name.removesuffix(".json") not in there]
        chosen = left[:: max(1, -(-len(left) // MAX_RECORDS))]
        with ThreadPoolExecutor(THREADS) as pool:
            read = list(pool.map(_read, [storage.join(url, name) for name in chosen]))
        others = [ledger.entry(one) for one in read if isinstance(one, Record)]
        remarks += [one for one in read if isinstance(one, str)]
        if there and others:
            remarks.append(
                f"{others[0].output}: {len(others):,} records do not count: their files are missing, or other ones, or "
                "came a moment ago; `fourmill check` says more"
            )
        records = list(there.values()) or others
        if not records:
            continue
        for one in records:
            rejects.update({f"{one.output}: {reason}": count for reason, count in one.reasons.items()})
        if not there and len(chosen) < len(left):
            remarks.append(f"{records[0].output}: sums are of {len(chosen):,} of {len(left):,} records")
        rows.append(_row(records, len(names)))
    return rows, dict(rejects), remarks


def has_records(folder: str) -> bool:
    """Whether there is a record below a folder of the ledger."""
    return any(isinstance(_read(storage.join(url, name)), Record) for url, names in _folders(folder) for name in names)


def _row(records: Sequence[Entry], count: int) -> dict[str, Any]:
    """The sums of an output's records, of which there are `count`."""
    total = {n: sum(getattr(r, n) for r in records) for n in ("rows", "nulls", "bytes")}
    return {
        "output": records[0].output,
        "records": count,
        **total,
        "bytes_per_sample": total["bytes"] / total["rows"] if total["rows"] and total["bytes"] else None,
        "fingerprints": len({r.fingerprint for r in records}),
    }


def _folders(folder: str, depth: int = 3) -> Iterator[tuple[str, list[str]]]:
    """Folders with JSON files at or below `folder`, in order, and the names of these files."""
    names = storage.list_names(folder)
    if files := [name for name in names if name.endswith(".json")]:
        yield folder, files
    if depth:
        for name in names:
            if not name.endswith(".json"):
                yield from _folders(storage.join(folder, name), depth - 1)


def _read(url: str) -> Record | str | None:
    """The record in a file; or what is wrong with it; None if it is none (or not there), which is nothing wrong.

    Beside records lie ledger/stages/*.json, the times of stages.
    """
    try:
        return ledger.parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None
    except ValueError:
        return _why_unread(url)


def _why_unread(url: str) -> str | None:
    try:
        value = foreign.read_json_value(url, url)
    except ValueError as error:
        damaged = advice(url)
        return f"{error}{damaged}" if damaged else None
    if not _is_record(value):
        return None
    if "sum" in value:
        return f"{url}: it is a damaged ledger record of fourmill, its sum is another one: {AGAIN}"
    unknown = sorted(value.keys() ^ _RECORD)
    return f"{url}: a ledger record of another release of fourmill; it differs in {', '.join(unknown) or 'source'}"


def uncommitted(root: str) -> list[str]:
    """Files of outputs that have no record, "tokens/tok_rgb/00003": left by a killed job, or put there by hand."""
    without = []
    for family in ledger.FAMILIES:
        for name in storage.list_names(storage.join(root, family)):
            listed = storage.list_names(storage.join(root, family, name))
            files = {n.removesuffix(".parquet") for n in listed if n.endswith(".parquet")}
            records = {n.removesuffix(".json") for n in storage.list_names(storage.join(root, "ledger", family, name))}
            without += [f"{family}/{name}/{shard}" for shard in sorted(files - records)]
    return without
