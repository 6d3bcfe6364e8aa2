"""What fourmill asks of a GPU, counted in advance: exact, in seconds, on any machine, without a GPU.

    python benchmarks/counts.py [--only 4m7_xl ...]

Each file of benchmarks/counted/ counts the rows of one table, and says what its columns are. Less is better in all of
them. The most that a column may be stands in benchmarks/counts.json: by table, and for a row of it by "table: row",
which counts more; a test holds it. To count something else, add a file with TITLE and ROWS (row -> a function that
returns {column: number}).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from circumstances import ROOT, state

sys.path.insert(0, str(ROOT / "tests/support"))  # the counters, which tests use as well

Counts = Mapping[str, float]
FOLDER = Path(__file__).parent / "counted"
MOST: dict[str, dict[str, float]] = json.loads(Path(__file__).with_suffix(".json").read_text())


def tables(only: Sequence[str]) -> dict[str, tuple[str, dict[str, Callable[[], Counts]]]]:
    """Name of a file -> title, and the functions of its rows; those alone whose name, or table's, is in `only`, if
    that names any."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"counted.{path.stem}")
        rows = {row: count for row, count in module.ROWS.items() if not only or path.stem in only or row in only}
        if rows:
            found[path.stem] = module.TITLE, rows
    return found


def above(table: str, row: str, counts: Counts) -> list[str]:
    """What is more than it may be."""
    most = MOST.get(table, {}) | MOST.get(f"{table}: {row}", {})
    unknown = most.keys() - counts.keys()
    assert not unknown, f"counts.json has {', '.join(sorted(unknown))} for {table}, which {row} does not count"
    return [f"{table}: {row}: {name}" for name, limit in most.items() if counts[name] > limit]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of rows, or of files of benchmarks/counted")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    begin, over = time.perf_counter(), list[str]()
    for table, (title, rows) in tables(args.only).items():
        counts = {row: count() for row, count in rows.items()}
        names = list(dict.fromkeys(name for row in counts.values() for name in row))
        print(f"{title}\n\n| row | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for row, values in counts.items():
            shown = (f"{values[name]:.3g}" if name in values else "" for name in names)
            print(f"| {row} | {' | '.join(shown)} |", flush=True)
            over += above(table, row, values)
        print()
    print(
        f"counted in {time.perf_counter() - begin:.0f} s; above benchmarks/counts.json: {', '.join(over) or 'nothing'}"
    )


if __name__ == "__main__":
    main()
