"""The ledger: one small JSON record for each committed output, and the only truth about what exists.

ROOT/ledger/OUTPUT/SHARD.json, where OUTPUT is "labels/canny_edge", "tokens/tok_rgb" or "samples". An output exists if
and only if its record does and its fingerprint is the one that the recipe asks for now.

The order of a commit makes every moment safe to be killed in: a stale record is deleted first, then the data is put
in one step, then the record. A file without a record is nothing; a record is written only over a whole file.

A record stands over its own data only: it holds the size, the SHA-256 and the sum of the footer of its file, and a sum
of itself. A record that is damaged, or of another place, counts as missing; so does a file of another size, and, where
`footers` are looked at, one with another footer. Records of older releases have no such sums.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from .. import __version__
from . import faults, footers, storage, sums
from .explain import reason_class
from .fingerprint import fingerprint
from .secrets import hide
from .storage import Stat

logger = logging.getLogger(__name__)

SAMPLES = "samples"  # the output that says which samples a shard holds: a record without a file
FAMILIES = ("labels", "tokens")  # the folders of all other outputs
THREADS = 16  # that wait for storage
ATTEMPTS = 8  # at a commit that another job disturbs; each of its commits can disturb us once


@dataclass(frozen=True, slots=True)
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
    footer: sum of the file's footer. keys: sum of the shard's keys, equal in all outputs of a shard. content: sum of
        the rows, whatever the format of the file. "" in records of older releases, and where there is no such file.
    made: where, when and by what it was made, for people: nothing depends on it.
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
    footer: str = ""
    keys: str = ""
    content: str = ""
    made: dict[str, Any] = field(default_factory=dict)


_FIELDS = {one.name for one in fields(Record)}
OWN = ("time", "attempt", "bars", "alarm")  # of `made`, what each record has for itself
MAX_REASONS = 64  # classes of reasons that an entry counts; samples of all others are counted together
OTHER_REASONS = "other reasons"


class Entry(NamedTuple):
    """What a plan needs of a record: a large root has half a million, whose rejects, key by key, fill no memory here.

    reasons: class of reasons -> how many rejects. of_place: a reject of an old record is no fault of its sample.
    circumstances: of `made`, what many records have in common. own: the rest of it. `identity`, `circumstances`,
        `source` and `own` may be objects that many entries share. The other fields are those of `Record`.
    """

    output: str
    shard: str
    fingerprint: str
    source: Source
    rows: int
    nulls: int
    reasons: Mapping[str, int]
    bytes: int
    sha256: str
    seconds: float
    footer: str
    keys: str
    identity: Mapping[str, Any]
    circumstances: Mapping[str, Any]
    own: tuple[tuple[str, Any], ...]
    of_place: bool

    @property
    def made(self) -> dict[str, Any]:
        """Where, when and by what it was made."""
        return {**self.circumstances, **dict(self.own)}


def entry(record: Record) -> Entry:
    """What a plan needs of a record."""
    counts = Counter(reason_class(hide(reject["reason"])) for reject in record.rejects).most_common()
    reasons = dict(counts[:MAX_REASONS])
    if rest := sum(count for _, count in counts[MAX_REASONS:]):
        reasons[OTHER_REASONS] = rest
    # Releases recorded rejects that are no fault of their samples before they said how a record was made.
    old = not record.made and record.output != SAMPLES
    own = {name: value for name in OWN if isinstance(value := record.made.get(name), str | int)}
    return Entry(
        record.output, record.shard, record.fingerprint, record.source, record.rows, record.nulls, reasons,
        record.bytes, record.sha256, record.seconds, record.footer, record.keys, record.identity,
        {name: value for name, value in record.made.items() if name not in own},
        tuple(own.items()),
        old and any(faults.reads_as_place(reject["reason"]) for reject in record.rejects),
    )  # fmt: skip


def dumps(record: Record) -> bytes:
    """A record as it is stored: JSON a person can read, and at its end a sum of all the rest."""
    rejects = [one | {"reason": hide(one["reason"])} for one in record.rejects]
    text = json.dumps(sums.sealed(asdict(record) | {"rejects": rejects}), indent=1, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def record_url(root: str, output: str, shard: str) -> str:
    return storage.join(root, "ledger", output, f"{shard}.json")


def output_url(root: str, output: str, shard: str) -> str:
    return storage.join(root, output, f"{shard}.parquet")


def outputs(root: str) -> list[str]:
    """The names of outputs that have records, "labels/depth"; SAMPLES is not among them."""
    places = {family: storage.join(root, "ledger", family) for family in FAMILIES}
    return [f"{family}/{name}" for family, place in places.items() for name in storage.list_names(place)]


def parse(data: bytes, where: str) -> Record:
    """A record from its bytes. ValueError naming the file if it is none, or damaged."""
    try:
        raw = json.loads(data.decode("utf-8", "surrogatepass"))
        if "sum" in raw:
            raw = sums.opened(raw)
            # What a later release has added; without the sum it would be a field whose name is damaged.
            raw = {name: value for name, value in raw.items() if name in _FIELDS}
        return Record(**{**raw, "source": Source(**raw["source"])})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where} is no ledger record ({error}); delete it and run the stage again") from error


def parse_whole(data: bytes, where: str) -> Record:
    """`parse`, and every byte is as `dumps` wrote it. Fields that a later release has added are its own affair."""
    record = parse(data, where)
    raw = json.loads(data.decode("utf-8", "surrogatepass"))
    if "sum" in raw and raw.keys() <= _FIELDS | {"sum"} and dumps(record) != data:
        raise ValueError("it is not what was written")
    return record


def read(root: str, output: str, shard: str) -> Record | None:
    """The record of one output, or None: there is none, or it is damaged or of another place, which is logged."""
    url = record_url(root, output, shard)
    try:
        record = parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s; it counts as missing", error)
        return None
    if (record.output, record.shard) != (output, shard):
        logger.warning("%s is the record of %s/%s; it counts as missing", url, record.output, record.shard)
        return None
    return record


def damage(root: str, record: Record | Entry, size: int, footers: bool) -> str:
    """Why the file of an output is not the one that its record stands for, "" if it is, as far as is looked.

    Args:
        size: of the file. footers: whether its footer is read.
    """
    if size != record.bytes:
        return f"it has {size:,} bytes, {record.bytes:,} by its record"
    if footers and record.footer and footer_at(root, record) != record.footer:
        return "it is not the file that its record stands for"
    return ""


def mark(record: Record | Entry | None) -> str:
    """Tells one commit of an output from another one; "" if there is no record."""
    return "" if record is None else fingerprint([record.fingerprint, record.sha256, record.seconds, record.made])


def read_data(root: str, record: Record) -> bytes:
    """The whole file of an output. ValueError if it is not the one that its record stands for."""
    url = output_url(root, record.output, record.shard)
    data = storage.read_bytes(url)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ValueError(f"{url}: it is not the file that its record stands for; {again(root)}")
    return data


def again(root: str) -> str:
    """What to do about a damaged output of a root."""
    return f"run `fourmill check {root} --repair`, and then `fourmill run` makes it again"


def footer_at(root: str, record: Record | Entry) -> str:
    """The sum of the footer that an output's file has now."""
    return footers.digest_at(output_url(root, record.output, record.shard))


