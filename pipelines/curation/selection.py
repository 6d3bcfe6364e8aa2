"""Which samples a run trains on, by its expression: one bit for each row of each shard, worked out once and kept.

ROOT/selections/PRINT.parquet, PRINT of the expression, has a row for each shard: its bits, and a sum of the labels that
they follow from, so that a shard whose labels were made again is looked at again. A run's identity holds sums of the
bits themselves: the same samples are the same run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ...infra import ledger, storage
from ...infra.explain import listing, nearest
from ...infra.fingerprint import fingerprint
from ...infra.ledger import Entry
from ...infra.progress import Progress
from ...modalities import LABELS, Storage
from ...tokenize import labels as label_files
from ...tokenize import table_file
from ..specialists.base import Specialist
from .expression import RECORD, Expression, Values, field_of, parse, values_of

logger = logging.getLogger(__name__)

FOLDER = "selections"  # of a root
_FORMAT = {"format": "fourmill.selection", "version": "1"}
_THREADS = 8  # that wait for storage
_ROW_GROUP = 1_024  # shards


@dataclass(frozen=True)
class Chosen:
    """The samples of one shard that are selected.

    of: sum of what it follows from. rows: all of the shard. count: the selected ones.
    bits: a bit for each row, eight in a byte, the first one highest (`numpy.packbits`).
    clauses: of each clause for how many samples it is true, false, unknown.
    known: of each name how many samples have a value.
    """

    of: str
    rows: int
    count: int
    bits: bytes
    clauses: tuple[tuple[int, int, int], ...]
    known: dict[str, int]

    def mask(self) -> np.ndarray:
        """Which rows are selected, bool (rows,)."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.rows).astype(bool)


@dataclass(frozen=True)
class Selection:
    """What an expression selects, by shard."""

    expression: Expression
    shards: dict[str, Chosen] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Samples of all shards."""
        return sum(one.rows for one in self.shards.values())

    @property
    def count(self) -> int:
        """Selected ones."""
        return sum(one.count for one in self.shards.values())

    def clauses(self) -> list[tuple[str, int, int, int]]:
        """Each clause, and for how many samples it is true, false and unknown."""
        found = []
        for i, clause in enumerate(self.expression.clauses):
            true, false, unknown = (sum(one.clauses[i][k] for one in self.shards.values()) for k in range(3))
            found.append((clause.text, true, false, unknown))
        return found


def check(select: str, keep: Sequence[str], specialists: Mapping[str, Specialist]) -> None:
    """ValueError for the first name that is no label, none that the recipe keeps, or no field of one.

    Args:
        select: an expression. keep: the recipe's kept labels. specialists: by label.
    """
    expression, where = parse(select), "train.select"
    for label in expression.labels:
        if label not in LABELS:
            raise ValueError(f"{where}: there is no label {label!r}{nearest(label, LABELS)}")
        if label not in keep:
            raise ValueError(f"{where}: the label {label} is not kept; add it to labels.keep, so that it can be read")
        if LABELS[label].storage is not Storage.JSON and label not in expression.asked_only:
            kind = LABELS[label].storage
            raise ValueError(f"{where}: {label} is kept as an {kind}, of which `{label} is None` alone can be asked")
    for name in expression.names:
        label, *path = name.split(".")
        fields = specialists[label].record_fields if label in specialists else ()
        if path and fields and path[0] not in fields:
            raise ValueError(f"{where}: {label} has no {path[0]!r}{nearest(path[0], fields)}; it has {listing(fields)}")


def make(
    root: str,
    expression: Expression,
    records: Mapping[tuple[str, str], Entry],
    shards: Mapping[str, Entry],
    known: Mapping[str, Chosen] | None = None,
) -> Selection:
    """What an expression selects of some shards.

    Args:
        records: of the labels that exist as they are asked for, by (output, shard).
        shards: for each the record of one of its columns, whose rows are meant.
        known: of shards that were looked at before; those whose labels are the same are not read again.

    Raises:
        ValueError: a shard lacks a label, or values of other kinds are compared.
    """
    outputs = [f"labels/{label}" for label in expression.labels]
    lacking = {output: [name for name in shards if (output, name) not in records] for output in outputs}
    if lost := {output: names for output, names in lacking.items() if names}:
        output, names = next(iter(lost.items()))
        raise ValueError(
            f"{len(names)} of {len(shards)} shards have no {output} yet ({listing(names[:3])}); `fourmill run` makes it"
        )
    of_shard = {name: {output: records[output, name] for output in outputs} for name in shards}
    sums = {name: fingerprint({output: one.sha256 for output, one in of.items()}) for name, of in of_shard.items()}
    known = {name: one for name, one in (known or {}).items() if sums.get(name) == one.of}
    todo = [name for name in shards if name not in known]

    def look(name: str) -> Chosen:
        return _chosen(root, expression, sums[name], of_shard[name], shards[name])

    made = dict(known)
    if todo:
        with Progress("select", len(todo), "shards") as progress, ThreadPoolExecutor(_THREADS) as pool:
            for name, one in zip(todo, pool.map(look, todo), strict=True):
                made[name] = one
                progress.update(1)
    found = Selection(expression, {name: made[name] for name in shards})
    _check_fields(found, records)
    return found


def _check_fields(found: Selection, records: Mapping[tuple[str, str], Entry]) -> None:
    """ValueError for a field that no sample has, where samples have the label."""
    for name in (one for one in found.expression.names if "." in one):
        label = name.partition(".")[0]
        of_label = [records[f"labels/{label}", shard] for shard in found.shards]
        if sum(one.rows - one.nulls for one in of_label) and not any(one.known[name] for one in found.shards.values()):
            raise ValueError(f"no sample has a {name}; `fourmill inspect` shows what labels/{label} holds")


def _chosen(root: str, expression: Expression, of: str, records: Mapping[str, Entry], column: Entry) -> Chosen:
    shard, rows, values = column.shard, column.rows, dict[str, Values]()
    try:
        for output, record in records.items():
            if record.rows != rows or (record.keys and column.keys and record.keys != column.keys):
                raise ValueError(
                    f"its samples are not those of {column.output}; run `fourmill run`, which makes it again"
                )
            values |= _read(root, expression, output.removeprefix("labels/"), record)
        parts = [part.evaluate(values) for part in expression.clauses]
    except ValueError as error:
        raise ValueError(f"shard {shard}: {error}") from error
    selected = np.logical_and.reduce([part.true for part in parts])
    counts = tuple((int(p.true.sum()), int(p.false.sum()), int(rows - p.known.sum())) for p in parts)
    known = {name: int(one.known.sum()) for name, one in values.items()}
    return Chosen(of, rows, int(selected.sum()), np.packbits(selected).tobytes(), counts, known)


def _read(root: str, expression: Expression, label: str, record: Entry) -> dict[str, Values]:
    """What a shard's label says of each name of it."""
    url = ledger.output_url(root, record.output, record.shard)
    names = [name for name in expression.names if name.partition(".")[0] == label]
    if label in expression.asked_only:
        whole = ledger.read(root, record.output, record.shard)
        if whole is None:
            raise ValueError(f"{record.output} was deleted meanwhile; run the same command again")
        nulls = {reject["key"] for reject in whole.rejects}
        keys = table_file.keys(url) if nulls else []
        known = np.array([key not in nulls for key in keys], np.bool_) if nulls else np.ones(record.rows, np.bool_)
        return {label: Values(RECORD, known, known)}
    _, _, cells = label_files.read_cells(url, footer=record.footer)
    # All at once: a call for each of millions of cells would take longer than their numbers.
    found = json.loads(f"[{','.join('null' if cell is None else str(cell) for cell in cells)}]")
    values = {}
    for name in names:
        path = name.split(".")[1:]
        values[name] = values_of(name, [field_of(one, path) for one in found] if path else found)
    return values


