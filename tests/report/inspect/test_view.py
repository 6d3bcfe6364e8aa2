"""How facts are printed: nothing is lost on the way."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fourmill.report import sparks
from fourmill.report.inspect import view

LONG = "/data/" + "folder-with-a-long-name/" * 12 + "00000.parquet"
PLACES = {
    "path": {"path": LONG},
    "title of a sample": {"sample": {"row": 0, "key": LONG}},
    "value": {"recipe": LONG},
    "list": {"notes": [LONG]},
    "first column of a table": {"outputs": [{"output": LONG, "rows": 3}]},
    "second column of a table": {"outputs": [{"output": "tokens/rgb", "problem": LONG}]},
    "name of a bar": {"rejects": {f"tokens/rgb: no file {LONG}": 3}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("width", [60, 120])
def test_long_paths_are_printed_whole(place: str, width: int) -> None:
    sink = io.StringIO()
    facts = {"path": "p", "kind": "folder", "sample": None} | PLACES[place]
    view.show(view.Inspection(facts), Console(file=sink, width=width))
    text = sink.getvalue()
    # Folded lines stand in columns: without spaces and bars the pieces of a path follow each other.
    assert LONG in "".join(line.replace("\u2588", " ").strip().split("  ")[0] for line in _column(text, LONG[:10]))
    assert "\u2026" not in text


def _column(text: str, start: str) -> list[str]:
    """The lines of a table's column that begins with a word."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if start in line)
    left = lines[first].index(start)
    return [line[left:] for line in lines[first:]]


def test_spark_keeps_the_ends() -> None:
    assert sparks.spark([0.0, 7.0]) == sparks.SPARKS[0] + sparks.SPARKS[7]
    curve = sparks.spark([float(i) for i in range(1000)])
    assert len(curve) == sparks.SPARK_WIDTH and curve[-1] == sparks.SPARKS[-1]
    assert sparks.spark([1.0, None, 1.0]) == sparks.SPARKS[0] + " " + sparks.SPARKS[0]
