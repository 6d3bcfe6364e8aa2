"""What came of a stage, and the closing tables: what was made, what was rejected and why, what is missing and why."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..infra.progress import duration
from ..pipelines.reject import UNREAD

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MAX_ROWS = 40


@dataclass
class Summary:
    """What came of a stage.

    Attributes:
        made, existed: counts of outputs.
        missing: what is asked for and not there, with the reason.
        rejects: reason (without its numbers) -> how many, over all outputs of the stage that exist.
        samples: how many samples were processed now.
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
    from rich.table import Table

    out = console(120)
    table = Table(title="what was done", title_justify="left")
    for column, right in (("stage", False), ("made", True), ("there before", True), ("missing", True), ("time", True)):
        table.add_column(column, justify="right" if right else "left")
    for s in summaries:
        table.add_row(s.stage, str(s.made), str(s.existed), str(len(s.missing)), duration(s.seconds))
    out.print(table)
    # Notes hold paths: on lines of their own they can be copied whole.
    for s in summaries:
        for note in s.notes:
            out.print(text(f"{s.stage}: {note}"), soft_wrap=True)
    _show_rejects(out, summaries)
    missing = {f"{s.stage}: {what}": why for s in summaries for what, why in s.missing.items()}
    if missing:
        out.print(reasons("missing", "what", missing))
    return 1 if missing else 0


def _show_rejects(out: Console, summaries: Sequence[Summary]) -> None:
    from rich.table import Table

    rejects: dict[str, int] = {}
    for s in summaries:
        for reason, count in s.rejects.items():
            rejects[reason] = max(count, rejects.get(reason, 0))
    for reason in [reason for reason in rejects if UNREAD in reason]:
        shards = rejects.pop(reason)
        names = reason.partition(UNREAD)[2].replace(" (N)", "")
        say = f"members that nothing reads: {names} ({shards} shard{'s' if shards != 1 else ''})"
        out.print(text(say), soft_wrap=True)
    if not rejects:
        return
    table = Table(title="rejects (null in that output; each with its key in the ledger)", title_justify="left")
    table.add_column("output: reason", overflow="fold")
    table.add_column("samples", justify="right")
    ordered = sorted(rejects.items(), key=lambda item: -item[1])
    for reason, count in ordered[:MAX_ROWS]:
        table.add_row(text(reason), str(count))
    if len(ordered) > MAX_ROWS:
        table.add_row(f"... and {len(ordered) - MAX_ROWS} other reasons", "")
    out.print(table)


def reasons(title: str, what: str, rows: Mapping[str, str]) -> Table:
    """A table of names and the reason of each."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(what, overflow="fold")
    table.add_column("why", overflow="fold")
    for name, why in list(rows.items())[:MAX_ROWS]:
        table.add_row(text(name), text(why))
    if len(rows) > MAX_ROWS:
        table.add_row(f"... and {len(rows) - MAX_ROWS} more", "")
    return table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(text(cell) for cell in row))
    return made


def console(width: int) -> Console:
    """A console as wide as the terminal, or of a fixed width where the output goes to a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def text(value: str) -> Text:
    """Text from the data, which must not be read as markup or move the cursor."""
    from rich.text import Text

    from ..infra.secrets import hide
    from ..report.terminal import plain

    return Text(plain(hide(value)))
