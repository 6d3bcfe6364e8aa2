"""What is kept of one column or label file: all that statistics need of it, so that it is read once.

A summary has no key and no picture: after a removal nothing in it names a sample. Summaries lie in Parquet files, one
row for each file that was read: ROOT/stats/OUTPUT/*.parquet, of one fingerprint of what they were read from each.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...tokenize.sensors.numbers import LEVELS, Numbers

VERSION = 1
FORMAT = "fourmill.stats"
SKETCH = 64  # samples of a file whose features are kept one by one
EXTREMES = 3  # rows at either end of each feature


@dataclass(frozen=True)
class Features:
    """What is measured of each sample, over the samples of a file.

    names: of the features; shares of codes or classes are called "codes", "classes", ... with a number.
    numbers: how they are distributed over the samples.
    sketch: float32 (samples, features), of some samples, evenly over the file.
    extremes: rows (features, 2 * EXTREMES) with the smallest values and the largest ones, -1 for none, and these.
    """

    names: tuple[str, ...]
    numbers: Numbers
    sketch: np.ndarray
    extremes: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """Of one file.

    sha256: of the file, by its record. rows, valid: samples, and those that are not null.
    constant: what all samples have, in words, if it is the same in all of them; "" otherwise.
    channels: names of what `numbers` are of; () if the file holds no arrays of numbers.
    counts: how often each class, label or field occurs, by name. codes: int64 (vocabulary,), the same of token ids.
    """

    shard: str
    sha256: str
    rows: int
    valid: int
    constant: str
    features: Features
    channels: tuple[str, ...] = ()
    numbers: Numbers | None = None
    counts: dict[str, int] = field(default_factory=dict)
    codes: np.ndarray | None = None


def write(summaries: Sequence[Summary]) -> bytes:
    """Summaries as a Parquet file."""
    floats, narrow = pa.list_(pa.float64()), pa.list_(pa.float32())
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "shard": (pa.string(), [one.shard for one in summaries]),
        "sha256": (pa.string(), [one.sha256 for one in summaries]),
        "facts": (pa.string(), [json.dumps(_facts(one)) for one in summaries]),
        "moments": (floats, [_flat(one.numbers.moments if one.numbers else None) for one in summaries]),
        "quantiles": (narrow, [_flat(one.numbers.quantiles if one.numbers else None) for one in summaries]),
        "features": (floats, [_flat(one.features.numbers.moments) for one in summaries]),
        "feature_quantiles": (narrow, [_flat(one.features.numbers.quantiles) for one in summaries]),
        "sketch": (narrow, [_flat(one.features.sketch) for one in summaries]),
        "extreme_rows": (pa.list_(pa.int32()), [_flat(one.features.extremes[0]) for one in summaries]),
        "extremes": (narrow, [_flat(one.features.extremes[1]) for one in summaries]),
        "codes": (pa.list_(pa.int64()), [_flat(one.codes) for one in summaries]),
    }
    schema = pa.schema(
        [pa.field(name, kind) for name, (kind, _) in columns.items()],
        metadata={"format": FORMAT, "version": str(VERSION)},
    )
    table = pa.Table.from_arrays([pa.array(values, kind) for kind, values in columns.values()], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def read(data: bytes) -> list[Summary]:
    """The inverse of `write`. ValueError if it is no file of this version."""
    with _table(data) as table:
        columns = {name: table.column(name) for name in table.column_names}
        return [_summary({name: column[row] for name, column in columns.items()}) for row in range(len(table))]


def shards_of(data: bytes) -> list[tuple[str, str]]:
    """The shards that a file of summaries has, each with the SHA-256 of what was read. ValueError as of `read`."""
    with _table(data, ["shard", "sha256"]) as table:
        return list(zip(table.column("shard").to_pylist(), table.column("sha256").to_pylist(), strict=True))


@contextmanager
def _table(data: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    try:
        table = pq.read_table(io.BytesIO(data), columns=columns, use_threads=False)
        metadata = table.schema.metadata or {}
        if (metadata.get(b"format"), metadata.get(b"version")) != (FORMAT.encode(), str(VERSION).encode()):
            raise ValueError("it is of another version")
        yield table
    except (pa.ArrowException, OSError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"it holds no summaries: {error}") from None


def _facts(one: Summary) -> dict[str, Any]:
    return {
        "rows": one.rows,
        "valid": one.valid,
        "constant": one.constant,
        "channels": list(one.channels),
        "counts": one.counts,
        "features": list(one.features.names),
    }


def _flat(values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else np.asarray(values).reshape(-1)


def _summary(row: dict[str, Any]) -> Summary:
    def array(name: str, width: int) -> np.ndarray | None:
        values = row[name].values
        return None if values is None else values.to_numpy(zero_copy_only=False).reshape(-1, width)

    facts = json.loads(row["facts"].as_py())
    names = tuple(facts["features"])
    moments, quantiles = array("moments", 8), array("quantiles", len(LEVELS))
    of_features = array("features", 8), array("feature_quantiles", len(LEVELS))
    sketch = array("sketch", max(1, len(names)))
    extremes = array("extreme_rows", 2 * EXTREMES), array("extremes", 2 * EXTREMES)
    codes = array("codes", 1)
    if of_features[0] is None or of_features[1] is None or sketch is None or extremes[0] is None or extremes[1] is None:
        raise ValueError("it lacks features")
    return Summary(
        row["shard"].as_py(),
        row["sha256"].as_py(),
        facts["rows"],
        facts["valid"],
        facts["constant"],
        Features(names, Numbers(of_features[0], of_features[1]), sketch[:, : len(names)], (extremes[0], extremes[1])),
        tuple(facts["channels"]),
        None if moments is None or quantiles is None else Numbers(moments, quantiles),
        facts["counts"],
        None if codes is None else codes[:, 0],
    )
