"""What `train.select` leaves of the samples that are labelled, as `plan` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import summary

if TYPE_CHECKING:
    from ..infra.ledger import Entry
    from ..project import Project


def describe(project: Project, done: Mapping[tuple[str, str], Entry]) -> dict[str, Any] | None:
    """How many samples are left, and for how many each clause is true, false or unknown; None without `train.select`.

    Args:
        done: records of the recipe's labels, which say why a value is missing.
    """
    if (found := project.selection()) is None:
        return None
    shards, asked = found.shards, found.expression.labels
    nulls = Counter[str]()
    for (output, shard), record in done.items():
        if shard in shards and output.removeprefix("labels/") in asked:
            nulls.update(record.reasons)
    lacking = {label: sum(done[f"labels/{label}", shard].nulls for shard in shards) for label in asked}
    for name in (one for one in found.expression.names if "." in one):
        known = sum(one.known[name] for one in shards.values())
        if silent := found.rows - known - lacking[name.partition(".")[0]]:
            nulls[f"{name}: its label says nothing of it"] = silent
    return {
        "expression": found.expression.text,
        "samples": found.rows,
        "left": found.count,
        "shards": len(shards),
        "of_shards": len(project.shards.splits["train"]),
        "clauses": [
            dict(zip(("clause", "true", "false", "unknown"), clause, strict=True)) for clause in found.clauses()
        ],
        "nulls": dict(nulls.most_common()),
    }


def show(console: Any, selected: dict[str, Any]) -> None:
    """Print it."""
    of = f"{selected['shards']} of {selected['of_shards']} training shards have these labels"
    if not selected["shards"]:
        console.print(summary.text(f"train.select: {selected['expression']}: none of the shards has its labels yet"))
        return
    share = selected["left"] / max(1, selected["samples"])
    title = f"train.select leaves {selected['left']:,} of {selected['samples']:,} samples ({share:.1%}); {of}"
    rows = [
        (one["clause"], *(f"{one[name]:,}" for name in ("true", "false", "unknown"))) for one in selected["clauses"]
    ]
    console.print(summary.table(title, ("clause", "true", "false", "unknown"), rows))
    for reason, count in selected["nulls"].items():
        console.print(summary.text(f"without a value, {count:,} of them: {reason}"))
