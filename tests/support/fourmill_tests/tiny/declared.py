"""Modules that declare modalities, for a while: the tables are global, and other tests count what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fourmill.modalities import LABELS, MODALITIES, TOKENIZERS
from fourmill.sensors.declared import SENSORS


@contextmanager
def forgotten() -> Iterator[list[str]]:
    """What is declared within is forgotten at its end, with the modules whose names were added to the list."""
    tables: tuple[dict[str, Any], ...] = (LABELS, MODALITIES, TOKENIZERS, SENSORS)
    before, names = [dict(table) for table in tables], list[str]()
    yield names
    for name in names:
        sys.modules.pop(name, None)
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)
