"""The statistics of a sensor's bands, or of its numbers, that a tokenizer was fitted with: a row a band, for pages and
terminals. They are frozen at the fit, and lie in its config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..infra import side_files, storage
from .sparks import spark

NAMES = {
    "band": "band", "mean": "mean", "std": "deviation", "least": "least", "low": "2 %", "median": "median",
    "high": "98 %", "most": "most", "valid": "has a value", "histogram": "2 % to 98 %",
}  # fmt: skip


def rows(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the content of a config.json, [] if it has no statistics: by the names of `Statistics`, "band" first."""
    known = config.get("statistics") or {}
    bands = known.get("bands") or ()
    return [
        {name: (bands[i] or None) if name == "band" else _of(known.get(name), i) for name in NAMES}
        for i in range(len(bands))
    ]


def _of(values: Any, band: int) -> Any:
    return values[band] if isinstance(values, Sequence) and band < len(values) else None


def table(root: str, tokenizer: str) -> tuple[str, list[list[str]]]:
    """A title and the cells of a fitted tokenizer of a root, without rows if it has no statistics."""
    config = side_files.read_object(storage.join(root, "tokenizers", tokenizer, "config.json"))
    known = config and config.get("statistics")
    if not config or not known:
        return "", []
    parts = [
        known.get("unit") or "", f"{known.get('samples', 0):,} examples",
        "" if known.get("transform", "linear") == "linear" else f"mean and deviation of {known['transform']}",
    ]  # fmt: skip
    return f"{tokenizer}: {', '.join(filter(None, parts))}", [
        [_said(*one) for one in row.items()] for row in rows(config)
    ]


def _said(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "histogram":
        return spark(value)
    return value if isinstance(value, str) else f"{value:.0%}" if name == "valid" else f"{value:.4g}"
