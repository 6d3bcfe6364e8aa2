"""Tables of results as Markdown, CSV and JSON, the same bytes for the same values."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ....infra import storage
from ...measures.resample import Value

FOLDER = "reports"  # of a root
EVALUATION = "evaluation"  # the file of the table
LIKELIHOODS = "likelihoods"  # the file of the matrix of who knows what


def results(root: str) -> list[str]:
    """The results of `fourmill evaluate` that a root has, as URLs of their JSON."""
    found = storage.list_names(storage.join(root, FOLDER))
    wanted = (f"{EVALUATION}.json", f"{LIKELIHOODS}.json")
    return [storage.join(root, FOLDER, name) for name in wanted if name in found]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for people."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table for programs, one line for each value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def value_of(data: Mapping[str, float | None]) -> Value:
    """A value from its JSON, where null is NaN."""
    return Value(**{part: math.nan if number is None else number for part, number in data.items()})


def as_json(value: Any) -> str:
    """JSON that a person can read; what is no number is null."""
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
