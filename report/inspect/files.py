"""Columns and label files for `fourmill inspect`: one, or all shards of a modality or label as if they were one.

Decisions:
- Footers of all files are read, data of few: statistics come from row groups spread evenly over everything, at most
  `MAX_ROWS` and `MAX_BYTES`, and the facts say how many; the row that is shown costs its row group.
- Tokens are decoded with the tokenizers of the root that a file lies in, see decoding.py.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...infra import ledger, storage
from ...infra.explain import reason_class
from ...infra.ledger import Record
from ...modalities import MODALITIES, Kind, Storage
from ...tokenize import codecs, labels, store, table_file
from ...tokenize.store import Column, ColumnSpec
from ..draw import labels as draw
from ..draw.sensors import false_colours
from . import foreign, records, statistics
from .decoding import codec_beside, decoded, know_sensors, words
from .view import Inspection

_NUMBERS = 16  # that are written rather than drawn
MAX_ROWS = {Kind.GRID: 16_384, Kind.SEQUENCE: 16_384, Kind.PIXELS: 4_096, Kind.EMBEDDING: 1_024}
MAX_LABEL_ROWS = {Storage.JSON: 16_384, Storage.IMAGE: 512, Storage.ARRAY: 512}
MAX_BYTES = 1 << 28  # a row group of T5 embeddings alone may have 600 MB: then one is read
SHOWN_CROPS = 4


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says: rows and uncompressed bytes of its row groups, and its metadata."""

    url: str
    size: int
    groups: tuple[int, ...]
    group_bytes: tuple[int, ...]
    metadata: dict[str, str]

    @property
    def rows(self) -> int:
        return sum(self.groups)


def footer(url: str) -> Footer:
    """ValueError naming the file if it is no Parquet file or damaged."""
    try:
        return _footer(url)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}{records.advice(url)}") from None


def _footer(url: str) -> Footer:
    stat = storage.stat(url)
    with table_file.open_parquet(url) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        # ARROW:schema is Arrow's own, binary and of no interest.
        texts = (file.schema_arrow.metadata or {}).items()
        metadata = {k.decode(): v.decode() for k, v in texts if k != b"ARROW:schema"}
    rows, sizes = tuple(g.num_rows for g in groups), tuple(g.total_byte_size for g in groups)
    return Footer(url, stat.size if stat else 0, rows, sizes, metadata)


def inspect(path: str, urls: Sequence[str], row: int, pictures: bool) -> Inspection:
    """Facts of Parquet files that hold one modality's tokens or one label.

    Args:
        path: as the user gave it; a folder if there are several files.
        urls: the files, at least one, in the order of their rows.
        row: the sample to look at, counted over all files.
        pictures: whether the sample is to be drawn; this loads what decodes it.

    Raises:
        ValueError: a file is damaged, of another format or version, or there is no such row.
    """
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(footer, urls))
    known = [one for one in footers if one.metadata.get("format") in (store.FORMAT, labels.FORMAT)]
    if not known:
        check_row(row, sum(one.rows for one in footers))
        return foreign.inspect_parquet(path, footers[0].url, _size(footers), row)
    if known[0].metadata["format"] == store.FORMAT:
        inspection = _columns(path, known, row, pictures)
    else:
        inspection = _labels(path, known, row)
    if len(known) < len(footers):
        inspection.facts["notes"].append(
            f"{len(footers) - len(known)} Parquet files of other programs lie here as well"
        )
    return inspection


def _columns(path: str, footers: list[Footer], row: int, pictures: bool) -> Inspection:
    spec = store.ColumnReader(footers[0].url).spec
    texts = {one.metadata.get("spec") for one in footers}
    # To see what a codebook says costs loading its VQ-VAE.
    codec, note = codec_beside(footers[0].url, spec) if pictures or spec.kind is not Kind.GRID else (None, "")
    read = [
        store.read(footers[i].url, groups)
        for i, groups in choose(footers, MAX_ROWS[spec.kind], MAX_BYTES).items()
        if footers[i].metadata.get("spec") == footers[0].metadata.get("spec")
    ]
    facts: dict[str, Any] = {
        "path": path,
        "kind": "column" if len(footers) == 1 else "columns",
        "modality": spec.modality,
        "summary": MODALITIES[spec.modality].summary if spec.modality in MODALITIES else None,
        "tokens": spec.kind.value,
        **_size(footers),
        "shape": footers[0].metadata.get("shape"),
        "dtype": footers[0].metadata.get("dtype"),
        **{name: value for name, value in spec.plain().items() if name not in ("modality", "kind")},
        "keys": _keys(footers),
        "notes": [note] if note else [],
    }
    if len(texts) > 1:
        facts["notes"].append(
            f"{len(texts)} kinds of columns (sizes, tokenizers) lie here; statistics are of the first"
        )
    committed = _ledger(footers, facts)
    facts["statistics"] = statistics.of_columns(read, words(codec)) if read else None
    place = locate(footers, row)
    inspection = Inspection(facts | {"sample": None})
    if place is not None:
        url, group, index = place
        column = store.read(url, [group])
        sample, drawn = sample_of(column, index, codec, pictures)
        inspection.facts["sample"] = {"row": row, **sample, "reason": _reason(committed, url, sample["key"])}
        inspection.pictures = drawn
    return inspection


