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
NO_SOURCES = {"tests", "benchmarks", "docs", "build", "dist", "demo"}

# From the lowest: a folder (or module of the root) imports only lower ones and itself.
ORDER = (
    ("infra",),
    ("coco",),
    ("modalities",),
    ("sensors",),
    ("tokenize",),
    ("pipelines", "model"),
    ("train",),
    ("recipe",),
    ("derived",),
    ("project",),
    ("report",),
    ("runs",),
    ("verbs",),
    ("cli",),
)
MAY_IMPORT_RAY = (
    "infra/cluster.py", "infra/submission/jobs.py", "pipelines/engine/actor.py", "pipelines/engine/meters.py",
    "pipelines/engine/nodes.py", "train/",
)  # fmt: skip
HEAVY = (
    "torch", "ray", "cv2", "numpy", "pyarrow", "pydantic", "transformers", "tokenizers", "matplotlib", "jinja2", "rich",
    "yaml", "fsspec",
)  # fmt: skip


def sources() -> list[Path]:
    """Every module of the package, in whatever folder it lies."""
    folders = [f for f in ROOT.iterdir() if f.is_dir() and f.name not in NO_SOURCES and f.name[0] not in "._"]
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[tuple[str, ...]]:
    """Every module the file imports, anywhere in it, as absolute parts: ("fourmill", "infra", "storage")."""
    package = ("fourmill", *path.relative_to(ROOT).parts[:-1])
    imported: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            imported |= {(*module, alias.name) for alias in node.names}
    return imported


def graph() -> dict[str, set[str]]:
    """Which module imports which, types and late imports included."""
    modules = {".".join(("fourmill", *path.relative_to(ROOT).with_suffix("").parts)): path for path in sources()}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        # ("fourmill", "infra", "storage", "exists") is an import of the module before the last name.
        named = {".".join(parts[:cut]) for parts in imports(path) for cut in (len(parts), len(parts) - 1)}
        edges[name] = (named & modules.keys()) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> set[frozenset[str]]:
    """Sets of modules each of which is reached from each other one."""
    reached = {}
    for start in edges:
        seen, todo = set(), [start]
        while todo:
            new = edges[todo.pop()] - seen
            seen |= new
            todo += new
        reached[start] = seen
    return {frozenset(other for other in seen if start in reached[other]) for start, seen in reached.items()} - {
        frozenset()
    }


def test_the_reader_of_imports_sees_late_ones() -> None:
    imported = imports(ROOT / "verbs" / "make" / "train.py")
    assert ("fourmill", "project", "Project") in imported
    assert ("fourmill", "train", "pretrain", "pretrain") in imported  # inside a function


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {frozenset("bc")}


def test_no_import_circle_between_modules() -> None:
    assert not circles(graph())


def test_every_folder_has_its_place() -> None:
    assert {part_of(path) for path in sources()} - {"__init__"} <= {name for level in ORDER for name in level}


def test_imports_run_one_way() -> None:
    level = {name: number for number, names in enumerate(ORDER) for name in names}
    wrong = []
    for path in sources():
        part = part_of(path)
        for module in imports(path):
            if module[0] != "fourmill" or len(module) == 1 or part == "__init__":
                continue
            target = module[1]
            if target in ("__version__", part):
                continue
            if level[target] > level[part] or (level[target] == level[part] and (ROOT / part).is_dir()):
                wrong.append(f"{path.relative_to(ROOT)} imports {'.'.join(module)}")
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


def test_verbs_do_not_hide_the_standard_library() -> None:
    """verbs/ holds tokenize.py and inspect.py: with its folders' names as packages they stay below fourmill."""
    script = (
        "import sys, sysconfig\nsys.path[:0] = sys.argv[1:]\nfrom fourmill import cli\ncli.parser()\n"
        "import inspect, tokenize\nhome = sysconfig.get_path('stdlib')\n"
        "assert inspect.__file__.startswith(home) and tokenize.__file__.startswith(home)\n"
        "assert {'fourmill.verbs.make.tokenize', 'fourmill.verbs.look.inspect'} <= set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(ROOT / "verbs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_a_run_with_nothing_to_do_loads_no_torch(tmp_path: Path) -> None:
    """Importing torch takes longer than finding that all is there."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("root: out\nsamples: a.tar\nmodalities: [rgb, tok_rgb, tok_depth, caption]\n")
    modules = ("project", "verbs.pages", "verbs.make.run", "train.pretrain.job", "train.downstream.generation_job")
    script = "import sys\n" + "".join(f"import fourmill.{name}\n" for name in modules)
    script += f"recipe = fourmill.recipe.load({str(recipe)!r})\nfourmill.project.Project(recipe)\n"
    script += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=os.environ)
    assert done.stdout == "False\n", done.stderr


def test_training_and_generation_load_no_compiler() -> None:
    """torch.compile costs two seconds in each process that loads it: workers on CPUs have no use for it."""
    modules = (
        "train.pretrain.pretrain",
        "train.tokenizers.fit",
        "train.downstream.generation",
        "runs.run",
        "report.results",
    )
    script = "import sys\n" + "".join(f"import fourmill.{name}\n" for name in modules)
    script += "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=os.environ)
    assert done.stdout == "[]\n", done.stderr
