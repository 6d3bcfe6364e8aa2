"""JSON and Parquet files of other programs for `fourmill inspect`: what they are, without an opinion on them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...infra import storage
from ...pipelines import source
from ...pipelines.grouping import SourceSample
from ...pipelines.reject import Reject
from ...pipelines.sensors import readers, rows
from ...sensors.reading import Reading
from ...tokenize import table_file
from .view import Inspection

MAX_JSON_BYTES = 1 << 26
MAX_NAMES = 40
NOTE = "another program wrote this file: fourmill neither reads nor needs it"
TABLE = "another program wrote this file; its rows can be samples (docs/extend/parquet-samples.md)"
_SHOWN = 60  # characters of a text
# What img2dataset leaves beside 00000.tar: 00000_stats.json and 00000.parquet (one row a URL).
IMG2DATASET = "img2dataset wrote this file; the samples are in {tar}"
_IMG2DATASET_COLUMNS = {"key", "url", "status"}
_HOLDS: dict[type, str] = {dict: "object", list: "array", str: "string"}
_IMG2DATASET_NAMES = {"count", "successes"}


def read_json_value(path: str, url: str) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: it is no JSON, or larger than `MAX_JSON_BYTES`.
    """
    stat = storage.stat(url)
    if stat is not None and stat.size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: got {stat.size:,} bytes of JSON; expected at most {MAX_JSON_BYTES:,}")
    try:
        return json.loads(storage.read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no JSON ({error})") from None


def inspect_json(path: str, url: str, value: Any) -> Inspection:
    """Facts of a JSON file that is none of fourmill's."""
    names = list(value) if isinstance(value, dict) else []
    facts = {
        "path": path,
        "kind": "JSON of another program",
        "notes": [_note(url, set(names) >= _IMG2DATASET_NAMES, "_stats.json")],
        "holds": _HOLDS.get(type(value), "value"),
        "count": len(value) if isinstance(value, dict | list) else None,
        "names": names[:MAX_NAMES],
        "sample": None,
    }
    return Inspection(facts)


def inspect_parquet(path: str, url: str, size: Mapping[str, Any], row: int) -> Inspection:
    """Facts of Parquet files that are none of fourmill's.

    Args:
        url: of the first. size: facts on files, rows and bytes. row: that is looked at, if it is in a local first file:
            a remote one would be fetched whole.
    """
    with table_file.open_parquet(url) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    types = rows.types(schema)
    held = _row(url, row, types) if storage.is_local(url) and row < count else {}
    facts = {
        "path": path,
        "kind": "Parquet of another program",
        "notes": [_note(url, set(schema.names) >= _IMG2DATASET_COLUMNS, ".parquet", TABLE)],
        **size,
        "columns": [{"column": name, "type": kind, f"row {row}": held.get(name)} for name, kind in types.items()],
        "sample": None,
    }
    return Inspection(facts)


def _row(url: str, row: int, names: Mapping[str, str]) -> dict[str, str]:
    """What a row has in each column, in words."""
    with source.open_shard(url, source.scratch_folder()) as shard:
        sample = shard.samples[row]
        photo = {member.name: extension for extension, member in sample.members.items()}
        return {name: _cell(shard, sample, photo.get(name, name)) for name in names}


def _cell(shard: source.Shard, sample: SourceSample, name: str) -> str:
    try:
        data = shard.member_bytes(sample, name)
    except Reject as reject:
        return reject.reason.removeprefix(f"{name}: ")
    try:
        values = readers.read(data, Reading(column=name))
    except ValueError:
        try:
            return data.decode()[:_SHOWN]
        except UnicodeDecodeError:
            return f"{len(data):,} bytes"
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":  # texts, times
        return str(values.tolist() if isinstance(values, np.ndarray) else values)[:_SHOWN]
    known = values[np.isfinite(values)]
    if not known.size:
        return f"{values.dtype} {values.shape}, no value"
    return f"{values.dtype} {values.shape}, {known.min():.4g} to {known.max():.4g}" if values.ndim else f"{values:.6g}"


def _note(url: str, is_img2dataset: bool, suffix: str, otherwise: str = NOTE) -> str:
    stem = posixpath.basename(url).removesuffix(suffix)
    return IMG2DATASET.format(tar=f"{stem}.tar") if is_img2dataset else otherwise
