"""docs/architecture.md names files and functions that exist, and every folder of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_PLACE = re.compile(r"`((?:\w+/)*\w+\.py)(?::([\w.]+))?`")


def _defined(path: Path) -> set[str]:
    """Functions and classes of a module, with their methods as "Class.method"."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("page", ["architecture", "modalities", "decisions"])
def test_files_and_functions_that_a_page_names_exist(guide: Callable[[str], Any], page: str) -> None:
    missing = []
    for name, function in _PLACE.findall(guide(page).text):
        path = ROOT / name
        if not path.is_file() or (function and function not in _defined(path)):
            missing.append(f"{name}:{function}")
    assert not missing


def test_the_architecture_names_every_folder(guide: Callable[[str], Any]) -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")}
    folders -= {name for name in folders if name.startswith(".")} | {"tests", "benchmarks", "docs", "build"}
    assert {name for name in folders if f"`{name}/" not in guide("architecture").text} == set()