def _url(root: str, expression: Expression) -> str:
    return storage.join(root, FOLDER, f"{fingerprint('select', expression.text)}.parquet")


def read(root: str, expression: Expression) -> dict[str, Chosen]:
    """What was kept of an expression, by shard; {} if nothing was, or if the file is damaged, which is logged."""
    url = _url(root, expression)
    try:
        return parse_file(url)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        logger.warning("%s: %s; it is worked out again", url, error)
        return {}


def parse_file(url: str) -> dict[str, Chosen]:
    """A selection's file. ValueError if it is damaged, or of another release; FileNotFoundError if there is none."""
    try:
        file = table_file.read_footer(url)
        table = file.read(range(file.parquet.num_row_groups), ["key", "about", "bits"])
        if {name: file.metadata.get(name) for name in _FORMAT} != _FORMAT:
            raise ValueError("it is of another release")
        columns = (table.column(name).to_pylist() for name in ("key", "about", "bits"))
        return {key: _parsed(json.loads(about), bits) for key, about, bits in zip(*columns, strict=True)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no selection ({error})") from error


def _parsed(about: dict[str, Any], bits: bytes) -> Chosen:
    clauses = tuple((int(a), int(b), int(c)) for a, b, c in about["clauses"])
    return Chosen(about["of"], about["rows"], about["count"], bits, clauses, about["known"])


def keep(root: str, found: Selection) -> None:
    """Write a selection into its root."""
    about = [
        json.dumps({name: getattr(one, name) for name in ("of", "rows", "count", "clauses", "known")})
        for one in found.shards.values()
    ]
    bits = [one.bits for one in found.shards.values()]
    fields = {
        "key": pa.array(list(found.shards), pa.string()),
        "about": pa.array(about, pa.string()),
        "bits": pa.array(bits, pa.large_binary()),
    }
    metadata = _FORMAT | {"expression": found.expression.text}
    storage.put(_url(root, found.expression), table_file.encode_table(fields, metadata, _ROW_GROUP))