def sample_of(
    column: Column, index: int, codec: codecs.Codec | None, pictures: bool
) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    """One sample of a column as facts, {"key", "null", "crops": [...]}, and as pictures with their titles."""
    crops, drawn = [], []
    for number in range(min(column.spec.crops, SHOWN_CROPS)) if column.valid[index] else ():
        facts, images = _crop(column.spec, column.crop(index, number), codec, pictures)
        crops.append({"crop": number, **facts})
        drawn += [(f"crop {number}: {title}", image) for title, image in images]
    return {"key": column.keys[index].as_py(), "null": not column.valid[index], "crops": crops}, drawn


def _crop(
    spec: ColumnSpec, tokens: np.ndarray, codec: codecs.Codec | None, pictures: bool
) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    if spec.kind is Kind.EMBEDDING:
        return {"vectors": len(tokens), "values": statistics.spread([tokens])}, []
    images = []
    if spec.kind is Kind.PIXELS:
        picture = decoded(codec, tokens)
        shown = isinstance(picture, np.ndarray)
        size = " x ".join(map(str, picture.shape)) if isinstance(picture, np.ndarray) else None
        if shown and pictures and isinstance(picture, np.ndarray):
            images.append(("pixels", false_colours(spec.modality, picture)))
        return {"bytes": tokens.size, "shape": size, "problem": None if shown else picture}, images
    facts: dict[str, Any] = {"tokens": tokens.size, "ids": tokens.tolist()}
    if spec.kind is Kind.GRID:
        side = round(tokens.size**0.5)
        shape = (side, side) if side * side == tokens.size else (1, tokens.size)
        shape = (tokens.size // spec.width, spec.width) if spec.width else shape
        if pictures:
            title = f"{shape[0]} x {shape[1]} token ids, a colour for each"
            images.append((title, draw.id_colors(tokens.reshape(shape))))
            value = decoded(codec, tokens)
            if isinstance(value, np.ndarray) and value.size <= _NUMBERS:  # of a sensor
                facts["value"] = value.tolist()
            elif isinstance(value, np.ndarray):
                images.append(("decoded", false_colours(spec.modality, value)))
        return facts, images
    text = decoded(codec, tokens)
    if isinstance(codec, codecs.Text):
        # The words first: what a sentence means is only shown where it can be parsed.
        facts["text"] = codec.wordpiece.decode(tokens) if int(tokens.max()) < codec.wordpiece.vocab_size else None
        facts["value"] = text if text != facts["text"] else None
    return facts, images


def _labels(path: str, footers: list[Footer], row: int) -> Inspection:
    name, form = (footers[0].metadata.get(key, "") for key in ("label", "storage"))
    know_sensors(footers[0].url, name)
    labels.read_labels(footers[0].url, [])  # refuses other versions by name
    kind, classes = Storage(form), labels.read_classes(footers[0].url)
    values: list[Any] = []
    for i, groups in choose(footers, MAX_LABEL_ROWS[kind], MAX_BYTES).items():
        values += labels.read_labels(footers[i].url, groups)[1]
    facts: dict[str, Any] = {
        "path": path,
        "kind": "label" if len(footers) == 1 else "labels",
        "label": name,
        "storage": form,
        "classes": list(classes) or None,
        **_size(footers),
        "keys": _keys(footers),
        "notes": [],
    }
    committed = _ledger(footers, facts)
    inspection = Inspection(facts | {"statistics": statistics.of_labels(values), "sample": None})
    place = locate(footers, row)
    if place is not None:
        url, group, index = place
        keys, values = labels.read_labels(url, [group])
        key, value = keys[index], values[index]
        sample = {"row": row, "key": key, "null": value is None, "reason": _reason(committed, url, key)}
        array = isinstance(value, np.ndarray)
        sample |= {
            "shape": list(value.shape) if array else None,
            "dtype": str(value.dtype) if array else None,
            "value": None if array else value,
        }
        inspection.facts["sample"] = sample
        inspection.label, inspection.classes = (name, value), {name: classes} if classes else {}
        if array and value.dtype == np.uint8 and value.size and (value.ndim == 2 or value.shape[2:] == (3,)):
            inspection.pictures = [(name, value)]
    return inspection


def choose(footers: Sequence[Footer], max_rows: int, max_bytes: int) -> dict[int, list[int]]:
    """Row groups to take statistics from, file -> groups: all, or as many as the limits allow, evenly spread."""
    pairs = [(i, g) for i, one in enumerate(footers) for g in range(len(one.groups))]
    if not pairs:
        return {}
    rows, size = sum(one.rows for one in footers), sum(sum(one.group_bytes) for one in footers)
    share = min(1.0, max_rows / max(rows, 1), max_bytes / max(size, 1))
    count = max(1, int(len(pairs) * share))
    chosen: dict[int, list[int]] = {}
    for place in range(count):
        i, group = pairs[place * len(pairs) // count]
        chosen.setdefault(i, []).append(group)
    return chosen


def locate(footers: Sequence[Footer], row: int) -> tuple[str, int, int] | None:
    """(file, row group, index in it) of a row counted over all files; None if there are no rows and row is 0."""
    total = sum(one.rows for one in footers)
    check_row(row, total)
    for one in footers:
        for group, count in enumerate(one.groups):
            if row < count:
                return one.url, group, row
            row -= count
    return None


def check_row(row: int, total: int) -> None:
    """ValueError if there is no such row; row 0 of nothing is the default and no mistake."""
    if row != 0 and not 0 <= row < total:
        raise ValueError(f"--row: got {row}, expected 0 to {total - 1}" if total else f"--row: got {row} of no rows")


def _size(footers: Sequence[Footer]) -> dict[str, Any]:
    rows, size = sum(one.rows for one in footers), sum(one.size for one in footers)
    return {
        "files": len(footers),
        "rows": rows,
        "row_groups": sum(len(one.groups) for one in footers),
        "bytes": size,
        "bytes_per_sample": size / rows if rows else None,
    }


def _keys(footers: Sequence[Footer]) -> dict[str, Any]:
    full = [one for one in footers if one.rows]
    if not full:
        return {"count": 0, "first": None, "last": None}

    def key(url: str, group: int, index: int) -> str:
        with table_file.open_parquet(url) as file:
            return str(file.read_row_group(group, columns=["key"]).column("key")[index].as_py())

    last = full[-1]
    return {
        "count": sum(one.rows for one in full),
        "first": key(full[0].url, next(g for g, rows in enumerate(full[0].groups) if rows), 0),
        "last": key(last.url, max(g for g, rows in enumerate(last.groups) if rows), -1),
    }


def _ledger(footers: Sequence[Footer], facts: dict[str, Any]) -> dict[str, Record]:
    """Adds "ledger" (null outside of a dataset), "rejects" and notes to the facts. Returns the records by shard."""
    facts |= {"ledger": None, "rejects": {}}
    head, name = posixpath.split(posixpath.dirname(footers[0].url))
    root, family = posixpath.split(head)
    if family not in ("tokens", "labels"):
        return {}
    output = f"{family}/{name}"
    shards = {posixpath.basename(one.url).removesuffix(".parquet"): one for one in footers}

    def look(shard: str) -> tuple[Record | None, bool]:
        """The record, and whether a file of its size is another one."""
        record = ledger.read(root, output, shard)
        same_size = record is not None and record.bytes == shards[shard].size
        return record, record is not None and same_size and bool(ledger.damage(root, record, record.bytes, True))

    with ThreadPoolExecutor(ledger.THREADS) as pool:
        looked = dict(zip(shards, pool.map(look, shards), strict=True))
    committed = {shard: record for shard, (record, _) in looked.items() if record is not None}
    sizes = [shard for shard, record in committed.items() if record.bytes != shards[shard].size]
    others = [shard for shard, (_, is_other) in looked.items() if is_other]
    wrong = [*sizes, *others]
    lacking = [shard for shard in shards if shard not in committed]
    for title, bad in (("no record in the ledger", lacking), ("another size", sizes), ("another file", others)):
        if bad:
            more = f" and {len(bad) - 3} others" if len(bad) > 3 else ""
            facts["notes"].append(f"{title}, so not committed: {', '.join(bad[:3])}{more}; run the stage again")
    prints = sorted({record.fingerprint for record in committed.values()})
    facts["ledger"] = {
        "committed": len(committed) - len(wrong),
        "fingerprints": prints,
        "nulls": sum(record.nulls for record in committed.values()),
        "seconds": sum(record.seconds for record in committed.values()),
    }
    facts["notes"] += _imported(committed.values())
    facts["rejects"] = dict(Counter(reason_class(r["reason"]) for record in committed.values() for r in record.rejects))
    return committed


def _imported(records: Iterable[Record]) -> list[str]:
    """Where imported columns are from, [] of others."""
    said = [imported for record in records if (imported := record.identity.get("imported"))]
    if not said:
        return []
    more = f" and {len(said) - 1} others" if len(said) > 1 else ""
    arrays = f", arrays of {np.dtype(said[0]['dtype'])}" if "dtype" in said[0] else ""
    return [f"imported from {said[0]['file']}{more}{arrays}"]


def _reason(records: dict[str, Record], url: str, key: str) -> str | None:
    """Why a sample was rejected, None if it was not."""
    record = records.get(posixpath.basename(url).removesuffix(".parquet"))
    return next((r["reason"] for r in record.rejects if r["key"] == key), None) if record else None
