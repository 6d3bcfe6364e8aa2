"""Statistics of `fourmill inspect`: pure functions from tokens and labels to JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...modalities import Kind
from ...tokenize.store import Column
from ...train.tokenizers.usage import usage

BINS = 10
MOST_FREQUENT = 10
MAX_SHAPES = 12  # pictures of the web have as many sizes as there are pictures


def histogram(values: Sequence[float] | np.ndarray) -> dict[str, Any] | None:
    """{"min", "mean", "max", "not_finite", "edges", "counts"} of numbers; None of none.

    Bin i holds edges[i] <= value < edges[i + 1]; the last one of real numbers includes its upper edge. Bins of whole
    numbers have whole edges and equal widths, so that no bin is fuller for holding more numbers.
    """
    numbers = np.asarray(values).reshape(-1)
    if not numbers.size:
        return None
    whole = np.issubdtype(numbers.dtype, np.integer) or numbers.dtype == np.bool_
    finite = numbers.astype(np.int64) if whole else numbers[np.isfinite(numbers)].astype(np.float64)
    if not finite.size:
        return {"min": None, "mean": None, "max": None, "not_finite": numbers.size, "edges": [], "counts": []}
    low, high = finite.min(), finite.max()
    if whole:
        width = max(1, -(-int(high - low + 1) // BINS))
        edges = np.arange(low, high + width + 1, width)
    else:
        edges = np.histogram_bin_edges(finite, BINS)
    counts = np.histogram(finite, edges)[0]
    return {
        "min": low.item(),
        "mean": float(finite.mean()),
        "max": high.item(),
        "not_finite": int(numbers.size - finite.size),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def spread(arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """{"min", "mean", "std", "max", "not_finite"} over all numbers of some arrays; null where there are none."""
    count, total, squares, low, high, odd = 0, 0.0, 0.0, np.inf, -np.inf, 0
    for array in arrays:
        numbers = np.asarray(array, np.float64).reshape(-1)
        finite = numbers[np.isfinite(numbers)]
        odd += numbers.size - finite.size
        if finite.size:
            count, total, squares = count + finite.size, total + finite.sum(), squares + (finite**2).sum()
            low, high = min(low, finite.min()), max(high, finite.max())
    if not count:
        return {"min": None, "mean": None, "std": None, "max": None, "not_finite": odd}
    mean = total / count
    deviation = max(squares / count - mean**2, 0.0) ** 0.5
    return {"min": float(low), "mean": float(mean), "std": float(deviation), "max": float(high), "not_finite": odd}


def of_columns(columns: Sequence[Column], word: Callable[[int], str | None]) -> dict[str, Any]:
    """Statistics of one modality's columns (or parts of them), which have one kind and vocabulary.

    Args:
        word: what a token id stands for, None if that is unknown.

    Returns: {"samples", "nulls", "length" (of a crop, in tokens, bytes or vectors), "vocabulary", "most_frequent",
    "outside_vocabulary" (tokens, 0 in a sound column), "values" (embeddings)}.
    """
    spec = columns[0].spec
    valid = sum(int(column.valid.sum()) for column in columns)
    lengths = np.concatenate([column.lengths[column.valid].reshape(-1) for column in columns])
    facts: dict[str, Any] = {
        "samples": sum(map(len, columns)),
        "nulls": sum(map(len, columns)) - valid,
        # Every crop of a grid has the same length: nothing to draw.
        "length": None if spec.kind is Kind.GRID else histogram(lengths),
        "vocabulary": None,
        "most_frequent": [],
        "outside_vocabulary": 0,
        "values": None,
    }
    if spec.kind is Kind.EMBEDDING:
        facts["values"] = spread([column.values for column in columns])
    elif spec.kind is not Kind.PIXELS:
        counts = np.zeros(spec.vocab_size, np.int64)
        for column in columns:
            ids = column.values[column.valid] if spec.kind is Kind.GRID else column.values
            occurring = np.bincount(ids.reshape(-1), minlength=spec.vocab_size)
            counts += occurring[: spec.vocab_size]
            facts["outside_vocabulary"] += int(occurring[spec.vocab_size :].sum())
        facts["vocabulary"] = usage(counts)
        facts["most_frequent"] = most_frequent(counts, word)
    return facts


def most_frequent(counts: np.ndarray, word: Callable[[int], str | None]) -> list[dict[str, Any]]:
    """The ids that occur most, with their words; equal counts in the order of ids."""
    order = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
    total = int(counts.sum())
    chosen = [int(i) for i in order if counts[i]]
    return [{"id": i, "word": word(i), "count": int(counts[i]), "share": int(counts[i]) / total} for i in chosen]


def of_labels(values: Sequence[Any]) -> dict[str, Any]:
    """Statistics of label values in memory, by their form: texts, pictures and arrays, mappings of numbers, lists.

    Returns: {"samples", "nulls"} and what the form allows: "characters", "distinct"; "shapes" (or "height",
    "width", if there are many), "dtypes", "values"; "length", "labels" (of items that have one), "score"; "fields"
    (each with count, min, mean, max).
    """
    there = [value for value in values if value is not None]
    facts: dict[str, Any] = {"samples": len(values), "nulls": len(values) - len(there)}
    if not there:
        return facts
    if all(isinstance(value, np.ndarray) for value in there):
        shapes = Counter(" x ".join(map(str, value.shape)) for value in there)
        facts["shapes"] = dict(shapes) if len(shapes) <= MAX_SHAPES else {}
        for axis, name in enumerate(("height", "width") if len(shapes) > MAX_SHAPES else ()):
            facts[name] = histogram(np.array([value.shape[axis] for value in there if value.ndim > axis], np.int64))
        facts["dtypes"] = dict(Counter(str(value.dtype) for value in there))
        facts["values"] = spread(there)
    elif all(isinstance(value, str) for value in there):
        facts["characters"] = histogram(np.array([len(value) for value in there]))
        facts["distinct"] = len(set(there))
    elif all(isinstance(value, dict) for value in there):
        facts["fields"] = _fields(there)
    elif all(isinstance(value, list) for value in there):
        facts["length"] = histogram(np.array([len(value) for value in there]))
        items = [item for value in there for item in value if isinstance(item, dict)]
        facts["labels"] = dict(Counter(str(item["label"]) for item in items if "label" in item))
        scores = [item["score"] for item in items if isinstance(item.get("score"), int | float)]
        facts["score"] = histogram(np.array(scores, np.float64))
    return facts


def _fields(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(name for value in values for name in value):
        numbers = [value[name] for value in values if isinstance(value.get(name), int | float)]
        summary = spread([np.array(numbers, np.float64)])
        rows.append({"field": name, "count": len(numbers), **{part: summary[part] for part in ("min", "mean", "max")}})
    return rows
