"""Imports run one way, Ray stays at the edge, and the command line starts light."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("infra", "tokenize", "pipelines", "model", "train", "report")

# What each part may import of fourmill, itself aside. Root modules are named by their file.
ALLOWED: dict[str, set[str]] = {
    "infra": set(),
    "modalities": set(),
    "recipe": {
        "infra",
        "modalities",
        "recipe_checks",
        "pipelines",  # settings
        "tokenize",
        "train",
        "model",  # the names of schedules
    },
    "recipe_checks": {"infra", "modalities", "recipe", "tokenize", "train"},  # recipes for types
    "tokenize": {"infra", "modalities", "recipe"},
    "pipelines": {"infra", "modalities", "recipe", "tokenize"},
    "model": {"infra", "modalities"},
    "train": {"infra", "modalities", "recipe", "tokenize", "model"},
    "report": {"infra", "modalities", "recipe", "tokenize", "pipelines", "model", "train"},
    "jobs": {
        "infra",
        "modalities",
        "recipe",
        "tokenize",
        "pipelines",
        "train",
        "model",
    },
    "stages": {"infra", "modalities", "recipe", "tokenize", "pipelines", "train", "summaries", "jobs"},
    "summaries": {"infra", "report"},
}
TOP = {"cli", "demo", "downstream", "evaluation", "pages", "planning"}  # may import everything
MAY_IMPORT_RAY = ("infra/cluster.py", "pipelines/engine/driver.py", "train/")
HEAVY = ("torch", "ray", "cv2", "numpy", "pyarrow", "pydantic", "transformers", "tokenizers", "matplotlib", "jinja2")


def sources() -> list[Path]:
    return [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[tuple[str, ...]]:
    """Every module the file imports, anywhere in it, as absolute parts: ("fourmill", "infra", "storage")."""
    package = ("fourmill", *path.relative_to(ROOT).parts[:-1])
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    return found


def test_the_reader_of_imports_sees_relative_and_late_ones() -> None:
    found = imports(ROOT / "stages.py")
    assert ("fourmill", "infra", "ledger") in found
    assert ("fourmill", "train", "pretrain", "pretrain") in found  # inside a function


def test_every_root_module_has_its_place() -> None:
    modules = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert modules <= set(ALLOWED) | TOP


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_run_one_way(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {'.'.join(module)}"
        for path in sources()
        if part_of(path) == part
        for module in imports(path)
        if module[0] == "fourmill" and len(module) > 1 and module[1] not in ALLOWED[part] | {part, "__version__"}
    ]
    assert not wrong


def test_only_the_edge_imports_ray() -> None:
    importers = {str(p.relative_to(ROOT)) for p in sources() if any(module[0] == "ray" for module in imports(p))}
    assert {name for name in importers if not name.startswith(MAY_IMPORT_RAY)} == set()
    assert "infra/cluster.py" in importers


def test_imports_in_the_package_are_relative() -> None:
    wrong = [
        path.relative_to(ROOT)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "fourmill")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "fourmill" for alias in node.names))
    ]
    assert not wrong


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], []])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import json, sys\nfrom fourmill import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=os.environ)
    loaded = {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert not loaded & set(HEAVY)
    assert "fourmill" in done.stdout