class Committed(NamedTuple):
    """A record, with what was written of it and of its file (None of outputs that are their record alone); None of both
    if another job wrote the same. Who has these need not read back what was committed."""

    record: Record
    written: Stat | None = None
    file: Stat | None = None


def commit(root: str, record: Record, data: bytes | None) -> Committed:
    """Make an output exist: its data first (None for outputs that are their record alone), then its record.

    Returns the record as committed, which has `bytes`, `sha256` and `footer` of the data. Two jobs that commit the same
    output do no harm: the record is claimed by a conditional PUT that one of them wins. If the other one holds the same
    bytes that is all; if it works for another recipe, its record may stand over our data, so we commit again, and the
    last one to commit counts. OSError if that does not end.
    """
    url = record_url(root, record.output, record.shard)
    if data is not None:
        footer = footers.digest(footers.of(data)) if data.endswith(footers.MAGIC) else ""
        record = replace(record, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), footer=footer)
    for attempt in range(ATTEMPTS):
        if attempt:
            logger.warning("%s: another job committed it at the same time; attempt %d", url, attempt + 1)
        # The stale record goes first: it must never stand over the new data.
        if storage.exists(url):
            storage.delete(url)
        file = None if data is None else storage.put(output_url(root, record.output, record.shard), data)
        if written := storage.put(url, dumps(record), if_absent=True):
            return Committed(record, written, file)
        other = read(root, record.output, record.shard)
        if other is not None and _content(other) == _content(record):
            return Committed(record)
    raise OSError(f"{url}: other jobs keep committing other contents; do not run two recipes on one root at a time")


def _content(record: Record) -> tuple[str, str, str]:
    return record.fingerprint, record.source.sha256, record.sha256
