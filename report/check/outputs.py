"""Labels and columns: every record against its file, and the files of a shard against each other."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...infra import footers, ledger, storage
from ...infra.index.file import Shared
from ...infra.ledger import SAMPLES, Entry, Record
from ...modalities import Kind
from ...tokenize import labels, store, table_file
from .finding import Finding
from .listing import Listing


@dataclass(frozen=True, slots=True)
class Checked:
    """One output of one shard.

    keys: sum of its keys; "" if it is not known. source: SHA-256 of the shard that it was made of.
    entry: its record, if it can be read.
    is_null, is_constant: of all rows.
    """

    output: str
    shard: str
    findings: tuple[Finding, ...] = ()
    keys: str = ""
    rows: int = 0
    source: str = ""
    is_null: bool = False
    is_constant: bool = False
    entry: Entry | None = None


@dataclass
class Rows:
    """What the rows of a file say.

    nulls: keys of the samples that have none. problems: what is wrong with them.
    """

    keys: Sequence[str]
    nulls: list[str]
    is_constant: bool = False
    problems: list[str] = field(default_factory=list)


def record_path(output: str, shard: str) -> str:
    return f"ledger/{output}/{shard}.json"


def file_path(output: str, shard: str) -> str:
    return f"{output}/{shard}.parquet"


def place_of(path: str) -> tuple[str, str] | None:
    """(output, shard) of a path of a record or of a file of labels or tokens; None of any other."""
    is_record = path.startswith("ledger/")
    parts = path.removeprefix("ledger/").split("/")
    end = ".json" if is_record else ".parquet"
    if not path.endswith(end):
        return None
    if is_record and len(parts) == 2 and parts[0] == SAMPLES:
        return SAMPLES, parts[1].removesuffix(end)
    if len(parts) == 3 and parts[0] in ledger.FAMILIES:
        return f"{parts[0]}/{parts[1]}", parts[2].removesuffix(end)
    return None


def check_output(listing: Listing, place: tuple[str, str], shared: Shared) -> Checked:
    """A record and its file, read whole.

    Args:
        place: (output, shard). shared: what many records have in common.
    """
    output, shard = place
    path, file = record_path(output, shard), file_path(output, shard)
    both = (path,) if output == SAMPLES else (path, file)
    try:
        record = ledger.parse_whole(storage.read_bytes(listing.url(path)), path)
    except ValueError as error:
        return Checked(output, shard, (Finding(path, f"damaged: {error}", remove=both),))
    except FileNotFoundError:  # another process makes it again
        return Checked(output, shard)
    entry = shared.entry(ledger.entry(record))
    known = Checked(output, shard, (), entry.keys, record.rows, entry.source.sha256, entry=entry)
    if (record.output, record.shard) != (output, shard):
        return _bad(known, path, f"it is the record of {record.output}/{record.shard}", both)
    if output == SAMPLES:
        return known
    if file not in listing.files:
        return _bad(known, path, f"its file {file} is missing", (path,))
    whole = storage.read_bytes(listing.url(file))
    if why := _another_file(record, whole):
        return _bad(known, file, why, both)
    rows = _rows(output, record, whole)
    problems = [*rows.problems, *_against(record, rows)]
    keys = table_file.sum_of_keys(rows.keys)
    if record.keys and keys != record.keys:
        problems.append("its keys are not those of its record")
    if problems:
        return _bad(known, file, "; ".join(problems), both)
    is_null = bool(rows.keys) and len(rows.nulls) == len(rows.keys)
    return replace(known, keys=shared.one(keys), is_null=is_null, is_constant=rows.is_constant)


def _bad(known: Checked, what: str, why: str, remove: tuple[str, ...]) -> Checked:
    return Checked(known.output, known.shard, (Finding(what, why, remove=remove),), entry=known.entry)


def _another_file(record: Record, data: bytes) -> str:
    """Why a file is not the one of a record, "" if it is."""
    if len(data) != record.bytes:
        return f"it has {len(data):,} bytes, {record.bytes:,} by its record"
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return "damaged: its SHA-256 is not that of its record"
    if record.footer and footers.digest(footers.of(data)) != record.footer:
        return "its footer is not that of its record"
    return ""


def _rows(output: str, record: Record, data: bytes) -> Rows:
    try:
        file = table_file.read_footer(data)
        origin = {name: file.metadata[name] for name in ("shard", "fingerprint") if name in file.metadata}
        problems = [
            f"it says that its {name} is {value}, its record {getattr(record, name)}"
            for name, value in origin.items()
            if value != getattr(record, name)
        ]
        if record.content and table_file.content(data)[1] != record.content:
            problems.append("the sums of its rows are not those of its record")
        rows = _of_column(output, data) if output.startswith("tokens/") else _of_label(output, data)
    except (ValueError, OSError) as error:
        return Rows((), [], problems=[str(error)])
    rows.problems += problems
    return rows


def _of_column(output: str, data: bytes) -> Rows:
    column = store.read(data)
    spec, keys = column.spec, column.keys.to_pylist()
    rows = Rows(keys, [key for key, valid in zip(keys, column.valid.tolist(), strict=True) if not valid])
    if spec.modality != output.removeprefix("tokens/"):
        rows.problems.append(f"it holds {spec.modality}")
    values = column.values[column.valid] if spec.kind is Kind.GRID else column.values
    if spec.kind in (Kind.GRID, Kind.SEQUENCE) and values.size and int(values.max()) >= spec.vocab_size:
        rows.problems.append(f"it has the id {int(values.max())}, its vocabulary {spec.vocab_size}")
    if spec.kind is Kind.EMBEDDING and not np.isfinite(values).all():
        rows.problems.append("it has numbers that are not finite")
    if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING) and column.lengths.size:
        longest = int(column.lengths.max())
        if longest > spec.length:
            rows.problems.append(f"it has {longest} tokens of a crop, expected at most {spec.length}")
    rows.is_constant = _is_constant(column)
    return rows


def _is_constant(column: store.Column) -> bool:
    """Whether all samples that have tokens have the same, and there are several of them."""
    there = np.flatnonzero(column.valid)
    if len(there) < 2:
        return False
    if column.spec.kind is Kind.GRID:
        return bool((column.values[there] == column.values[there[0]]).all())
    first = column.crop(int(there[0]), 0)
    return all(np.array_equal(column.crop(int(row), 0), first) for row in there[1:])


def _of_label(output: str, data: bytes) -> Rows:
    _, keys, cells = labels.read_cells(data)
    there = [cell for cell in cells if cell is not None]
    rows = Rows(keys, [key for key, cell in zip(keys, cells, strict=True) if cell is None])
    rows.is_constant = len(there) > 1 and all(cell == there[0] for cell in there)
    name = table_file.read_footer(data).metadata["label"]
    if name != output.removeprefix("labels/"):
        rows.problems.append(f"it holds {name}")
    return rows


def _against(record: Record, rows: Rows) -> list[str]:
    """What a record says of the rows that is not so."""
    problems = []
    if len(rows.keys) != record.rows:
        problems.append(f"it has {len(rows.keys)} rows, {record.rows} by its record")
    if len(rows.nulls) != record.nulls:
        problems.append(f"{len(rows.nulls)} of its rows are null, {record.nulls} by its record")
    elif Counter(rows.nulls) != Counter(reject["key"] for reject in record.rejects):
        problems.append("the null rows are not those that its record has reasons for")
    return problems


def across(checked: Iterable[Checked]) -> list[Finding]:
    """Row i of every output of a shard is row i of the shard; and what is null or constant throughout."""
    findings = []
    of_shard: dict[str, list[Checked]] = defaultdict(list)
    by_output: dict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        if not one.findings and one.source:
            of_shard[one.shard].append(one)
            by_output[one.output].append(one)
    for members in of_shard.values():
        findings += _order(members)
    for output, members in by_output.items():
        for title in ("null", "constant"):
            count = sum(getattr(one, f"is_{title}") for one in members)
            if count:
                findings.append(
                    Finding(output, f"{title} throughout in {count} of {len(members)} shards", broken=False)
                )
    return findings


def _order(members: Sequence[Checked]) -> list[Finding]:
    """Outputs of one shard whose keys are not the others'. Those made of another version of the shard are not compared:
    the next run makes them again."""
    findings = []
    for source in {one.source for one in members}:
        same = [one for one in members if one.source == source and one.keys]
        if not same:
            continue
        samples = next((one for one in same if one.output == SAMPLES), None)
        counts = Counter((one.keys, one.rows) for one in same)
        right = (samples.keys, samples.rows) if samples else counts.most_common(1)[0][0]
        for one in same:
            if (one.keys, one.rows) != right:
                both = (record_path(one.output, one.shard), file_path(one.output, one.shard))
                why = "its keys are not those of the shard's other outputs, in their order"
                findings.append(Finding(both[1], why, remove=both))
    return findings


def orphans(listing: Listing, places: Iterable[tuple[str, str]]) -> list[Finding]:
    """Files of labels and tokens without a record: of a commit that was killed."""
    known, findings = set(places), []
    for path in listing.files:
        place = place_of(path)
        if place is not None and not path.startswith("ledger/") and place not in known and listing.is_old(path):
            findings.append(Finding(path, "it has no record, so it does not exist", broken=False, remove=(path,)))
    return findings


def summary(checked: Iterable[Checked]) -> dict[str, Any]:
    """How many outputs were looked at, by family."""
    return dict(Counter(one.output.partition("/")[0] for one in checked))
