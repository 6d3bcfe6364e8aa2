"""How tests look: names that can be searched for, nothing that waits for a clock."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
MAX_NAME = 60
# What kills and loses things waits until it may: for a file, and never for a time that is then compared.
MAY_SLEEP = {
    "cases/cluster/test_nodes.py", "support/fourmill_tests/clusters/nodes.py", "support/fourmill_tests/runs.py",
    "support/fourmill_tests/specialists.py",
}  # fmt: skip


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_names_of_tests_are_short() -> None:
    names = [one.name for path in FILES for one in functions(path) if one.name.startswith("test_")]
    assert not [name for name in names if len(name) >= MAX_NAME]


def test_names_of_tests_are_unique_in_their_file() -> None:
    """The second of a name would hide the first."""
    for path in FILES:
        names = Counter(one.name for one in functions(path) if one.name.startswith("test_"))
        assert not [name for name, count in names.items() if count > 1], path


def test_nothing_sleeps() -> None:
    sleeping = {
        str(path.relative_to(TESTS))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    }
    assert sleeping <= MAY_SLEEP
