"""The facts that `fourmill inspect` gathers, and how they are printed: one set of facts, as JSON or as tables and bars.

Decisions:
- Facts are plain JSON values and nothing is printed that is not among them, so that `--json` never says less.
- How a fact looks follows from its form: a histogram ({"edges", "counts"}) and counted names become bars, a list of
  mappings a table, a curve within a table a sparkline. A new fact needs no code here.
- Keys of facts are stable: what is not known is null, not left out. Numbers that are not finite are null, too.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..html.gallery import GallerySample
from ..sparks import spark
from ..terminal import bars, describe, heading, image_text, key_values, plain, sample_view

# Mappings from names to how often they occur, and lists that are curves over steps.
COUNTED = frozenset(("rejects", "labels", "extensions", "ignored", "shapes", "dtypes", "formats", "other_files"))
CURVES = frozenset(("history", "history_val", "histogram"))
MAX_BARS = 12
MAX_TABLE_ROWS = 40
TEXT_LIMIT = 600
SHOWN_NUMBERS = 12


@dataclass
class Inspection:
    """What a path holds.

    facts: JSON values; "path" and "kind" come first, "sample" (or null) says what row was looked at.
    pictures: (title, uint8 (H, W) or (H, W, 3)) of the sample, for terminals.
    label: (name, value) of the sample if it is a label, which terminals show in a form of its own.
    classes: lists of classes by label, where they are not the label's own.
    gallery: a sample with its image, labels and tokens; shown instead of facts["sample"].
    """

    facts: dict[str, Any]
    pictures: list[tuple[str, np.ndarray]] = field(default_factory=list)
    label: tuple[str, Any] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gallery: GallerySample | None = None


def clean(value: Any) -> Any:
    """`value` as JSON can say it: NumPy values become plain ones, numbers that are not finite null, keys strings."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def to_json(inspection: Inspection) -> str:
    """The facts as JSON text, in their order; NaN-free, and ASCII, so that no terminal is steered by it."""
    return json.dumps(clean(inspection.facts), indent=1, allow_nan=False)


def view(inspection: Inspection, *, width: int = 48, color: bool = True) -> RenderableType:
    """Everything of an inspection, to be printed by rich."""
    facts = clean(inspection.facts)
    title = Text(f"{plain(facts['kind'])}  ", "bold").append(plain(facts["path"]), "not bold")
    parts: list[RenderableType] = [heading(title)]
    parts += _section("", {name: value for name, value in facts.items() if name not in ("path", "kind", "sample")})
    sample = facts.get("sample")
    if inspection.gallery is not None:
        parts.append(Padding(sample_view(inspection.gallery, width=width, color=color), (1, 0, 0, 0)))
    elif sample:
        head = f"row {sample.get('row')}: {plain(sample.get('key'))}"
        parts.append(Padding(heading(Text(head, "bold")), (1, 0, 0, 0)))
        for title_, picture in inspection.pictures:
            image = image_text(picture, width=width, color=color)
            parts.append(Padding(Group(Text(plain(title_), "dim"), image), (1, 0, 0, 0)))
        hidden = ("row", "key", "value") if inspection.label else ("row", "key")
        shown = {name: value for name, value in sample.items() if name not in hidden}
        parts += _section("", shown)
        if inspection.label and inspection.label[1] is not None:
            described = describe(*inspection.label, color=color, classes=inspection.classes)
            parts.append(key_values([(inspection.label[0], described)]))
    return Group(*parts)


def show(inspection: Inspection, console: Console | None = None) -> None:
    """Print an inspection; colours follow what the console can do. Pipes and files get lines of 120 characters."""
    console = console or Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    color = console.color_system is not None
    console.print(view(inspection, width=min(48, console.width), color=color))


def _section(title: str, facts: Mapping[str, Any]) -> list[RenderableType]:
    """Values of one mapping in two columns, then what is larger than a line, each under its name.

    What is unknown or empty is left out: in a terminal it would only hide the rest.
    """
    lines = [(_name(name), _cell(value)) for name, value in facts.items() if not _is_block(value) and _is_known(value)]
    parts: list[RenderableType] = []
    if lines:
        parts.append(_titled(title, key_values(lines)) if title else key_values(lines))
    for name, value in facts.items():
        if _is_block(value) and value:
            parts += _block(name, value)
    return parts


def _block(name: str, value: Any) -> list[RenderableType]:
    title = _name(name)
    if isinstance(value, list):
        if name == "crops":
            return [part for crop in value for part in _section(f"crop {crop.get('crop')}", _without(crop, "crop"))]
        return [_titled(title, _table(value))]
    if name in COUNTED and all(isinstance(count, int) for count in value.values()):
        ordered = sorted(value.items(), key=lambda item: (-item[1], item[0]))
        rows = [(plain(key, TEXT_LIMIT), float(count)) for key, count in ordered[:MAX_BARS]]
        if rest := sum(count for _, count in ordered[MAX_BARS:]):
            rows.append((f"{len(ordered) - MAX_BARS} others", float(rest)))
        return [_titled(title, bars(rows))]
    if "counts" in value and "edges" in value:
        low, mean, high = (_cell(value.get(part)) for part in ("min", "mean", "max"))
        odd = f", {value['not_finite']:,} not finite" if value.get("not_finite") else ""
        about = f"{title}: {low} to {high}, mean {mean}{odd}"
        return [_titled(about, bars(_bins(value["edges"], value["counts"])))]
    return _section(title, value)


def _without(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != name}


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Padding(Group(Text(plain(title), "bold"), body), (1, 0, 0, 0))


def _bins(edges: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """A name for each bin; bins of whole numbers, [low, high), are named by the numbers they hold."""
    names = []
    for low, high in itertools.pairwise(edges):
        if isinstance(low, int) and isinstance(high, int):
            names.append(f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}")
        else:
            names.append(f"{low:.4g} to {high:.4g}")
    return [(name, float(count)) for name, count in zip(names, counts, strict=True)]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        # The first column names the row; cut in pieces it would be hard to read.
        table.add_column(
            Text(plain(_name(name)), "dim"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=name == names[0] and all(len(str(row.get(name))) <= 32 for row in rows),
        )
    for row in rows[:MAX_TABLE_ROWS]:
        cells = (spark(row[name]) if name in CURVES and row.get(name) else _cell(row.get(name)) for name in names)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    if len(rows) > MAX_TABLE_ROWS:
        table.add_row(f"... and {len(rows) - MAX_TABLE_ROWS} more")
    return table


def _is_known(value: Any) -> bool:
    return value is not None and value != [] and value != ""


def _is_block(value: Any) -> bool:
    """Whether a value takes more than a line: mappings and lists of mappings."""
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _name(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list):
        items = [str(item) for item in value[:SHOWN_NUMBERS]]
        more = f" ... ({len(value):,})" if len(value) > SHOWN_NUMBERS else ""
        separator = " " if all(isinstance(item, int | float) for item in value) else ", "
        return plain(separator.join(items), TEXT_LIMIT) + more
    return plain(value, TEXT_LIMIT)
