"""Curves in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # eighths of a block, from low to high
SPARK_WIDTH = 24


def spark(values: Sequence[float | None]) -> str:
    """A curve in one line, the lowest value at the bottom; longer ones are thinned, the last value always stays."""
    if len(values) > SPARK_WIDTH:
        values = [values[round(i * (len(values) - 1) / (SPARK_WIDTH - 1))] for i in range(SPARK_WIDTH)]
    numbers = [value for value in values if value is not None]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else SPARKS[round((value - low) * scale)] for value in values)
