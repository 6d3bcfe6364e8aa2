"""What the verbs print at their end: what was made, what was rejected and why, what is missing and why."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .infra.progress import duration

MAX_ROWS = 40


@dataclass
class Summary:
    """What came of a stage.

    made, existed: counts of outputs. missing: what is asked for and not there, with the reason. rejects: reason
    (without its numbers) -> how many, over all outputs of the stage that exist.
    """

    stage: str
    made: int = 0
    existed: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.missing


def show(summaries: Sequence[Summary]) -> int:
    """Print the closing tables. Returns the exit status: 0 only if everything that was asked for exists."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title="what was done", title_justify="left")
    for column, right in (("stage", False), ("made", True), ("there before", True), ("missing", True), ("time", True)):
        table.add_column(column, justify="right" if right else "left")
    table.add_column("notes")
    for s in summaries:
        counts = [str(s.made), str(s.existed), str(len(s.missing))]
        table.add_row(s.stage, *counts, duration(s.seconds), Text("\n").join(_plain(note) for note in s.notes))
    console.print(table)
    _rejects(console, summaries)
    missing = {f"{s.stage}: {what}": why for s in summaries for what, why in s.missing.items()}
    if missing:
        console.print(_reasons("missing", "what", missing))
    return 1 if missing else 0


def _rejects(console: Any, summaries: Sequence[Summary]) -> None:
    from rich.table import Table

    rejects: dict[str, int] = {}
    for s in summaries:
        for reason, count in s.rejects.items():
            rejects[reason] = max(count, rejects.get(reason, 0))
    if not rejects:
        return
    table = Table(title="rejects (null in that output; each with its key in the ledger)", title_justify="left")
    table.add_column("output: reason", overflow="fold")
    table.add_column("samples", justify="right")
    ordered = sorted(rejects.items(), key=lambda item: -item[1])
    for reason, count in ordered[:MAX_ROWS]:
        table.add_row(_plain(reason), str(count))
    if len(ordered) > MAX_ROWS:
        table.add_row(f"... and {len(ordered) - MAX_ROWS} other reasons", "")
    console.print(table)


def _reasons(title: str, what: str, reasons: dict[str, str]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(what, overflow="fold")
    table.add_column("why", overflow="fold")
    for name, why in list(reasons.items())[:MAX_ROWS]:
        table.add_row(_plain(name), _plain(why))
    if len(reasons) > MAX_ROWS:
        table.add_row(f"... and {len(reasons) - MAX_ROWS} more", "")
    return table


def _plain(text: str) -> Any:
    """Text from the data, which must not be read as markup or move the cursor."""
    from rich.text import Text

    from .report.terminal import plain

    return Text(plain(text))


def show_status(status: dict[str, Any], as_json: bool) -> int:
    """Print `stages.status`. Returns 0 only if nothing is missing."""
    from rich.console import Console
    from rich.table import Table

    missing: dict[str, str] = status["missing"]
    if as_json:
        print(json.dumps(status, indent=1, ensure_ascii=False))
        return 1 if missing else 0
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=_plain(f"{status['root']}: {status['shards']} shards"), title_justify="left")
    for column in ("output", "shards", "rows", "nulls", "bytes", "state"):
        table.add_column(column, justify="left" if column in ("output", "state") else "right")
    for row in status["outputs"]:
        state = "complete" if row["done"] == row["asked"] else f"{row['asked'] - row['done']} missing"
        numbers = [f"{row[name]:,}" for name in ("rows", "nulls", "bytes")]
        table.add_row(row["output"], f"{row['done']}/{row['asked']}", *numbers, state)
    console.print(table)
    if missing:
        console.print(_reasons("missing", "what", missing))
    return 1 if missing else 0
