"""Side files: what stages and runs note beside their results, and no result depends on.

A damaged one never stops work: it is named, and counts as missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import Any

from . import storage

logger = logging.getLogger(__name__)


def read_object(url: str, names: Collection[str] = ()) -> dict[str, Any] | None:
    """The JSON object of a file that has these names; None if there is none, or it is damaged."""
    try:
        value = json.loads(storage.read_bytes(url))
        if not isinstance(value, dict) or not set(names) <= value.keys():
            raise ValueError(f"expected an object with {', '.join(names) or 'names'}")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        passed_over(url, error)
        return None
    return value


def read_lines(url: str, names: Collection[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines that have these names; lines that are damaged are left out."""
    try:
        data = storage.read_bytes(url)
    except FileNotFoundError:
        return []
    lines, bad = [], 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not set(names) <= value.keys():
                raise ValueError
            lines.append(value)
        except (ValueError, RecursionError):
            bad += 1
    if bad:
        passed_over(url, f"{bad} of its lines cannot be read")
    return lines


def passed_over(url: str, why: object) -> None:
    """Say that a file is damaged and counts as missing."""
    logger.warning("%s is damaged (%s); work goes on without it", url, why)
